"""Networks that run in integers."""

from __future__ import annotations

import html
import json
import operator
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import _native
from ._native import Error
from ._words import failure, read


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


class Preprocessing(NamedTuple):
    """How a picture becomes a network's input: it is resized, cropped at the centre, and its values become
    `(pixel / divide - mean) / std`. The fields are the arguments of `dsconv.quantize` of the same names.
    """

    #: The size of the shorter side, or height and width; `None` keeps the size.
    resize: int | tuple[int, int] | None
    #: Height and width of the middle that is cut out; `None` for all.
    crop: tuple[int, int] | None
    #: "rgb", "bgr" or "grey".
    order: str
    divide: float
    #: A value for each channel, in that order.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self):
        sizes = []
        if self.resize is not None:
            whole = isinstance(self.resize, tuple)
            sizes.append("resized to {} x {}".format(*self.resize) if whole else f"shorter side resized to {self.resize}")
        if self.crop is not None:
            sizes.append("middle {} x {} cut out".format(*self.crop))
        values = f"{self.order} / {self.divide:g}, mean {_listed(self.mean)}, std {_listed(self.std)}"
        return "; ".join([", ".join(sizes), values] if sizes else [values])


def _listed(values):
    return ", ".join(f"{value:g}" for value in values)


def _preprocessing(text):
    said = json.loads(text)
    resize, crop = (tuple(size) if isinstance(size, list) else size for size in (said["resize"], said["crop"]))
    crop = (crop, crop) if isinstance(crop, int) else crop
    return Preprocessing(resize, crop, said["order"], said["divide"], tuple(said["mean"]), tuple(said["std"]))


class Model:
    """A network that is ready to run; `dsconv.load` makes it. Threads may share one: it runs one call at a time.

    A model can be pickled, so that processes may be given one; a process that is forked may go on with one.
    """

    def __init__(self, data: bytes, file: str, threads: int = 0):
        self._data = data
        #: The file that it was read from.
        self.file = file
        self._threads = threads
        self._native = _native.Model(data, threads or os.cpu_count() or 1)

    def __reduce__(self):
        return Model, (self._data, self.file, self._threads)

    @property
    def size(self):
        """The bytes of the file."""
        return len(self._data)

    @property
    def name(self):
        """The name of the network, such as `resnet50`."""
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
    def preprocessing(self):
        """How `input` and `classify` make the input of a picture."""
        return _preprocessing(self._native.preprocess)

    @property
    def outputs(self):
        """The number of outputs, which `predict` returns for each image."""
        return self._native.outputs

    @property
    def parameters(self):
        """The number of parameters of the network."""
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
        """Returns the logits of inputs `[N, C, H, W]` as float32 `[N, outputs]`, or of one `[C, H, W]` as `[outputs]`.

        The values are those of a network's input, floats in an array, a tensor or a list of these: `model.input(image)` makes them of a
        picture. Where the shape tells that channels come last, they are put first. At Ctrl-C it stops between two batches.
        """
        native = self._native
        images = floats(images, native.shape)
        if images.size == 0:
            return np.empty((0, native.outputs), np.float32)
        logits = native.run(images.reshape(-1))
        return logits[0] if images.ndim == 3 else logits

    def input(self, image):
        """Makes the input `[C, H, W]` of a picture: it is resized, cropped and normalised as `preprocessing` says.

        A picture is the path of a JPEG, PNG, BMP or WebP file, the bytes of one, an image of Pillow, or a uint8 array
        `[H, W]`, `[H, W, 3]` or `[H, W, 4]`. A file has the same input as on the command line. Of a JPEG, Pillow's own decoder makes pixels
        that differ by up to 3 levels of 255.
        """
        return self._native.input(picture(image)).reshape(self.shape)

    def classify(self, image, top=5):
        """Returns the `top` likeliest classes of a picture, best first; for several pictures, a list of them."""
        try:
            top = operator.index(top)
        except TypeError:
            raise Error(f"top is {top!r}: expected the number of classes") from None
        if top < 1:
            raise Error(f"top is {top}: expected at least 1")
        if is_several(image):
            return [self.classify(one, top) for one in image]
        probabilities = np.asarray(self._native.probabilities(self.predict(self.input(image))))
        order = np.argsort(-probabilities, kind="stable")[:top]
        names = self.classes or [None] * len(probabilities)
        return Prediction(Class(int(i), names[i], float(probabilities[i])) for i in order)

    def verify(self):
        """Runs the input that a `.dsc` file stores. Returns whether it stores one; other files do not.

        Raises `dsconv.Error` unless the file's structure and checksums are right and the logits are the stored ones, to the bit.
        """
        return self._native.verify(self._data)

    def save(self, path):
        """Writes the file that it was read from once more, and returns its size. `dsconv.quantize` makes files of other formats."""
        path, ending = os.fspath(path), _ending(self._data)
        if os.path.splitext(path)[1].lower() != ending:
            raise Error(f"`{path}`: a model that was read from a {ending} file is written as one")
        with open(path, "wb") as file:
            file.write(self._data)
        return len(self._data)

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
            "pictures": str(self.preprocessing),
            "classes": len(self.classes) or f"{self.outputs} outputs without names",
            "kernel": self.kernel,
        }

    def __repr__(self):
        facts = self._facts()
        return f"<dsconv.{type(self).__name__} {self.name}: {facts['numbers']}, input {facts['input']}; pictures: {facts['pictures']}>"

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


