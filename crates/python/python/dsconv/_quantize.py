"""Quantizing and analyzing. The options of the commands `dsconv quantize` and `dsconv analyze` are the arguments here."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from . import _native
from ._model import Model, array, floats, picture, table
from ._native import Error
from ._words import failure, names_a_file, said


class Progress(NamedTuple):
    """How far a phase of the work is."""

    #: What is being done.
    phase: str
    #: The steps that are done, of how many.
    done: int
    total: int
    #: More, such as a loss; mostly empty.
    note: str


class Layer(NamedTuple):
    """A quantized layer: its format in words, and the signal-to-noise ratio of its weights; `None` where nothing was lost."""

    name: str
    format: str
    weights: int
    sqnr_db: float | None


class Verdict(NamedTuple):
    """How far a quantized network is from the float network: on up to 16 images held out of those that layers were fitted on, or where
    fewer than 8 were held out, on 8 pictures that are drawn.
    """

    #: The name of the images, how many there are, and for how many both networks name the same class.
    on: str
    images: int
    same: int
    #: The power of the change of the logits over that of what tells images apart in them, and the same in dB.
    noise: float
    sqnr_db: float | None
    #: The mean divergence of probabilities, in nats.
    divergence: float
    #: Whether the network says other things than the float one.
    broken: bool
    #: The sentence of the command line.
    text: str

    def __str__(self):
        return self.text


class Quantized(Model):
    """A quantized network, ready to run in the integer engine and to be saved; `dsconv.quantize` makes it.

    Pickled, it becomes the `Model` of its `.dsc` file.
    """

    def __init__(self, native: _native.Quantized, notes: list[str], options: dict, tensors: bool = False):
        self._quantized = native
        self._data = native.dsc
        self._threads = 0
        #: Whether it was made of tensors.
        self._tensors = tensors
        #: The file that it was saved to last.
        self.file = "not saved"
        #: What was found and assumed, in the sentences of the command line.
        self.notes = notes
        #: All that was found out, as `dsconv quantize --json` prints it.
        self.report = json.loads(native.summary)
        self._options = options
        #: The bytes that all parameters take in the float network.
        self.fp32_size = native.fp32_bytes
        layers = self.report["layers"].items()
        self.layers = [Layer(name, layer["format"], layer["weights"], layer["sqnr_db"]) for name, layer in layers]
        #: The names of the convolutions and linear layers that stay in floats.
        self.float_layers = self.report["float_layers"]
        verdict = self.report["verdict"]
        names = [name for name in Verdict._fields if name != "text"]
        self.verdict = verdict and Verdict(*(verdict[name] for name in names), native.verdict)

    @functools.cached_property
    def _native(self):
        return _native.Model(self._data, os.cpu_count() or 1)

    @property
    def name(self):
        """The name of the network, or of its file."""
        return self._quantized.name

    @property
    def size(self):
        """The bytes of its `.dsc` file."""
        return len(self._data)

    def save(self, path):
        """Writes it in the format of the ending, and returns the size of the file.

        `.dsc` is for the integer engine: `dsconv.load`, `dsconv predict`, C and browsers; `.safetensors` for `dsconv distill` and
        other programs; `.onnx` for ONNX Runtime. A file that is there is replaced, but not the one that the network came from.
        """
        size = self._quantized.save(os.fspath(path), _Ear(progress=False, depth=3))
        self.file = os.fspath(path)
        return size

    def state_dict(self):
        """Returns the dequantized weights under PyTorch's names: as tensors where the network was given as tensors, else as arrays of
        NumPy, which `torch.from_numpy` takes.

            module.load_state_dict(quantized.state_dict())
        """
        arrays = _read_safetensors(self._quantized.state_dict(_Ear(progress=False, depth=3)))
        if not self._tensors:
            return arrays
        import torch

        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def verify(self):
        """Runs the input that its `.dsc` file stores. Returns whether it stores one: it does where the engine can run the network.

        Raises `dsconv.Error` unless the logits are the stored ones, to the bit.
        """
        return super().verify()

    def _facts(self):
        facts = super()._facts()
        facts["file"] = f"{self.file}, {self.size / 1e6:.2f} MB, {self.fp32_size / self.size:.1f} times smaller than FP32"
        if self.verdict:
            facts["verdict"] = str(self.verdict)
        for i, note in enumerate(self.notes):
            facts[f"note {i + 1}"] = note
        return facts

    def _repr_html_(self):
        rows = [(layer.name, layer.format, layer.weights, _decibels(layer.sqnr_db)) for layer in self.layers]
        layers = table(rows, ("layer", "format", "weights", "SQNR dB"))
        return f"{super()._repr_html_()}<details><summary>{len(rows)} quantized layers</summary>{layers}</details>"


class Noise(NamedTuple):
    """What one format of a layer does to the network's logits."""

    #: `W4` for weights alone, `A4` for the layer's input alone, `W4A4` for both.
    format: str
    noise: float
    sqnr_db: float | None
    #: Known unless the noise was estimated: the divergence of probabilities, and the percentage of images that keep their class.
    divergence: float | None
    agreement: float | None


