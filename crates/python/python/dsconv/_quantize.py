"""Quantizing and analyzing. The options of the commands `dsconv quantize` and `dsconv analyze` are the arguments here."""

from __future__ import annotations

import contextlib
import functools
import html
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from . import _kinds, _native, _state_dict
from ._images import images_of, is_picture_file
from ._kinds import is_tensor, wrong
from ._model import Listed, Model, table
from ._native import Error
from ._words import failure, said


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
    #: The most images to which the float network gives one class, and whether these are too many for a verdict: its weights are not
    #: trained, or its images are prepared otherwise than it expects.
    alike: int
    constant: bool
    #: Whether the network says other things than the float one.
    broken: bool
    #: The sentence of the command line.
    text: str

    def __str__(self):
        return self.text

    def _repr_html_(self):
        rows = (
            ("on", self.on),
            ("images", self.images),
            ("with the class of FP32", self.same),
            ("logits", "the same" if self.sqnr_db is None else f"{self.sqnr_db:.1f} dB"),
            ("divergence", f"{max(self.divergence, 0):.3f}"),
            ("broken", "yes" if self.broken else "not known" if self.constant else "no"),
        )
        return f"{table(rows)}<p>{html.escape(self.text)}</p>"


class Quantized(Model):
    """A quantized network, ready to run in the integer engine and to be saved; `dsconv.quantize` makes it."""

    def __init__(self, native: _native.Quantized, report: str, verdict: str | None, notes: list[str], options: dict, given: dict | None):
        self._quantized = native
        self._data = native.dsc
        self._threads = 0
        #: The names of the parameters that it was made of, and whether these were tensors.
        self._names = None if given is None else tuple(given)
        self._tensors = given is not None and any(map(is_tensor, given.values()))
        #: The file that it was saved to last.
        self.file = "not saved"
        #: What was found and assumed, in the sentences of the command line.
        self.notes = notes
        #: All that was found out, as `dsconv quantize --json` prints it.
        self.report = json.loads(report)
        self._options = options
        #: The bytes that all parameters take in the float network.
        self.fp32_size = native.fp32_bytes
        layers = [Layer(name, *map(layer.get, Layer._fields[1:])) for name, layer in self.report["layers"].items()]
        rows = [(layer.name, layer.format, layer.weights, _decibels(layer.sqnr_db)) for layer in layers]
        self.layers = Listed(layers, table(rows, ("layer", "format", "weights", "SQNR dB")))
        #: The names of the convolutions and linear layers that stay in floats.
        self.float_layers = self.report["float_layers"]
        found = self.report["verdict"]
        names = [name for name in Verdict._fields if name != "text"]
        self.verdict = found and Verdict(*(found[name] for name in names), verdict)

    def __reduce__(self):
        native = self._quantized
        state = {name: value for name, value in vars(self).items() if name not in ("_quantized", "_native")}
        return _restored, (native.name, self._data, native.stored, native.inputs, state)

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
        path = _kinds.path("path", path)
        size = self._quantized.save(path, _Ear(progress=False, depth=3, named=(os.path.dirname(path),)))
        self.file = path
        return size

    def state_dict(self):
        """Returns the dequantized weights under PyTorch's names: as tensors where the network was given as tensors, else as arrays of
        NumPy, which `torch.from_numpy` takes.

            module.load_state_dict(quantized.state_dict())

        The names are those of the state dict that was given, also where its module is wrapped (`module.conv1.weight`); of a file, those
        of the network by itself. What only training uses, such as the second outputs of GoogLeNet, is not there: `strict=False`.
        """
        arrays = _state_dict.from_bytes(self._quantized.state_dict(_Ear(progress=False, depth=3)))
        if self._names is not None:
            arrays = _state_dict.named_as(self._names, arrays)
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
        facts["layers"] = f"{len(self.layers)} quantized, {len(self.float_layers)} in floats"
        if self.verdict:
            facts["verdict"] = str(self.verdict)
        for i, note in enumerate(self.notes):
            facts[f"note {i + 1}"] = note
        return facts

    def _in_megabytes(self):
        return f"{super()._in_megabytes()}, {self.fp32_size / self.size:.1f} times smaller than FP32"

    def _repr_html_(self):
        layers = f"<details><summary>{len(self.layers)} quantized layers</summary>{self.layers._repr_html_()}</details>"
        return super()._repr_html_() + layers