def array(value):
    """Returns an array or a tensor as an array, and anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def floats(images, shape=None):
    """Returns inputs as float32 `[N, C, H, W]` or `[C, H, W]`, with channels first where the shape tells that they come last.

    `shape` is the `(C, H, W)` that a network takes.
    """
    if isinstance(images, (list, tuple)):
        images = [array(one) for one in images]
        shapes = {np.shape(one) for one in images}
        if len(shapes) > 1:
            raise Error(f"the arrays have different shapes: {', '.join(str(list(one)) for one in sorted(shapes))}")
    images = np.asarray(array(images))
    if images.dtype.kind != "f":
        raise Error(f"the array has the type {images.dtype}: expected floats, inputs of the network; `Model.input` makes them of pictures")
    expected = f"[{', '.join(map(str, shape))}]" if shape else "[C, H, W]"
    if images.ndim in (3, 4):
        last = images.shape[-1:] + images.shape[-3:-1]
        is_last = last == shape != images.shape[-3:] if shape else last[0] in (1, 3) and images.shape[-3] not in (1, 3)
        if is_last:
            images = np.moveaxis(images, -1, -3)
    if images.ndim not in (3, 4) or (shape and images.shape[-3:] != shape):
        raise Error(f"the array has the shape {list(images.shape)}: expected [N, {expected[1:]} or {expected}")
    return np.ascontiguousarray(images, np.float32)


def is_several(images):
    """Tells whether something is several pictures, not one."""
    if isinstance(images, (str, bytes, bytearray, memoryview)):
        return False
    return isinstance(images, (Sequence, Iterator)) or (isinstance(images, np.ndarray) and images.ndim == 4)


def picture(image):
    """Decodes a picture: a path, the bytes of a file, an image of Pillow, or a uint8 array."""
    if isinstance(image, (str, os.PathLike)):
        try:
            return _native.Picture.decode(read(image))
        except FileNotFoundError:
            raise
        except Error as error:
            raise Error(f"`{os.fspath(image)}`: {error}") from None
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _native.Picture.decode(bytes(image))
    pixels = np.asarray(_of_pillow(image) if hasattr(image, "convert") else array(image))
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        what = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(image, np.ndarray) or hasattr(image, "detach") else type(image).__name__
        raise Error(
            f"a picture is {what}: expected a path, the bytes of a file, an image of Pillow, or uint8 [H, W], [H, W, 3] or [H, W, 4]"
        )
    pixels = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return _native.Picture.from_rgb(pixels.shape[1], pixels.shape[0], pixels.tobytes())


def _of_pillow(image):
    """Returns the pixels of an image of Pillow, of 16 bits the upper 8, as files have them; Pillow's own conversion makes them white."""
    # Pillow before 11 reads a PNG of 16 bits as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise Error(f"an image of Pillow has the mode {image.mode}, whose white is not known: convert it to L or RGB")
    return image.convert("RGB")


#: What files of other kinds begin with, and what to do with them.
_KINDS = [
    (b"\xff\xd8\xff", "a JPEG picture", None),
    (b"\x89PNG", "a PNG picture", None),
    (b"PK\x03\x04", "a checkpoint of PyTorch, or another zip archive", "quantize"),
    (b"\x80\x02", "a pickle, such as an old checkpoint of PyTorch", "quantize"),
    (b"\x93NUMPY", "an array of NumPy", None),
    (b"\x08", "an ONNX file", "quantize"),
]


def _not_a_model(path, data, error):
    """Says what a file is that cannot be loaded, where that can be seen."""
    shown = os.fspath(path)
    is_onnx = shown.lower().endswith(".onnx")
    for begin, kind, what in _KINDS:
        if data.startswith(begin) and (begin != b"\x08" or is_onnx):
            hint = f"`dsconv.quantize({shown!r})` makes a model of it" if what else "`classify` of a model takes pictures"
            return failure(f"`{shown}` is {kind}, not a model that runs", hint if what or "picture" in kind else None)
    if data[8:9] == b"{" and b'"dsconv' not in data[: 8 + int.from_bytes(data[:8], "little")]:
        return failure(
            f"`{shown}` is a safetensors file of another program, not a model that runs",
            f"`dsconv.quantize({shown!r})` makes a model of it, where it holds the weights of a network",
        )
    return Error(f"`{shown}`: {error}")


def _ending(data):
    """Returns the ending of the files that begin like this."""
    return ".safetensors" if data[8:9] == b"{" else ".dsc"


def load(path, threads=0):
    """Loads a model's file, `.dsc` or packed safetensors, to run it on `threads` threads; 0 is one for each core.

    `path` may be the folder of a run of `dsconv distill`, too.
    """
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        path = os.path.join(path, "model.dsc")
    data = read(path)
    try:
        return Model(data, os.fspath(path), threads)
    except Error as error:
        raise _not_a_model(path, data, error) from None