class LayerNoise(NamedTuple):
    """What the quantization of one layer alone does."""

    name: str
    weights: int
    formats: list[Noise]


class Analysis:
    """What the quantization of each layer alone does to a network, worst layer first; `dsconv.analyze` makes it."""

    def __init__(self, report: dict, svg: str, rules: str | None, notes: list[str]):
        self.report = report
        #: A picture of it, and the rules that `dsconv.quantize(rules=...)` takes, where there is a budget.
        self.svg = svg
        self.rules = rules
        self.notes = notes

        def noise(format):
            parts = {"weights": "W{bits}", "activations": "A{activation_bits}", "both": "W{bits}A{activation_bits}"}
            name = parts[format["part"]].format(**format)
            return Noise(name, format["noise"], format["sqnr_db"], format.get("divergence"), format.get("agreement"))

        self.layers = [
            LayerNoise(layer["layer"], layer["weights"], [noise(format) for format in layer["formats"]])
            for layer in report["layers"]
        ]

    def __repr__(self):
        worst = f", worst is {self.layers[0].name}" if self.layers else ""
        return f"<dsconv.Analysis {self.report['model']}: {len(self.layers)} layers{worst}>"

    def _repr_html_(self):
        head = [format.format for format in self.layers[0].formats] if self.layers else []
        rows = [(layer.name, layer.weights, *(_decibels(one.sqnr_db) for one in layer.formats)) for layer in self.layers]
        return table(rows, ("layer", "weights", *(f"{name}, dB" for name in head)))


def _decibels(value):
    return "-" if value is None else float(f"{value:.1f}")


class _Line:
    """A line on stderr that says how far the work is."""

    #: Seconds between two looks, and before the first: short work says nothing.
    EVERY = 0.1
    FIRST = 0.5

    def __init__(self):
        self._next = time.monotonic() + self.FIRST
        self._length = 0

    def __call__(self, step):
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.EVERY
            self._write(f"{step.phase}: {step.done} of {step.total}  {step.note}".rstrip()[:100])

    def _write(self, text):
        sys.stderr.write(f"\r{text:{self._length}}")
        sys.stderr.flush()
        self._length = len(text)

    def clear(self):
        """Removes the line, for what is written next."""
        if self._length:
            self._write("")
            sys.stderr.write("\r")
            self._length = 0


def _is_watched():
    """Tells whether somebody sees stderr at once: it is a terminal, or a notebook's."""
    return "ipykernel" in sys.modules or (hasattr(sys.stderr, "isatty") and sys.stderr.isatty())


class _Ear:
    """Hears what a command says. Its methods are called on the thread that called the command.

    `files` are the paths that the caller named: where one is not there, the error is that of a missing file.
    """

    def __init__(self, progress=None, depth=4, files=()):
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise Error(f"progress has the type {type(progress).__name__}: expected a function, or False for no line on stderr")
        self.notes = []
        self._line = _Line() if progress is True or (progress is None and _is_watched()) else None
        self._progress = progress if callable(progress) else self._line
        #: The frames from `warn` to the user's: of `warn`, `_run` and `quantize` or `analyze`.
        self._depth = depth
        self._files = files

    def note(self, text):
        self.notes.append(said(text))

    def assume(self, text):
        self.notes.append(said(text))
        self.clear()
        warnings.warn(said(text), UserWarning, stacklevel=self._depth)

    def warn(self, text):
        self.clear()
        warnings.warn(said(text), UserWarning, stacklevel=self._depth)

    def error(self, text, hint):
        return failure(text, hint, self._files)

    def progress(self, phase, done, total, note):
        if self._progress is not None:
            self._progress(Progress(phase, done, total, note))

    def clear(self):
        if self._line is not None:
            self._line.clear()