def _restored(name, data, stored, inputs, state):
    """Makes the result again that `Quantized.__reduce__` took apart."""
    made = Quantized.__new__(Quantized)
    vars(made).update(state)
    made._quantized = _native.Quantized(name, data, stored, inputs)
    return made


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

        layers = [
            LayerNoise(layer["layer"], layer["weights"], [noise(format) for format in layer["formats"]])
            for layer in report["layers"]
        ]
        head = [format.format for format in layers[0].formats] if layers else []
        rows = [(layer.name, layer.weights, *(_decibels(one.sqnr_db) for one in layer.formats)) for layer in layers]
        self.layers = Listed(layers, table(rows, ("layer", "weights", *(f"{name}, dB" for name in head))))

    def __repr__(self):
        weights = sum(layer.weights for layer in self.layers)
        facts = [f"{len(self.layers)} layers of {weights:,} weights"]
        if self.layers:
            facts.append(f"worst is {self.layers[0].name}")
        chosen = self.report.get("allocation")
        if chosen:
            size = chosen.get("file_bytes", chosen["bytes"])
            facts.append(f"for {chosen['budget']}: {chosen['mean_bits']:.2f} bits a weight, {size:,} bytes")
        return f"<dsconv.Analysis {self.report['model']}: {', '.join(facts)}>"

    def _repr_html_(self):
        return self.layers._repr_html_()


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

    `named` are the paths and names that the caller gave: one of them it is where an error says that something is not there.
    """

    def __init__(self, progress=None, depth=4, named=()):
        self.notes = []
        self._line = _Line() if progress is True or (progress is None and _is_watched()) else None
        self._progress = progress if callable(progress) else self._line
        #: The frames from `warn` to the user's: of `warn`, `_run` and `quantize` or `analyze`.
        self._depth = depth
        self._named = tuple(name for name in named if isinstance(name, (str, os.PathLike)) and os.fsdecode(name))

    def note(self, text):
        self.notes.append(said(text))

    def assume(self, text):
        self.notes.append(said(text))
        self.clear()
        warnings.warn(said(text), UserWarning, stacklevel=self._depth)

    def warn(self, text):
        self.clear()
        warnings.warn(said(text), UserWarning, stacklevel=self._depth)

    def error(self, text, hint, is_missing):
        return failure(text, hint, is_missing, self._named)

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
    image_sum=False,
    winograd=None,
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
    - a folder, a picture, the name of a data set, `"synthetic"` for pictures that are drawn and that the network changes towards its classes, as without any, `"drawn"`
      for pictures that are drawn, which takes less time, `"none"` for no fit;
    - pictures: a list or a generator of what `Model.input` takes, or uint8 `[N, H, W, 3]` or `[N, 3, H, W]`;
    - inputs of the network: floats `[N, C, H, W]` or `[N, H, W, C]`, an array, a tensor, or a list or generator of these. They
      are taken as they are; those that no picture becomes as the network's preprocessing says are refused.
    - a data set or a loader of PyTorch, of inputs or of pictures: of each item or batch the first part, what follows being labels. Of a
      loader the first `image_count` images are taken, so that it should shuffle.
    At most `image_count` are used, spread over them: 128, or 32 synthetic or drawn ones. Drawn ones join fewer than 32.

    Numbers: `bits` of a weight and `activation_bits` of a layer's input, 2 to 8 (4); `image_bits`, the least of a layer that
    reads the image (8); `image_sum` gives all pixels one scale there, so that it is two to four times as fast; `winograd`, the bits of the inputs of
    3x3 convolutions (2 to 6), gives these the form for Winograd's algorithm, faster on x86 CPUs without AMX; `block` and `activation_block`, the channels that share a scale (32, or "pixel" for all); `rule`, how codes and scales are found
    ("mse", "l2", "kl" or "balanced"); `activation_scale`, "float" or "pow2"; `weights_only` keeps all inputs in floats.

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

    Raises `TypeError` for an argument of another kind, `dsconv.Error` for what is refused, `dsconv.MissingError` where there is nothing
    at a path or of a name.
    """
    given = _kinds.checked({name: value for name, value in locals().items() if name not in ("model", "images", "rules")})
    given.pop("progress", None)
    ear = _Ear(progress, named=(model, images, rules, classes, arch))
    if rules is not None:
        if not isinstance(rules, (str, os.PathLike, Analysis)):
            raise wrong("rules", rules, "a path, or the result of `dsconv.analyze`")
        if isinstance(rules, Analysis) and rules.rules is None:
            raise Error("the analysis has no rules: `dsconv.analyze(..., budget=...)` makes some")
        given["rules"] = rules
    words = _words({name: value for name, value in given.items() if name not in ("layers", "rules", "classes")})
    words += [f"--layer={name}={value}" for name, value in given.get("layers", {}).items()]
    with contextlib.ExitStack() as files:
        if isinstance(rules, Analysis):
            rules = _file(files, ".toml", rules.rules)
        words += _words({"rule_file": rules, "classes": _classes(files, given)})
        found, state_dict = _run(_native.quantize, model, given, images, words, ear, given.get("image_count", _MOST))
    origin = {"model": "state_dict" if isinstance(model, Mapping) else os.fspath(model)}
    if isinstance(images, (str, os.PathLike)):
        origin["images"] = os.fspath(images)
    return Quantized(*found, ear.notes, origin | given, state_dict)


