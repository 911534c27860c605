"""Networks that run in integers."""

from __future__ import annotations

import html
import json
import os
import warnings
from typing import NamedTuple

import numpy as np

from . import _kinds, _native
from ._images import array, doubt, floats, is_several, picture
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

        Warns of values that no normalised pixels have, such as those from 0 to 255 where the network takes them normalised.
        """
        images = floats(images, self.shape)
        if images.size == 0:
            return np.empty((0, self.outputs), np.float32)
        doubtful = doubt(images, self.preprocessing)
        if doubtful is not None:
            warnings.warn(doubtful, UserWarning, stacklevel=2)
        return self._logits(images)

    def _logits(self, inputs):
        logits = self._native.run(inputs.reshape(-1))
        return logits[0] if inputs.ndim == 3 else logits

    def input(self, image):
        """Makes the input `[C, H, W]` of a picture: it is resized, cropped and normalised as `preprocessing` says.

        A picture is the path of a JPEG, PNG, BMP or WebP file, an open binary file, the bytes of one, an image of Pillow, or a uint8 array
        `[H, W]`, `[H, W, 3]` or `[H, W, 4]`. A file has the same input as on the command line. Of a JPEG, Pillow's own decoder makes pixels
        that differ by up to 3 levels of 255. An orientation in EXIF is not applied, as in torchvision's `ImageFolder`:
        `PIL.ImageOps.exif_transpose` does. Alpha is dropped, and of 16 bits the upper 8 count.
        """
        return self._native.input(picture(image)).reshape(self.shape)

    def classify(self, image, top=5):
        """Returns the `top` likeliest classes of a picture, best first; for several pictures, a list of them."""
        top = _kinds.whole("top", top)
        if top < 1:
            raise Error(f"top is {top}: expected at least 1")
        image = array(image)
        if is_several(image):
            return [self.classify(one, top) for one in image]
        probabilities = np.asarray(self._native.probabilities(self._logits(self.input(image))))
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
        path, ending = _kinds.path("path", path), _ending(self._data)
        if os.path.splitext(path)[1].lower() != ending:
            raise Error(f"`{path}`: a model that was read from a {ending} file is written as one")
        try:
            with open(path, "wb") as file:
                file.write(self._data)
        except FileNotFoundError:
            raise failure(f"there is no folder `{os.path.dirname(path)}`", is_missing=True, named=(os.path.dirname(path),)) from None
        return len(self._data)

    def _facts(self):
        bits = "32-bit floats"
        if self.weight_bits is not None:
            activations = f"{self.activation_bits}-bit activations" if self.activation_bits else "activations in floats"
            bits = f"{self.weight_bits}-bit weights, {activations} in most layers"
        return {
            "network": f"{self.name}, {self.parameters:,} parameters",
            "file": f"{self.file}, {self._in_megabytes()}",
            "numbers": bits,
            "input": " x ".join(map(str, self.shape)),
            "pictures": str(self.preprocessing),
            "classes": len(self.classes) or f"{self.outputs} outputs without names",
            "kernel": self.kernel,
        }

    def __repr__(self):
        facts = self._facts()
        numbers = f"{facts['numbers']}, {self.parameters:,} parameters in {self._in_megabytes()}"
        return f"<dsconv.{type(self).__name__} {self.name}: {numbers}; input {facts['input']}; pictures: {facts['pictures']}>"

    def _in_megabytes(self):
        return f"{self.size / 1e6:.2f} MB"

    def _repr_html_(self):
        return table(self._facts().items())


class Listed(list):
    """A list that notebooks show as a table."""

    def __init__(self, items, shown):
        super().__init__(items)
        self._shown = shown

    def _repr_html_(self):
        return self._shown


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


#: What files of other kinds begin with, and what to do with them.
_KINDS = [
    (b"\xff\xd8\xff", "a JPEG picture", None),
    (b"\x89PNG", "a PNG picture", None),
    (b"PK\x03\x04", "a checkpoint of PyTorch, or another zip archive", "quantize"),
    (b"\x80\x02", "a pickle, such as an old checkpoint of PyTorch", "quantize"),
    (b"\x93NUMPY", "an array of NumPy", None),
    (b"\x08", "an ONNX file", "quantize"),
]
#: The operations by which ONNX files say that a network is quantized.
_QUANTIZED = (b"DequantizeLinear", b"QLinearConv", b"ConvInteger", b"QLinearMatMul", b"MatMulInteger", b"MatMulNBits")


def _not_a_model(path, data, error):
    """Says what a file is that cannot be loaded, where that can be seen."""
    shown = path
    is_onnx = shown.lower().endswith(".onnx")
    if is_onnx and any(op in data for op in _QUANTIZED):
        return failure(
            f"`{shown}` is an ONNX file of a quantized network, not a model that runs here",
            "load the `.dsc` file of the same network; `dsconv.quantize` takes the float network that it was made of",
        )
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
    path = _kinds.path("path", path)
    threads = _kinds.whole("threads", threads)
    if not 0 <= threads <= _native.MOST_THREADS:
        raise Error(f"threads is {threads}: expected 1 to {_native.MOST_THREADS}, or 0 for one of each core")
    file = path
    if os.path.isdir(path):
        file = os.path.join(path, "model.dsc")
        if not os.path.exists(file):
            text = f"`{path}` is a folder that has no `model.dsc`: expected a file, or the folder of a finished run of `dsconv distill`"
            raise failure(text, is_missing=True, named=(path,))
    data = read(file)
    try:
        return Model(data, file, threads)
    except Error as error:
        raise _not_a_model(file, data, error) from None