def quantize(
    model,
    *,
    bits=4,
    images=None,
    image_count=None,
    arch=None,
    activation_bits=None,
    block=None,
    rule=None,
    activation_block=None,
    activation_scale=None,
    image_bits=None,
    weights_only=False,
    layers=None,
    rules=None,
    keep_worst=False,
    skip=(),
    convolutions_only=False,
    scales=None,
    floats=None,
    classes=None,
    input=None,
    resize=None,
    crop=None,
    mean=None,
    std=None,
    order=None,
    divide=None,
    progress=None,
):
    """Quantizes a trained network, and returns it ready to run.

        quantized = dsconv.quantize("resnet50.pth", bits=4, images="photos")
        quantized.save("resnet50.dsc")

    `model` is an ONNX file, a checkpoint of PyTorch or safetensors, a name of `dsconv.networks()`, or a state dict of tensors
    or arrays, also inside `{"state_dict": ...}` or the like. `arch` names the network of a checkpoint or a state dict, such as
    "resnet50"; without it it is found by its parameters. What is assumed of images is a warning, and stands in the result's
    `notes`.

    `images`, which need no labels, are those that layers are fitted on:
    - a folder, a picture, the name of a data set, `"drawn"` for pictures that are drawn, as without any, `"none"` for no fit;
    - pictures: a list or a generator of what `Model.input` takes, or uint8 `[N, H, W, 3]` or `[N, 3, H, W]`;
    - inputs of the network: floats `[N, C, H, W]` or `[N, H, W, C]`, an array, a tensor, or a list or generator of these. They
      are taken as they are; those that no picture becomes as the network's preprocessing says are refused.
    At most `image_count` are used, spread over them: 128, or 32 drawn ones. Drawn ones join fewer than 32.

    Numbers: `bits` of a weight and `activation_bits` of a layer's input, 2 to 8 (4); `image_bits`, the least of a layer that
    reads the image (8); `block` and `activation_block`, the channels that share a scale (32, or "pixel" for all); `rule`, how
    codes and scales are found ("mse", "l2", "kl" or "balanced"); `activation_scale`, "float" or "pow2"; `weights_only` keeps
    all inputs in floats.

    Layers: `layers` gives some their own bits, `{"conv1": 8, "fc": "float"}`; `skip` keeps some in floats; in both `*` and `?`
    stand for any letters. `convolutions_only` keeps linear layers in floats. `keep_worst` keeps the layers that matter most at
    8 bits, for at most 3 % of the size. `rules` is a file of rules, or the result of `dsconv.analyze(..., budget=...)`.

    What the file holds: `scales`, how scales of weights are stored ("f16", "f32" or "two-level"); `floats`, how other
    parameters are ("f32" or "f16"); `classes`, the names of the classes in the order of the outputs, or a file of them.

    Images, where the network's file does not say it or is wrong: `input`, the side of the input or height and width; `resize`
    and `crop`, sizes or "none"; values become `(pixel / divide - mean) / std`, in the `order` "rgb", "bgr" or "grey".
    `Model.preprocessing` shows the result.

    `progress` is called with a `Progress` on this thread. Where it raises, or at Ctrl-C, the work stops. Without it a line on
    stderr says how far the work is, where that is a terminal or a notebook's; `False` is for none.

    Raises `dsconv.Error` for what is refused, `dsconv.MissingError` where a file is not there.
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "images", "progress") and _is_given(value)}
    options = {name: value for name, value in given.items() if name not in ("arch", "layers", "rules", "classes")}
    words = _words(options) + [f"--layer={name}={value}" for name, value in (layers or {}).items()]
    ear = _Ear(progress, files=_files(model, images, rules, classes))
    with contextlib.ExitStack() as files:
        if isinstance(rules, Analysis):
            if rules.rules is None:
                raise Error("the analysis has no rules: `dsconv.analyze(..., budget=...)` makes some")
            rules = _file(files, ".toml", rules.rules)
        if classes is not None and not isinstance(classes, (str, os.PathLike)):
            classes = _file(files, ".json", json.dumps(list(classes)))
        words += _words({"rule_file": rules, "classes": classes})
        native, tensors = _run(_native.quantize, model, arch, images, words, ear)
    origin = {"model": "state_dict" if isinstance(model, Mapping) else os.fspath(model)}
    if isinstance(images, (str, os.PathLike)):
        origin["images"] = os.fspath(images)
    return Quantized(native, ear.notes, origin | given, tensors)


def analyze(
    model,
    *,
    images=None,
    count=None,
    arch=None,
    bits=None,
    proxy=False,
    budget=None,
    activation_bits=None,
    block=None,
    rule=None,
    activation_block=None,
    activation_scale=None,
    input=None,
    resize=None,
    crop=None,
    mean=None,
    std=None,
    order=None,
    divide=None,
    progress=None,
):
    """Finds what the quantization of each layer alone does to a network.

    `model`, `arch`, `images`, `progress` and what describes images are those of `dsconv.quantize`; `count` images are used (8).
    `bits` are the widths to try, one or several (4 and 8); `activation_bits` the least of a layer's input, which has as many as
    the weight otherwise. `proxy` estimates to first order, several times as fast.

    With a `budget` a format is chosen for every layer, which `dsconv.quantize(model, rules=analysis)` takes: "4.2bits", the
    mean bits of a weight; "6MB" or "900kB", the size of the file; "12ms", the time of an image in the engine on one thread of
    this machine.
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "images", "progress", "arch")}
    # Without images they are drawn.
    images = None if isinstance(images, str) and images == "drawn" else images
    ear = _Ear(progress, files=_files(model, images))
    (report, svg, rules), _ = _run(_native.analyze, model, arch, images, _words(given), ear)
    return Analysis(json.loads(report), svg, rules, ear.notes)


