"""Runs networks that DSConv has quantized, in integers, with the same bits on every CPU.

    import dsconv

    model = dsconv.load("model.dsc")
    model.classify("cat.jpg")          # the likeliest classes
    model.predict(array)               # logits of [N, C, H, W] float32

What is wrong with a file or a value is a `dsconv.Error`, with the sentence that the command `dsconv` prints.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _native
from ._native import Error, __version__

__all__ = ["Class", "Error", "Model", "Prediction", "load"]


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
        #: The bytes of the file.
        self.size = size
        self.name = native.name
        self.source = native.source
        self.classes = native.classes
        self.shape = native.shape
        self.outputs = native.outputs
        self.parameters = native.parameters
        self.kernel = native.kernel
        self.weight_bits, self.activation_bits = native.widths or (None, None)

    def predict(self, images):
        """Returns the logits of `[N, C, H, W]` float32 as `[N, outputs]`, or of one `[C, H, W]` as `[outputs]`.

        The values are those of a network's input: `model.input(image)` makes them of a picture.
        """
        images = np.asarray(images)
        if images.dtype != np.float32:
            raise Error(f"the array has the type {images.dtype}: expected float32, see `Model.input` for pictures")
        if images.ndim not in (3, 4) or images.shape[-3:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise Error(f"the array has the shape {list(images.shape)}: expected [N, {expected}] or [{expected}]")
        if images.size == 0:
            return np.empty((0, self.outputs), np.float32)
        logits = self._native.run(np.ascontiguousarray(images).reshape(-1))
        return logits[0] if images.ndim == 3 else logits

    def input(self, image):
        """Makes the input `[C, H, W]` of a picture: it is resized, cropped and normalised as the file says.

        A picture is the path of a JPEG, PNG, BMP or WebP file, the bytes of one, an image of Pillow, or a uint8 array
        `[H, W]`, `[H, W, 3]` or `[H, W, 4]`. A file has the same input as on the command line; Pillow's decoder may differ in
        a bit.
        """
        if isinstance(image, (str, os.PathLike)):
            data = Path(image).read_bytes()
            try:
                made = self._native.input_of_file(data)
            except Error as error:
                raise Error(f"`{os.fspath(image)}`: {error}") from None
        elif isinstance(image, (bytes, bytearray, memoryview)):
            made = self._native.input_of_file(bytes(image))
        else:
            pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
            if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
                raise Error(
                    f"the array is {pixels.dtype} {list(pixels.shape)}: expected uint8 [H, W], [H, W, 3] or [H, W, 4]"
                )
            pixels = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
            made = self._native.input_of_rgb(pixels.shape[1], pixels.shape[0], pixels.tobytes())
        return made.reshape(self.shape)

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
        return f"<dsconv.Model {self.name}: {self._facts()['numbers']}, input {self._facts()['input']}>"

    def _repr_html_(self):
        rows = "".join(f"<tr><th style='text-align:left'>{k}</th><td style='text-align:left'>{html.escape(str(v))}</td></tr>" for k, v in self._facts().items())
        return f"<table><tbody>{rows}</tbody></table>"


def load(path, threads=0):
    """Loads a model's file, `.dsc` or packed safetensors, to run it on `threads` threads; 0 is one for each core."""
    data = Path(path).read_bytes()
    try:
        native = _native.Model(data, threads or os.cpu_count() or 1)
    except Error as error:
        raise Error(f"`{os.fspath(path)}`: {error}") from None
    return Model(native, os.fspath(path), len(data))