def analyze(
    model,
    *,
    images=None,
    count=None,
    arch=None,
    bits=None,
    proxy=False,
    budget=None,
    classes=None,
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

    `model`, `arch`, `classes`, `images`, `progress` and what describes images are those of `dsconv.quantize`; `count` images are used (8).
    `bits` are the widths to try, one or several (4 and 8); `activation_bits` the least of a layer's input, which has as many as
    the weight otherwise. `proxy` estimates to first order, several times as fast.

    With a `budget` a format is chosen for every layer, which `dsconv.quantize(model, rules=analysis)` takes: "4.2bits", the
    mean bits of a weight; "6MB", "900kB" or a number of bytes, the size of the file, `.dsc` or `.safetensors`; "12ms", the time of an
    image in the engine on one thread of this machine. The file is that of `dsconv.quantize` without other formats, and with the
    same `classes`, whose names it holds.

    Raises `TypeError`, `dsconv.Error` and `dsconv.MissingError` as `dsconv.quantize` does.
    """
    given = _kinds.checked({name: value for name, value in locals().items() if name not in ("model", "images")}, _kinds.ANALYZED)
    given.pop("progress", None)
    if _kinds.is_whole(budget):
        given["budget"] = f"{budget}B"
    # Without images they are drawn.
    images = None if isinstance(images, str) and images == "drawn" else images
    ear = _Ear(progress, named=(model, images, classes, arch))
    with contextlib.ExitStack() as files:
        words = _words(given | {"classes": _classes(files, given)})
        (report, svg, rules), _ = _run(_native.analyze, model, given, images, words, ear, given.get("count", _MOST_ANALYZED))
    return Analysis(json.loads(report), svg, rules, ear.notes)


def networks():
    """Returns the names of the networks that can be built, for `arch`; those that come with weights are models by themselves."""
    return _native.networks()


#: The most images that `quantize` and `analyze` use where no number is said.
_MOST = 128
_MOST_ANALYZED = 8


def _run(command, model, given, images, words, ear, most):
    """Calls a command for a model and at most so many images of any kind. Returns what it returns, and the state dict that was given."""
    state_dict, data = None, None
    arch = given.get("arch")
    if isinstance(model, Mapping):
        state_dict = _state_dict.find(model)
        data = _state_dict.to_bytes(state_dict)
        name = "state_dict" if arch is None else arch
    elif isinstance(model, (str, os.PathLike)):
        name = os.fsdecode(model)
        if arch is not None:
            words = [*words, f"--weights={name}"]
            name = arch
    else:
        advice = ": give `model.state_dict()`" if hasattr(model, "state_dict") else ""
        raise wrong("the model", model, f"a path, a name or a state dict{advice}")
    if isinstance(images, (str, os.PathLike)):
        if is_picture_file(images):
            images = [images]
        else:
            words = [*words, f"--images={os.fsdecode(images)}"]
            images = None
    try:
        # After `--` a name may begin with a dash.
        return command([*words, "--", name], data, images_of(images, most), ear), state_dict
    finally:
        ear.clear()


def _classes(stack, given):
    """Returns the file of the classes' names: the one that is given, or a temporary one."""
    classes = given.get("classes")
    if classes == []:
        raise Error("classes has no names")
    return _file(stack, ".json", json.dumps(classes)) if isinstance(classes, list) else classes


def _words(options):
    """Writes arguments as the words of the command line: `image_bits=8` is `--image-bits=8`."""
    words = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if name in ("arch",) or value is None:
            continue
        if value is True:
            words.append(option)
        elif name == "skip":
            words += [f"{option}={layer}" for layer in ([value] if isinstance(value, str) else value)]
        else:
            words.append(f"{option}={_word(value)}")
    return words


def _word(value):
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return os.fsdecode(value) if isinstance(value, (str, os.PathLike)) else repr(value)


def _file(stack, ending, text):
    """Writes a temporary file, for what a command takes as one."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dsconv-"))
    path = os.path.join(folder, f"given{ending}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path