def networks():
    """Returns the names of the networks that can be built, for `arch`; those that come with weights are models by themselves."""
    return _native.networks()


def _run(command, model, arch, images, words, ear):
    """Calls a command for a model and images of any kind. Returns what it returns, and whether the model was given as tensors."""
    state_dict, tensors = None, False
    if isinstance(model, Mapping):
        model = _state_dict(model)
        state_dict = _write_safetensors(model)
        tensors = any(hasattr(tensor, "detach") for tensor in model.values())
        name = arch or "state_dict"
    elif isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        if arch is not None:
            words = [*words, f"--weights={name}"]
            name = arch
    else:
        advice = ": give `model.state_dict()`" if hasattr(model, "state_dict") else ""
        raise Error(f"the model has the type {type(model).__name__}: expected a path, a name or a state dict{advice}")
    if isinstance(images, (str, os.PathLike)):
        if _is_picture(images):
            images = [images]
        else:
            words = [*words, f"--images={os.fspath(images)}"]
            images = None
    try:
        # After `--` a name may begin with a dash.
        return command([*words, "--", name], state_dict, _images(images), ear), tensors
    finally:
        ear.clear()


def _files(*named):
    """Returns the paths among what a caller named."""
    return tuple(name for name in named if names_a_file(name))


def _is_picture(path):
    return os.path.isfile(path) and os.path.splitext(path)[1].lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def _images(images):
    """Takes images that are in memory, or the paths of a list."""
    if images is None:
        return None
    if hasattr(images, "convert") or isinstance(images, (bytes, bytearray, memoryview)):
        images = [images]
    images = array(images)
    if isinstance(images, np.ndarray):
        if images.dtype.kind == "f":
            return _inputs([images])
        images = _pixels(images)
    elif not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise Error(f"the images have the type {type(images).__name__}: expected a path, pictures, or inputs in an array or a tensor")
    images = [array(image) for image in images]
    labelled = next((i for i, image in enumerate(images) if isinstance(image, (tuple, list))), None)
    if labelled is not None:
        kind = type(images[labelled]).__name__
        raise Error(f"image {labelled} is a {kind}: give images without labels, as `(image for image, _ in data)`")
    if images and all(isinstance(image, (str, os.PathLike)) for image in images):
        missing = next((image for image in images if not os.path.exists(image)), None)
        if missing is not None:
            raise failure(f"`{os.fspath(missing)}`: there is no such file", files=(missing,))
        return _native.Images.files([os.fspath(image) for image in images])
    if images and all(isinstance(image, np.ndarray) and image.dtype.kind == "f" for image in images):
        return _inputs(images)
    return _native.Images.pictures([picture(image) for image in images])


