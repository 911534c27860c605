"""Networks that run in integers."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _native
from ._native import Error


class Class(NamedTuple):
    """A class and how likely it is."""

    index: int
    name: str | None
    #: From 0 to 1; the output itself where no probability follows from the outputs.
    probability: float


class Prediction(list):
    """The likeliest classes of one image, best first."""

    def __str__(self):
        return "\n".join(f"{100 * c.probability:5.1f} %  {c.name or f'class {c.index}'}" for c in self)

    def _repr_html_(self):
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(c.name or f'class {c.index}')}</td><td>{100 * c.probability:.1f} %</td>"
            f"<td><meter value='{min(max(c.probability, 0), 1):.4f}'></meter></td></tr>"
            for c in self
        )
        return f"<table><tbody>{rows}</tbody></table>"


class Model:
    """A network that is ready to run; `dsconv.load` makes it. Threads may share one: it runs one call at a time."""

    def __init__(self, native: _native.Model, file: str, size: int):
        self._native = native
        self.file = file
        self._size = size

    @property
    def size(self):
        """The bytes of the file."""
        return self._size

    @property
    def name(self):
        return self._native.name

    @property
    def source(self):
        """Where the weights came from."""
        return self._native.source

    @property
    def classes(self):
        """The names of the classes; none where the file does not say them."""
        return self._native.classes

    @property
    def shape(self):
        """The shape of an input, `(C, H, W)`."""
        return self._native.shape

    @property
    def outputs(self):
        return self._native.outputs

    @property
    def parameters(self):
        return self._native.parameters

    @property
    def kernel(self):
        """The instructions of this CPU that the engine uses."""
        return self._native.kernel

    @property
    def weight_bits(self):
        """The bits of a weight in most layers; `None` for a network in floats."""
        return self._native.widths[0] if self._native.widths else None

    @property
    def activation_bits(self):
        """The bits of an activation in most layers; 0 where they are floats."""
        return self._native.widths[1] if self._native.widths else None

    def predict(self, images):
        """Returns the logits of `[N, C, H, W]` float32 as `[N, outputs]`, or of one `[C, H, W]` as `[outputs]`.

        The values are those of a network's input: `model.input(image)` makes them of a picture.
        """
        images, native = np.asarray(images), self._native
        if images.dtype != np.float32:
            raise Error(f"the array has the type {images.dtype}: expected float32, see `Model.input` for pictures")
        if images.ndim not in (3, 4) or images.shape[-3:] != native.shape:
            expected = ", ".join(map(str, native.shape))
            raise Error(f"the array has the shape {list(images.shape)}: expected [N, {expected}] or [{expected}]")
        if images.size == 0:
            return np.empty((0, native.outputs), np.float32)
        logits = native.run(np.ascontiguousarray(images).reshape(-1))
        return logits[0] if images.ndim == 3 else logits

    def input(self, image):
        """Makes the input `[C, H, W]` of a picture: it is resized, cropped and normalised as the file says.

        A picture is the path of a JPEG, PNG, BMP or WebP file, the bytes of one, an image of Pillow, or a uint8 array
        `[H, W]`, `[H, W, 3]` or `[H, W, 4]`. A file has the same input as on the command line; Pillow's decoder may differ in
        a bit.
        """
        return self._native.input(picture(image)).reshape(self.shape)

    def classify(self, image, top=5):
        """Returns the `top` likeliest classes of a picture, best first; for a list of pictures, a list of them."""
        if isinstance(image, Sequence) and not isinstance(image, (str, bytes, bytearray, memoryview)):
            return [self.classify(one, top) for one in image]
        probabilities = np.asarray(self._native.probabilities(self.predict(self.input(image))))
        order = np.argsort(-probabilities, kind="stable")[:top]
        names = self.classes or [None] * len(probabilities)
        return Prediction(Class(int(i), names[i], float(probabilities[i])) for i in order)

    def verify(self):
        """Runs the input that the `.dsc` file stores. Returns whether it stores one.

        Raises `dsconv.Error` unless the logits are the stored ones, to the bit.
        """
        return self._native.verify(Path(self.file).read_bytes())

    def _facts(self):
        bits = "32-bit floats"
        if self.weight_bits is not None:
            activations = f"{self.activation_bits}-bit activations" if self.activation_bits else "activations in floats"
            bits = f"{self.weight_bits}-bit weights, {activations} in most layers"
        return {
            "network": f"{self.name}, {self.parameters:,} parameters",
            "file": f"{self.file}, {self.size / 1e6:.2f} MB",
            "numbers": bits,
            "input": " x ".join(map(str, self.shape)),
            "classes": len(self.classes) or f"{self.outputs} outputs without names",
            "kernel": self.kernel,
        }

    def __repr__(self):
        return f"<dsconv.{type(self).__name__} {self.name}: {self._facts()['numbers']}, input {self._facts()['input']}>"

    def _repr_html_(self):
        return table(self._facts().items())


def table(rows, head=()):
    """Writes rows of cells as an HTML table. Figures are on the right, names and sentences on the left."""

    def row(cells, tag):
        def cell(value, tag):
            side = "left" if isinstance(value, str) else "right"
            value = f"{value:,}" if isinstance(value, int) else value
            return f"<{tag} style='text-align:{side}'>{html.escape(str(value))}</{tag}>"

        first, *rest = cells
        return f"<tr>{cell(first, 'th')}{''.join(cell(value, tag) for value in rest)}</tr>"

    top = f"<thead>{row(head, 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"


def picture(image):
    """Decodes a picture: a path, the bytes of a file, an image of Pillow, or a uint8 array."""
    if isinstance(image, (str, os.PathLike)):
        data = Path(image).read_bytes()
        try:
            return _native.Picture.decode(data)
        except Error as error:
            raise Error(f"`{os.fspath(image)}`: {error}") from None
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _native.Picture.decode(bytes(image))
    pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise Error(f"the array is {pixels.dtype} {list(pixels.shape)}: expected uint8 [H, W], [H, W, 3] or [H, W, 4]")
    pixels = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return _native.Picture.from_rgb(pixels.shape[1], pixels.shape[0], pixels.tobytes())


def load(path, threads=0):
    """Loads a model's file, `.dsc` or packed safetensors, to run it on `threads` threads; 0 is one for each core."""
    data = Path(path).read_bytes()
    try:
        native = _native.Model(data, threads or os.cpu_count() or 1)
    except Error as error:
        raise Error(f"`{os.fspath(path)}`: {error}") from None
    return Model(native, os.fspath(path), len(data))
