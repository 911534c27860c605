"""Quantizing and analyzing: the commands `dsconv quantize` and `dsconv analyze`, whose options are the arguments here."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import _native
from ._model import Model, picture, table
from ._native import Error


class Progress(NamedTuple):
    """How far a phase of the work is; `note` may say more, such as a loss."""

    phase: str
    done: int
    total: int
    note: str


class Layer(NamedTuple):
    """A quantized layer: its format in words, and the signal-to-noise ratio of its weights; `None` where nothing was lost."""

    name: str
    format: str
    weights: int
    sqnr_db: float | None


class Verdict(NamedTuple):
    """How far a quantized network is from the float network, on a handful of pictures that are drawn."""

    #: The name of the pictures, how many there are, and for how many both networks name the same class.
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
    """A quantized network, ready to run in the integer engine and to be saved; `dsconv.quantize` makes it."""

    def __init__(self, native: _native.Quantized, notes: list[str], options: dict):
        self._quantized = native
        self._dsc = native.dsc
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
        return _native.Model(self._dsc, os.cpu_count() or 1)

    @property
    def name(self):
        return self._quantized.name

    @property
    def size(self):
        """The bytes of its `.dsc` file."""
        return len(self._dsc)

    def save(self, path):
        """Writes it in the format of the ending, and returns the size of the file.

        `.dsc` is for the integer engine: `dsconv.load`, `dsconv predict`, C and browsers; `.safetensors` for `dsconv distill` and
        other programs; `.onnx` for ONNX Runtime. A file that is there is replaced, but not the one that the network came from.
        """
        size = self._quantized.save(os.fspath(path), _Ear(depth=3))
        self.file = os.fspath(path)
        return size

    def state_dict(self):
        """Returns the dequantized weights under PyTorch's names, as NumPy arrays.

            module.load_state_dict({name: torch.from_numpy(array) for name, array in quantized.state_dict().items()})
        """
        return _read_safetensors(self._quantized.state_dict(_Ear(depth=3)))

    def verify(self):
        return self._native.verify(self._dsc)

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


class _Ear:
    """Hears what a command says. Its methods are called on the thread that called the command."""

    def __init__(self, progress=None, depth=4):
        self.notes = []
        self._progress = progress
        #: The frames from `warn` to the user's: of `warn`, `_run` and `quantize` or `analyze`.
        self._depth = depth

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        warnings.warn(text, UserWarning, stacklevel=self._depth)

    def progress(self, phase, done, total, note):
        if self._progress is not None:
            self._progress(Progress(phase, done, total, note))


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
    """Quantizes a network as the command `dsconv quantize` does, and returns it ready to run.

        quantized = dsconv.quantize("resnet50.pth", bits=4, images="photos")
        quantized.save("resnet50.dsc")

    `model` is what the command takes: an ONNX file, a checkpoint, the name of a network; or a state dict of tensors or arrays.
    `arch` names the network of a checkpoint or a state dict, such as "resnet50"; without it it is found by its parameters, and what
    is assumed of images stands in the result's `notes`.

    `images`, which need no labels, are those that layers are fitted on: what the command takes (a folder, the name of a data set,
    "drawn", "none"), a list of pictures as `Model.input` takes, a uint8 array `[N, H, W, 3]`, or a float32 array `[N, C, H, W]` of
    the network's inputs. Without any, pictures are drawn. Inputs that were not normalised are refused where that can be seen.

    `layers` gives some their own bits, `{"conv1": 8, "fc": "float"}`; `skip` keeps some in floats; in both `*` and `?` stand for
    any letters. `rules` is a file of rules, or the result of `dsconv.analyze(..., budget=...)`. The other arguments are the
    options of the command, which `dsconv quantize --help` explains; those that are not given are as there.

    `progress` is called with a `Progress` on this thread. Where it raises, or at Ctrl-C, the work stops.
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "images", "progress") and _is_given(value)}
    options = {name: value for name, value in given.items() if name not in ("arch", "layers", "rules", "classes")}
    words = _words(options) + [f"--layer={name}={value}" for name, value in (layers or {}).items()]
    ear = _Ear(progress)
    with contextlib.ExitStack() as files:
        if isinstance(rules, Analysis):
            if rules.rules is None:
                raise Error("the analysis has no rules: `dsconv.analyze(..., budget=...)` makes some")
            rules = _file(files, ".toml", rules.rules)
        if classes is not None and not isinstance(classes, (str, os.PathLike)):
            classes = _file(files, ".json", json.dumps(list(classes)))
        words += _words({"rule_file": rules, "classes": classes})
        native = _run(_native.quantize, model, arch, images, words, ear)
    said = {"model": "state_dict" if isinstance(model, Mapping) else os.fspath(model)}
    if isinstance(images, (str, os.PathLike)):
        said["images"] = os.fspath(images)
    return Quantized(native, ear.notes, said | given)


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
    """Finds what the quantization of each layer alone does to a network, as the command `dsconv analyze` does.

    `model`, `arch`, `images` and `progress` are those of `dsconv.quantize`. `bits` are the widths to try, one or several. With a
    `budget`, such as "4.2bits", "6MB" or "12ms", a format is chosen for every layer: `dsconv.quantize(model, rules=analysis)`.
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "images", "progress", "arch")}
    ear = _Ear(progress)
    report, svg, rules = _run(_native.analyze, model, arch, images, _words(given), ear)
    return Analysis(json.loads(report), svg, rules, ear.notes)


def _run(command, model, arch, images, words, ear):
    """Calls a command for a model and images of any kind."""
    state_dict = None
    if isinstance(model, Mapping):
        state_dict = _write_safetensors(model)
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
        words = [*words, f"--images={os.fspath(images)}"]
        images = None
    # After `--` a name may begin with a dash.
    return command([*words, "--", name], state_dict, _images(images), ear)


def _images(images):
    """Takes images that are in memory, or the paths of a list."""
    if images is None:
        return None
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray) and images.dtype == np.float32:
        if images.ndim != 4:
            raise Error(f"the inputs have the shape {list(images.shape)}: expected [N, C, H, W]")
        return _native.Images.inputs(images)
    if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.ndim != 4):
        raise Error(
            f"the images are {images.dtype} {list(images.shape)}: expected inputs of the network, float32 [N, C, H, W], or "
            "pictures, uint8 [N, H, W, 3]"
        )
    images = list(images)
    if images and all(isinstance(image, (str, os.PathLike)) for image in images):
        return _native.Images.files([os.fspath(image) for image in images])
    return _native.Images.pictures([picture(image) for image in images])


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
            nested = f": give `state_dict[{name!r}]`" if isinstance(tensor, Mapping) else ""
            raise Error(f"state_dict: `{name}` has the type {what}, which is no tensor of numbers{nested}")
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