def _inputs(arrays):
    """Takes inputs of a network: one after the other, or in batches."""
    batches = [floats(one) for one in arrays]
    batches = [one if one.ndim == 4 else one[None] for one in batches]
    shapes = {one.shape[1:] for one in batches}
    if len(shapes) > 1:
        raise Error(f"the inputs have different shapes: {', '.join(str(list(shape)) for shape in sorted(shapes))}")
    return _native.Images.inputs(batches[0] if len(batches) == 1 else np.concatenate(batches))


def _pixels(images):
    """Takes one picture or several of an array of bytes, also with channels first, as tensors have them."""
    if images.dtype != np.uint8 or images.ndim not in (2, 3, 4):
        raise Error(
            f"the images are {images.dtype} {list(images.shape)}: expected inputs of the network, floats [N, C, H, W], or pictures, "
            "uint8 [N, H, W, 3]"
        )
    if images.ndim >= 3 and images.shape[-1] not in (1, 3, 4) and images.shape[-3] in (1, 3):
        images = np.moveaxis(images, -3, -1)
    if images.ndim >= 3 and images.shape[-1] == 1:
        images = images[..., 0]
        return images if images.ndim == 3 else images[None]
    return images if images.ndim == 4 else images[None]


def _words(options):
    """Writes arguments as the words of the command line: `image_bits=8` is `--image-bits=8`."""
    words = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif name == "skip":
            words += [f"{option}={layer}" for layer in ([value] if isinstance(value, str) else value)]
        elif _is_given(value):
            words.append(f"{option}={_word(value)}")
    return words


def _is_given(value):
    return not (value is None or value is False or (isinstance(value, tuple) and not value))


def _word(value):
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    return ",".join(_word(one) for one in value)


def _file(stack, ending, text):
    """Writes a temporary file, for what a command takes as one."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dsconv-"))
    path = os.path.join(folder, f"given{ending}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


#: The types of safetensors by those of NumPy.
_TYPES = {
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "b1": "BOOL",
    "i1": "I8",
    "i2": "I16",
    "i4": "I32",
    "i8": "I64",
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
}


#: The keys under which checkpoints have their state dict, as PyTorch's examples, timm, Lightning and others write them.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")


def _state_dict(model):
    """Returns the state dict in a checkpoint: the mapping itself where it holds tensors, else the one under a usual key."""

    def is_tensor(value):
        return hasattr(value, "detach") or isinstance(value, (np.ndarray, np.generic))

    if any(map(is_tensor, model.values())):
        return model
    inside = {key: value for key, value in model.items() if isinstance(value, Mapping) and any(map(is_tensor, value.values()))}
    usual = next((key for key in _KEYS if key in inside), None)
    if usual is not None:
        return inside[usual]
    if len(inside) == 1:
        return next(iter(inside.values()))
    if inside:
        keys = ", ".join(f"`{key}`" for key in inside)
        raise Error(f"the state dict is one of {keys}: give that one")
    return model


def _write_safetensors(state_dict):
    """Writes tensors or arrays as the bytes of a safetensors file."""
    header, parts, at = {}, [], 0
    for name, tensor in state_dict.items():
        if hasattr(tensor, "detach"):
            tensor = tensor.detach().cpu()
            # NumPy has no bfloat16; every one of its numbers is a float32.
            tensor = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        array = tensor if isinstance(tensor, (np.ndarray, np.generic)) else None
        kind = None if array is None else _TYPES.get(f"{array.dtype.kind}{array.dtype.itemsize}")
        if kind is None:
            what = type(tensor).__name__ if array is None else array.dtype
            raise Error(f"state_dict: `{name}` has the type {what}, which is no tensor of numbers")
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        header[str(name)] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _read_safetensors(data):
    """Reads the bytes of a safetensors file as arrays."""
    kinds = {kind: numpy for numpy, kind in _TYPES.items()}
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        array = np.frombuffer(data[start + first : start + last], "<" + kinds[tensor["dtype"]])
        # A copy: an array of another's bytes cannot be written to.
        arrays[name] = array.reshape(tensor["shape"]).copy()
    return arrays
