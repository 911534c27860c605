"""`dsconv.quantize`, `analyze` and `read_report` against the command line, ONNX Runtime, PyTorch and torchvision."""

import copy
import csv
import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import NAMES, PICTURES, ROOT, bits, command, in_a_fork, ran

import dsconv
from dsconv._words import said as in_python

NETWORK = "resnet50-embedded"
#: Files that hold the same as their decoded pixels.
LOSSLESS = ["rgb.png", "rgba.png", "palette.png", "rgb.bmp", "tall.png", "small.png", "bits.png", "gray.png"]


def pictures():
    return [PICTURES / name for name in LOSSLESS]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of the same pictures, whose names sort in this order."""
    folder = tmp_path_factory.mktemp("photos")
    for i, path in enumerate(pictures()):
        (folder / f"{i}{path.suffix}").write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def quantized():
    return dsconv.quantize(NETWORK, images="none")


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, []),
        ({"images": "none", "bits": 8, "activation_bits": 8}, ["--images", "none", "--bits", "8", "--activation-bits", "8"]),
        (
            {"images": "embedded", "image_count": 24, "block": 16, "rule": "l2", "scales": "two-level", "skip": ["conv1", "fc"]},
            "--images embedded --image-count 24 --block 16 --rule l2 --scales two-level --skip conv1 --skip fc".split(),
        ),
        (
            {"images": "drawn", "image_count": 4, "layers": {"layer1.*": 8, "fc": "float"}, "keep_worst": True, "floats": "f16"},
            "--images drawn --image-count 4 --layer layer1.*=8 --layer fc=float --keep-worst --floats f16".split(),
        ),
        (
            {"images": "none", "weights_only": True, "convolutions_only": True, "mean": (0.1, 0.2, 0.3), "std": 0.25, "block": "pixel"},
            "--images none --weights-only --convolutions-only --mean 0.1,0.2,0.3 --std 0.25 --block pixel".split(),
        ),
    ],
)
def test_files_and_figures_are_those_of_the_command(tmp_path, arguments, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = dsconv.quantize(NETWORK, **arguments)
    done = ran("--json", "quantize", NETWORK, *options, "-o", tmp_path / "theirs.dsc")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {key: said[key] for key in made.report} == made.report
    assert set(said) - set(made.report) == {"path", "bytes", "fp32_bytes", "ratio", "seconds"}
    # Of drawn pictures that join few the command tells in its result.
    warned = [str(one.message) for one in caught if "drawn pictures join them" not in str(one.message)]
    assert warned == [
        in_python(line.removeprefix("warning: ")) for line in done.stderr.splitlines() if line.startswith("warning: ")
    ]
    assert made.fp32_size == said["fp32_bytes"] and made.size == said["bytes"]
    command("quantize", NETWORK, *options, "-o", tmp_path / "theirs.safetensors")
    command("export", tmp_path / "theirs.dsc", "-o", tmp_path / "theirs.onnx")
    for ending in ["dsc", "safetensors", "onnx"]:
        size = made.save(tmp_path / f"ours.{ending}")
        ours, theirs = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ["ours", "theirs"])
        assert ours == theirs and len(ours) == size, ending
    assert made.file.endswith("ours.onnx") and made.verify()


def test_a_result_runs_as_its_file_does(quantized, tmp_path):
    quantized.save(tmp_path / "model.dsc")
    loaded = dsconv.load(tmp_path / "model.dsc", threads=1)
    x = np.random.default_rng(1).standard_normal((5, *loaded.shape), dtype=np.float32)
    assert bits(quantized.predict(x)) == bits(loaded.predict(x))
    assert quantized.classify(PICTURES / "rgb.png") == loaded.classify(PICTURES / "rgb.png")
    for name in ["name", "size", "classes", "shape", "outputs", "parameters", "weight_bits", "activation_bits", "source"]:
        assert getattr(quantized, name) == getattr(loaded, name), name
    assert (quantized.weight_bits, quantized.activation_bits) == (4, 4)
    layer = quantized.layers[0]
    assert layer.format.startswith("W4 ") and ", A8 " in layer.format, "it reads the image"
    assert layer.name == "conv1" and layer.weights == 16 * 3 * 9 and layer.sqnr_db > 10
    assert quantized.float_layers == []


def test_an_onnx_file_keeps_what_onnx_runtime_says_of_it(folder, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(folder / "float.onnx", providers=["CPUExecutionProvider"])
    made = dsconv.quantize(folder / "float.onnx", bits=8, activation_bits=8, images="embedded", image_count=32)
    x = np.stack([made.input(PICTURES / name) for name in NAMES])
    expected = session.run(None, {session.get_inputs()[0].name: x})[0]
    logits = made.predict(x)
    noise = np.square(logits - expected).sum() / np.square(expected - expected.mean(0)).sum()
    assert noise < 0.01, noise
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 7 / 8
    verdict = made.verdict
    assert verdict.images == 8 and verdict.same >= 7 and not verdict.broken and verdict.on == "drawn pictures"
    assert str(verdict).startswith(f"on 8 drawn pictures: the class of FP32 for {verdict.same}, logits {verdict.sqnr_db:.1f} dB")
    # Enough are held out of 64, and the verdict is on them.
    images = list(np.random.default_rng(3).integers(0, 256, (64, 40, 40, 3), np.uint8))
    verdict = dsconv.quantize(folder / "float.onnx", images=images, skip=["layer2*", "layer3*", "layer4*"]).verdict
    assert (verdict.on, verdict.images) == ("given pictures, held out", 8)
    assert str(verdict).startswith(f"on 8 given pictures, held out: the class of FP32 for {verdict.same}")

    # What is written computes in ONNX Runtime what the engine computes, but for sums in another order.
    made.save(tmp_path / "int.onnx")
    session = ort.InferenceSession(tmp_path / "int.onnx", providers=["CPUExecutionProvider"])
    exported = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.abs(exported - logits).max() < 0.05 * np.abs(logits).max()
    # The file that was read is not replaced.
    whole = (folder / "float.onnx").read_bytes()
    with pytest.raises(dsconv.Error, match=r"float.onnx` is the file that is read\n\nhint: name another file to write"):
        made.save(folder / "float.onnx")
    assert (folder / "float.onnx").read_bytes() == whole


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    # Its threads wait for each other where other work shares the cores.
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def resnet(torch):
    """ResNet-18 whose statistics are those of its own activations, as in a trained network."""
    models = pytest.importorskip("torchvision.models")
    module = models.resnet18(num_classes=12)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
    with torch.no_grad():
        module(inputs(torch))
    return module.eval()


#: Not 224, so that it is fast.
SIDE = 64


def inputs(torch):
    """Inputs that smooth pictures become."""
    x = torch.nn.functional.interpolate(torch.rand(8, 3, 9, 9), (SIDE, SIDE), mode="bilinear")
    return (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def test_a_state_dict_of_torchvision_keeps_its_logits(torch, resnet, tmp_path):
    x = inputs(torch)
    made = dsconv.quantize(resnet.state_dict(), arch="resnet18", input=SIDE, bits=8, activation_bits=8, images=x)
    assert (made.name, made.shape, made.outputs) == ("resnet18", (3, SIDE, SIDE), 12)
    assert made.report["fit"]["images"] == "given inputs" and made.report["fit"]["count"] == 7
    with torch.no_grad():
        expected = resnet(x).numpy()
    logits = made.predict(x.numpy())
    noise = np.square(logits - expected).sum() / np.square(expected - expected.mean(0)).sum()
    assert noise < 0.01, noise

    # The same weights as a file, as arrays, in float16 and in bfloat16.
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    x, few = x.numpy(), {"input": SIDE, "images": "none", "skip": ["layer3*", "layer4*"]}
    plain = dsconv.quantize(tmp_path / "weights.pth", arch="resnet18", **few)
    assert plain.source == str(tmp_path / "weights.pth")
    expected = bits(plain.predict(x))
    arrays = {name: tensor.numpy() for name, tensor in resnet.state_dict().items()}
    found = dsconv.quantize(arrays, **few)
    assert bits(found.predict(x)) == expected and found.source == "state_dict"
    assert found.notes[0] == "state_dict is resnet18 with 12 classes, found by its parameters"
    # As training scripts save it.
    for nested in [{"epoch": 3, "state_dict": arrays}, {"model": arrays, "optimizer": {"lr": np.zeros(1)}}]:
        assert bits(dsconv.quantize(nested, **few).predict(x)) == expected
    words = ["--weights", tmp_path / "weights.pth", "--input", SIDE, "--images", "none", "--skip", "layer3*", "--skip", "layer4*"]
    command("quantize", "resnet18", *words, "-o", tmp_path / "theirs.dsc")
    plain.save(tmp_path / "ours.dsc")
    assert (tmp_path / "ours.dsc").read_bytes() == (tmp_path / "theirs.dsc").read_bytes()
    for half in [torch.float16, torch.bfloat16]:
        rounded = {name: tensor.to(half) if tensor.is_floating_point() else tensor for name, tensor in resnet.state_dict().items()}
        wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in rounded.items()}
        ours, theirs = (dsconv.quantize(weights, arch="resnet18", **few) for weights in [rounded, wide])
        assert bits(ours.predict(x[:2])) == bits(theirs.predict(x[:2])) != expected[:2]


def test_pytorch_computes_the_same_with_the_dequantized_weights(torch, resnet):
    made = dsconv.quantize(resnet.state_dict(), arch="resnet18", input=SIDE, weights_only=True, images="none")
    models = pytest.importorskip("torchvision.models")
    module = models.resnet18(num_classes=12).eval()
    module.load_state_dict(made.state_dict())
    arrays = {name: tensor.numpy() for name, tensor in resnet.state_dict().items()}
    of_arrays = dsconv.quantize(arrays, arch="resnet18", input=SIDE, weights_only=True, images="none").state_dict()
    assert all(np.array_equal(of_arrays[name], tensor.numpy()) for name, tensor in made.state_dict().items())
    x = inputs(torch)
    with torch.no_grad():
        expected = module(x).numpy()
    # The scales of a file are halves, which the state dict holds too: all that differs are sums in another order.
    assert np.abs(made.predict(x.numpy()) - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_network_that_gives_one_class_to_all_images_is_no_measure(torch, resnet):
    weights = resnet.state_dict()
    weights["fc.bias"] = 1e3 * torch.eye(12)[3]
    with pytest.warns(UserWarning, match=r"the float network itself gives one class to 8 of 8 drawn pictures.*\(mean, std, order, divide\)"):
        made = dsconv.quantize(weights, arch="resnet18", input=SIDE, images="none", skip=["layer3*", "layer4*"])
    assert made.verdict.constant and made.verdict.alike == 8 and "not known" in made.verdict._repr_html_()


def test_a_state_dict_comes_back_under_the_names_that_it_was_given(torch, resnet):
    class Trained(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.DataParallel(resnet)

    for module in [resnet, torch.nn.DataParallel(resnet), torch.compile(resnet), Trained()]:
        given = module.state_dict()
        made = dsconv.quantize(given, arch="resnet18", input=SIDE, images="none", skip=["layer3*", "layer4*"])
        assert list(made.state_dict()) != [] and set(made.state_dict()) == set(given)
        # `strict` is the default. The fixture keeps its weights.
        copy.deepcopy(module).load_state_dict(made.state_dict())


def test_images_are_those_of_pytorchs_data(torch, quantized):
    data = torch.utils.data
    inputs = torch.from_numpy(np.stack([quantized.input(path) for path in pictures()] * 2))
    quantize = functools.partial(dsconv.quantize, NETWORK, skip="layer*")
    expected = quantize(images=inputs)._data
    labelled = data.TensorDataset(inputs, torch.zeros(len(inputs)))

    class Watched(data.Dataset):
        """Items that are written down when they are read."""

        def __init__(self, items):
            self.items, self.indices = items, []

        def __len__(self):
            return len(self.items)

        def __getitem__(self, index):
            self.indices.append(index)
            return self.items[index]

    for images in [labelled, data.TensorDataset(inputs), data.DataLoader(labelled, 3), data.Subset(labelled, range(16))]:
        assert quantize(images=images)._data == expected, type(images)
    # Of a data set as many are read as are used, and of a loader the first.
    watched = Watched(labelled)
    assert quantize(images=watched, image_count=4)._data == quantize(images=inputs, image_count=4)._data
    assert watched.indices == [0, 4, 8, 12]
    first = quantize(images=inputs[:4])._data
    assert quantize(images=data.DataLoader(labelled, 3), image_count=4)._data == first
    pixels = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    of_pixels = data.TensorDataset(pixels, torch.zeros(6))
    for images in [of_pixels, data.DataLoader(of_pixels, 4), pixels]:
        assert quantize(images=images)._data == quantize(images=list(pixels.numpy()))._data


def test_inputs_are_those_of_torchvision(torch, resnet):
    transforms = pytest.importorskip("torchvision.transforms")
    image = pytest.importorskip("PIL.Image")
    made = dsconv.quantize(resnet.state_dict(), arch="resnet18", input=SIDE, images="none", skip="layer*")
    prepare = transforms.Compose(
        [
            # 256 is to 224 as 74 to 64, rounded up.
            transforms.Resize(74),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for name in LOSSLESS:
        opened = image.open(PICTURES / name).convert("RGB")
        assert bits(made.input(opened)) == bits(prepare(opened).numpy()), name


def test_images_of_every_kind_are_the_same_images(photos):
    image = pytest.importorskip("PIL.Image")
    paths = sorted(photos.iterdir())
    # The fit of a few layers is fast.
    quantize = functools.partial(dsconv.quantize, NETWORK, skip=["layer2*", "layer3*", "layer4*"])
    expected = quantize(images=photos)
    assert expected.report["fit"]["count"] == 7, "one of eight is held out"
    inputs = np.stack([expected.input(path) for path in paths])
    kinds = {
        "paths": paths,
        "names": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "pillow": [image.open(path) for path in paths],
        "mixed": [paths[0], *(np.asarray(image.open(path).convert("RGB")) for path in paths[1:])],
        "generator": (path for path in paths),
        "inputs": inputs,
        "strided": np.asfortranarray(inputs),
        "doubles": inputs.astype(np.float64),
        "channels last": inputs.transpose(0, 2, 3, 1),
        "list of inputs": list(inputs),
        "batches": (inputs[i : i + 3] for i in range(0, 8, 3)),
    }
    for kind, images in kinds.items():
        made = quantize(images=images)
        assert made._data == expected._data, kind
        figures = {key: made.report["fit"][key] for key in ["count", "held_out", "layers"]}
        assert figures == {key: expected.report["fit"][key] for key in figures}, kind
    pixels = np.stack([np.asarray(image.open(PICTURES / "rgb.png").convert("RGB"))] * 8)
    array = quantize(images=pixels, image_count=3)
    assert array.report["fit"]["count"] == 3 and array.report["fit"]["images"] == "given pictures"
    one = quantize(images=[PICTURES / "rgb.png"])
    assert array._data == quantize(images=[PICTURES / "rgb.png"] * 3)._data
    assert quantize(images=pixels.transpose(0, 3, 1, 2), image_count=3)._data == array._data
    path = PICTURES / "rgb.png"
    for single in [path, str(path), pixels[0], image.open(path), inputs[LOSSLESS.index("rgb.png")]]:
        assert quantize(images=single)._data == one._data


def test_inputs_that_were_prepared_otherwise_are_refused(quantized):
    good = np.stack([quantized.input(path) for path in pictures()])
    refused = {
        "integers": (good.astype(np.int64), r"the images are int64 \[8, 3, 32, 32\]: expected inputs of the network, floats"),
        "flat": (good[0, 0], r"the array has the shape \[32, 32\]: expected \[N, C, H, W\] or \[C, H, W\]"),
        "sizes": ([good[0], good[0, :, :16]], r"the inputs have different shapes: \[3, 16, 32\], \[3, 32, 32\]"),
        "size": (good[:, :, :16], r"the inputs have the shape \[8, 3, 16, 32\]: expected \[N, 3, 32, 32\]"),
        "bytes": (np.full_like(good, 200), r"input \[0, 0, 0, 0\] is 200: a normalised pixel is from -[\d.]+ to [\d.]+"),
        "0..1": (np.full_like(good, 0.5), "all inputs are from 0 to 1, as pixels are before they are normalised"),
        "nan": (np.full_like(good, np.nan), r"input \[0, 0, 0, 0\] is NaN"),
        "none": (good[:0], "no images are given: the array is empty"),
        "no pictures": ([], "no pictures are given"),
        "large": (good.astype(np.float64) * 1e300, r"input \[0, 0, 0, \d\] is -?[\d.]+e\+\d+, which is too large for float32"),
        "folders": ([PICTURES], "a folder, not an image"),
        "text": ([b"a text"], "not an image: neither JPEG, PNG, BMP nor WebP"),
    }
    for name, (images, words) in refused.items():
        with pytest.raises(dsconv.Error, match=words):
            dsconv.quantize(NETWORK, images=images)
            pytest.fail(name)
    with pytest.raises(dsconv.Error) as error:
        dsconv.analyze(NETWORK, images=np.full_like(good, 0.5))
    assert "mean, std and divide say how" in error.value.hint
    # A network that takes 0..255 as it is.
    with pytest.raises(dsconv.Error, match="those of pictures spread over 0.000 to 255.000"):
        dsconv.quantize(NETWORK, images=good, divide=1, mean=0, std=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bits": 9}, ["--bits=9"]),
        ({"winograd": 7}, ["--winograd=7"]),
        ({"scales": "f8"}, ["--scales=f8"]),
        ({"image_count": 0}, ["--image-count=0"]),
        ({"images": "none", "image_count": 3}, ["--images=none", "--image-count=3"]),
        ({"images": "none.folder"}, ["--images=none.folder"]),
        ({"images": "none. "}, ["--images=none. "]),
        ({"weights_only": True, "activation_bits": 8}, ["--activation-bits=8", "--weights-only"]),
        ({"layers": {"nothing*": 8}}, ["--layer=nothing*=8"]),
        ({"layers": {"conv1": 1}}, ["--layer=conv1=1"]),
        ({"skip": ["*"]}, ["--skip=*"]),
        ({"block": 32, "activation_block": 8}, ["--block=32", "--activation-block=8"]),
        ({"std": 0}, ["--std=0"]),
        ({"rules": "none.toml"}, ["--rule-file=none.toml"]),
        ({"input": (32, 64)}, ["--input=32,64"]),
        ({"classes": "none.txt"}, ["--classes=none.txt"]),
    ],
)
def test_errors_are_those_of_the_command(arguments, words):
    with pytest.raises(dsconv.Error) as error:
        dsconv.quantize(NETWORK, **arguments)
    said = ran("quantize", *words, NETWORK)
    assert said.returncode in (1, 2)
    # The command adds how it is used.
    expected = in_python(said.stderr.removeprefix("error: ").split("\n\nUsage:")[0].split("\n\nFor more")[0].strip())
    assert str(error.value) == expected and len(expected) > 10
    assert "--" not in expected and "`dsconv " not in expected and "possible values" not in expected
    assert (error.value.hint is None) == ("\n\nhint: " not in expected)
    assert isinstance(error.value, ValueError) and isinstance(error.value, FileNotFoundError) == ("none." in expected)


def test_models_that_are_none_are_named(tmp_path):
    for model in ["resnet5", "resnet50", "no/such.onnx", "--bits", tmp_path, PICTURES / "rgb.png"]:
        with pytest.raises(dsconv.Error) as error:
            dsconv.quantize(model)
        assert str(error.value) == in_python(ran("quantize", "--", model).stderr.removeprefix("error: ").strip())
        is_missing = isinstance(model, str)
        assert isinstance(error.value, FileNotFoundError) == is_missing
        assert not is_missing or error.value.filename == model
    for model, words in [
        ({"one": {"a": np.zeros(1)}, "two": {"a": np.zeros(1)}}, "the state dict is one of `one`, `two`: give that one"),
        ({"a": np.zeros(1, complex)}, "state_dict: `a` has the type complex128: expected numbers"),
        ({"a": np.zeros(1)}, "state_dict: these parameters are of no network that dsconv can build"),
        ({}, "the state dict is empty"),
    ]:
        with pytest.raises(dsconv.Error, match=words):
            dsconv.quantize(model)
    with pytest.raises(dsconv.MissingError, match="no network is named `resnet5`: `arch` needs one\n\nhint: did you mean `resnet50`"):
        dsconv.quantize({"a": np.zeros(1)}, arch="resnet5")
    for missing in [{"arch": "resnet18", "model": "none.pth"}, {"classes": "none.txt"}, {"rules": "none.toml"}, {"images": "none"}]:
        if "images" in missing:
            missing = functools.partial(dsconv.analyze, missing.pop("model", NETWORK), **missing)
        else:
            missing = functools.partial(dsconv.quantize, missing.pop("model", NETWORK), **missing)
        with pytest.raises(dsconv.MissingError, match="none") as error:
            missing()
        assert error.value.filename.startswith("none")
    with pytest.raises(dsconv.Error, match="hint: `dsconv.networks()` lists the names".replace("()", r"\(\)")):
        dsconv.quantize({"a": np.zeros(1)}, arch="transformer")
    assert "resnet50" in dsconv.networks() and NETWORK in dsconv.networks()
    with pytest.raises(FileNotFoundError, match="none.png`: there is no such file"):
        dsconv.quantize(NETWORK, images=[PICTURES / "rgb.png", "none.png"])
    with pytest.raises(TypeError):
        dsconv.quantize(NETWORK, bit=4)


def test_what_is_of_another_kind_is_a_type_error(quantized):
    with open(PICTURES / "rgb.png", "rb") as file, open(ROOT / "README.md") as text:
        models = [None, 3, b"bytes", [], file, np.zeros(3), {"a": "b"}, {"model": {"a": "b"}}, {1: np.zeros(1)}]
        tried = [(dsconv.quantize, {"model": model}) for model in models]
        tried += [
            (dsconv.quantize, {name: value})
            for name, values in {
                "bits": [True, "4", 4.0, [4]],
                "images": [3, True, {}, text, [None], [3], [[1]], [(PICTURES / "rgb.png", 1)], [{"image": 1}]],
                "image_count": [True, 8.0],
                "arch": [3, b"resnet18"],
                "block": [True, 32.0],
                "rule": [3],
                "weights_only": [1, "yes"],
                "keep_worst": [5, []],
                "layers": [5, "conv1", [("conv1", 8)], {"conv1": None}, {"conv1": True}, {"conv1": 8.5}, {3: 4}],
                "skip": [5, True, [5]],
                "rules": [5, b"rules", {}, file, quantized],
                "classes": [5, {"a": 1}, [1, 2], file],
                "mean": ["0.5", True, [None], {}],
                "input": [True, 32.0],
                "resize": [False, b"3"],
                "scales": [16],
                "progress": [5, "yes"],
            }.items()
            for value in values
        ]
        tried += [(dsconv.analyze, {"bits": True}), (dsconv.analyze, {"bits": [4.0]}), (dsconv.analyze, {"bits": "4,8"})]
        tried += [(dsconv.analyze, {"budget": 4.2}), (dsconv.analyze, {"proxy": 1}), (dsconv.analyze, {"count": 8.0})]
        for function, arguments in tried:
            with pytest.raises(TypeError, match="(has the type|is ).*: (expected|give|open)"):
                function(**{"model": NETWORK, **arguments})
                pytest.fail(f"it takes {arguments}")
    with pytest.raises(dsconv.Error, match="classes has no names"):
        dsconv.quantize(NETWORK, classes=[])


def test_numbers_of_numpy_and_pytorch_are_numbers(torch):
    plain = dsconv.quantize(NETWORK, bits=3, images="none", mean=(0.25, 0.5, 0.75), std=0.5, layers={"fc": 8}, weights_only=True)
    arguments = {"mean": torch.tensor([0.25, 0.5, 0.75]), "std": np.float32(0.5), "layers": {"fc": np.int64(8)}}
    made = dsconv.quantize(NETWORK, bits=np.uint8(3), images="none", weights_only=np.True_, skip=iter([]), **arguments)
    assert made._data == plain._data


def test_what_is_said_by_half_is_assumed(quantized):
    for said, rest in [
        ({"mean": 0.5}, "a deviation of [0.229, 0.224, 0.225] (std)"),
        ({"std": 0.5}, "a mean of [0.485, 0.456, 0.406] (mean)"),
        ({"order": "bgr"}, "a mean of [0.485, 0.456, 0.406] (mean); a deviation of [0.229, 0.224, 0.225] (std)"),
    ]:
        with pytest.warns(UserWarning) as caught:
            dsconv.quantize(NETWORK, images="none", **said)
        assert [str(one.message) for one in caught] == [f"assumed: {rest}"]


def test_a_warning_is_pythons_at_the_callers_line():
    with pytest.warns(UserWarning, match="the quantized network is broken") as caught:
        dsconv.quantize(NETWORK, bits=2, activation_bits=2, images="none")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="broken"):
            dsconv.quantize(NETWORK, bits=2, activation_bits=2, images="none")


def test_what_is_assumed_is_a_warning(torch, resnet, tmp_path):
    few = {"input": SIDE, "images": "none", "skip": ["layer*"]}
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    values = "ImageNet's mean and deviation of RGB in 0..1 (mean, std, order, divide)"
    sizes = "images of a shorter side of 74, of which the middle 64x64 is cut out (resize, crop)"
    for model in [resnet.state_dict(), tmp_path / "weights.pth"]:
        with pytest.warns(UserWarning) as caught:
            made = dsconv.quantize(model, arch="resnet18", **few)
        assert [str(one.message) for one in caught] == [f"assumed: {values}; {sizes}"]
        assert caught[0].filename == __file__ and str(caught[0].message) in made.notes
    with pytest.warns(UserWarning, match="does not say how its images are prepared; assumed: ImageNet's mean"):
        dsconv.quantize(ROOT / "crates/cli/tests/mistakes/labels.onnx", images="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "resize": 74, "crop": SIDE}
        made = dsconv.quantize(resnet.state_dict(), arch="resnet18", **few, **told)
    assert (made.preprocessing.resize, made.preprocessing.crop) == (74, (SIDE, SIDE))


def test_drawn_pictures_beside_few_are_a_warning(photos):
    with pytest.warns(UserWarning, match="only 7 images to fit layers on: 25 drawn pictures join them"):
        made = dsconv.quantize(NETWORK, images=photos, skip="layer*")
    assert made.report["fit"]["drawn"] == 25


def test_a_forked_process_quantizes():
    expected = dsconv.quantize(NETWORK, image_count=4)
    x = np.random.default_rng(5).standard_normal((3, *expected.shape), dtype=np.float32)
    logits = bits(expected.predict(x))

    def again():
        made = dsconv.quantize(NETWORK, image_count=4)
        return made._data, bits(made.predict(x)), bits(expected.predict(x))

    assert in_a_fork(again) == (expected._data, logits, logits)
    assert dsconv.quantize(NETWORK, image_count=4)._data == expected._data


def test_a_process_that_is_forked_while_a_network_is_quantized_does_not_hang():
    def tried():
        try:
            return dsconv.quantize(NETWORK, images="none").verify()
        except dsconv.Error as error:
            return str(error)

    begun, found = threading.Event(), []
    thread = threading.Thread(target=lambda: dsconv.quantize(NETWORK, images="embedded", progress=lambda _: begun.set()))
    thread.start()
    begun.wait()
    found.append(in_a_fork(tried))
    thread.join()
    found.append(in_a_fork(tried))
    assert found[0].startswith("another thread quantized or analyzed a network when this process was forked") and found[1] is True


def test_a_result_stays_what_it_is_when_it_is_passed_on(quantized, folder, tmp_path):
    analysis = dsconv.analyze(NETWORK, budget="4.2bits", proxy=True, count=2)
    both = {"fitted": dsconv.quantize(NETWORK, rules=analysis, image_count=2, scales="two-level"), "plain": quantized}
    for name, made in both.items():
        others = [pickle.loads(pickle.dumps(made)), copy.deepcopy(made)]
        for other in others:
            assert type(other) is dsconv.Quantized
            for fact in ["name", "report", "verdict", "layers", "float_layers", "notes", "fp32_size", "file", "size", "_repr_html_"]:
                ours, theirs = getattr(other, fact), getattr(made, fact)
                assert (ours() == theirs()) if callable(ours) else (ours == theirs), fact
        for other in others:
            for ending in ["dsc", "safetensors", "onnx"]:
                files = [tmp_path / f"{name}-{i}.{ending}" for i in range(2)]
                for one, file in zip([made, copy.copy(other)], files):
                    one.save(file)
                assert files[0].read_bytes() == files[1].read_bytes(), ending
            x = np.random.default_rng(6).standard_normal((2, *made.shape), dtype=np.float32)
            assert bits(other.predict(x)) == bits(made.predict(x))
            assert {name: array.tobytes() for name, array in other.state_dict().items()} == {
                name: array.tobytes() for name, array in made.state_dict().items()
            }
    with pytest.raises(dsconv.Error, match="is the file that is read"):
        pickle.loads(pickle.dumps(dsconv.quantize(folder / "float.onnx", images="none"))).save(folder / "float.onnx")


def test_a_budget_of_bytes_is_that_of_the_file(quantized, tmp_path):
    # Scales that are too small for halves are floats: only a layer that was quantized tells.
    small = {name: 1e-4 * array if ".bn3.weight" in name else array for name, array in quantized.state_dict().items()}
    names = {"classes": [f"the class of the number {i}" for i in range(16)]}
    for network, size, most, more in [
        (NETWORK, "600kB", 600_000, {}),
        (NETWORK, "905KB", 905_000, names),
        (NETWORK, 1_300_000, 1_300_000, {}),
        (small, "600kB", 600_000, {}),
        (small, "1MiB", 1 << 20, names),
    ]:
        found = dsconv.analyze(network, budget=size, proxy=True, **more)
        made = dsconv.quantize(network, rules=found, images="none", **more)
        sizes = [made.save(tmp_path / f"a.{ending}") for ending in ["dsc", "safetensors"]]
        assert max(sizes) <= most, (size, sizes)
        assert max(sizes) > 0.98 * most, (size, sizes)
        assert found.report["allocation"]["file_bytes"] == max(sizes)
        assert f"{max(sizes):,} bytes" in repr(found)


def test_a_line_says_how_far_it_is(capsys, monkeypatch):
    def said(**arguments):
        dsconv.quantize(NETWORK, image_count=4, **arguments)
        return capsys.readouterr().err

    monkeypatch.setattr("dsconv._quantize._Line.FIRST", 0)
    monkeypatch.setattr("dsconv._quantize._Line.EVERY", 0)
    assert said() == "", "stderr is no terminal"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = said()
    assert "fit layers: 1 of " in shown and shown.endswith("\r") and "\n" not in shown
    assert said(progress=False) == "" and said(progress=lambda _: None) == ""


def test_progress_is_heard_on_the_calling_thread():
    heard = []
    dsconv.quantize(NETWORK, image_count=4, progress=lambda step: heard.append((threading.get_ident(), step)))
    assert {thread for thread, _ in heard} == {threading.get_ident()}
    phases = {}
    for _, step in heard:
        assert 0 <= step.done <= step.total
        phases.setdefault(step.phase, []).append(step.done)
    assert len(phases) >= 2
    for phase, done in phases.items():
        assert done[0] == 0, phase


class Enough(Exception):
    pass


@pytest.mark.parametrize("command", ["quantize", "analyze"])
def test_an_exception_in_the_callback_stops_the_work(command):
    times = []

    def stop(step):
        times.append(time.monotonic())
        raise Enough(step.phase)

    with pytest.raises(Enough):
        getattr(dsconv, command)(NETWORK, images="embedded", progress=stop)
    assert len(times) == 1 and time.monotonic() - times[0] < 3
    # What was stopped leaves nothing behind that another call would meet.
    assert dsconv.quantize(NETWORK, images="none").verify()


@pytest.mark.parametrize("command", ["quantize", "analyze"])
def test_ctrl_c_stops_the_work(command):
    def kill(step):
        if not sent:
            sent.append(time.monotonic())
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    sent = []
    # A job in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        # More than a second of work comes after the first step.
        getattr(dsconv, command)(NETWORK, images="embedded", progress=kill, **({} if command == "analyze" else {"image_count": 2000}))
    assert time.monotonic() - sent[0] < 3.5


def test_other_threads_run_while_it_quantizes():
    counted, done = 0, threading.Event()
    thread = threading.Thread(target=lambda: (dsconv.quantize(NETWORK, image_count=8), done.set()))
    thread.start()
    while not done.wait(0.001):
        counted += 1
    thread.join()
    assert counted > 20


def test_layers_are_analyzed_as_the_command_does(photos, tmp_path):
    found = dsconv.analyze(NETWORK, images=photos, count=4, bits=[3, 8], proxy=True)
    said = json.loads(command("--json", "analyze", NETWORK, "--images", photos, "--count", 4, "--bits", "3,8", "--proxy"))
    assert found.report == said
    first = found.layers[0]
    assert (first.name, first.weights) == (said["layers"][0]["layer"], said["layers"][0]["weights"])
    assert [one.format for one in first.formats] == ["W3", "A4", "W3A4", "W8", "A8", "W8A8"]
    assert first.formats[0].noise == said["layers"][0]["formats"][0]["noise"]
    assert found.layers == sorted(found.layers, key=lambda layer: -max(one.noise for one in layer.formats))
    command("analyze", NETWORK, "--images", photos, "--count", 4, "--bits", "3,8", "--proxy", "--svg", tmp_path / "bars.svg")
    assert found.svg == (tmp_path / "bars.svg").read_text()
    assert found.rules is None and "<td" in found._repr_html_() and found.layers[0].name in repr(found)
    with pytest.raises(dsconv.Error, match="the analysis has no rules"):
        dsconv.quantize(NETWORK, rules=found)
    assert found.layers._repr_html_() == found._repr_html_()


def test_formats_are_chosen_within_a_budget(tmp_path):
    found = dsconv.analyze(NETWORK, budget="4.2bits", proxy=True, bits=[3, 4, 6])
    assert dsconv.analyze(NETWORK, images="drawn", budget="4.2bits", proxy=True, bits=[3, 4, 6]).rules == found.rules
    file = tmp_path / "rules.toml"
    command("analyze", NETWORK, "--budget", "4.2bits", "--proxy", "--bits", "3,4,6", "-o", file)
    assert found.rules == file.read_text().replace(str(file), "FILE")
    assert found.report["allocation"]["mean_bits"] <= 4.2
    ours = dsconv.quantize(NETWORK, rules=found, images="none")
    command("quantize", NETWORK, "--rule-file", file, "--images", "none", "-o", tmp_path / "theirs.dsc")
    assert ours._data == (tmp_path / "theirs.dsc").read_bytes()
    assert len({layer.format for layer in ours.layers}) > 1
    assert dsconv.quantize(NETWORK, rules=file, images="none")._data == ours._data


def test_classes_are_names_or_a_file(folder, tmp_path):
    names = [f"class <{i}>" for i in range(16)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    for classes in [names, tmp_path / "names.txt"]:
        made = dsconv.quantize(folder / "float.onnx", images="none", classes=classes)
        assert made.classes == names
    assert "class &lt;" in made.classify(PICTURES / "rgb.png")._repr_html_()


def test_the_results_of_a_run_are_read(tmp_path, quantized):
    tomllib = pytest.importorskip("tomllib")
    run = tmp_path / "run"
    little = ["data.limit=64", "data.eval_limit=32", "adapt.steps=1", "adapt.held_out=8", "adapt.fit_images=0"]
    command("distill", "resnet50_4bit", "--out", run, *(word for change in little for word in ["--set", change]))
    report = dsconv.read_report(run)
    assert report.run == str(run)
    assert report.metrics == json.loads((run / "metrics.json").read_text())
    assert report.config == tomllib.loads((run / "config.toml").read_text())
    rows = list(csv.DictReader((run / "predictions.csv").open()))
    assert report.predictions["image"].tolist() == [row["image"] for row in rows] and len(rows) == 32
    for name in ["label", "fp32", "quantized", "adapted"]:
        assert report.predictions[name].tolist() == [int(row[name] or -1) for row in rows], name
    top1 = 100 * (report.predictions["label"] == report.predictions["adapted"]).mean()
    assert top1 == pytest.approx(report.metrics["adapted"]["top1"])
    shown = report._repr_html_()
    assert "adapted" in shown and f"{report.metrics['fp32']['bytes']:,}" in shown
    (run / "predictions.csv").unlink()
    assert dsconv.read_report(run).predictions is None
    (run / "metrics.json").unlink()
    for missing in [run, tmp_path / "nothing"]:
        with pytest.raises(dsconv.Error) as error:
            dsconv.read_report(missing)
        assert str(error.value) == in_python(ran("compare", missing).stderr.removeprefix("error: ").strip())
        assert isinstance(error.value, dsconv.MissingError) and error.value.filename == str(missing)
    of_result = dsconv.read_report(quantized)
    assert of_result.metrics == quantized.report and of_result.config == {"model": NETWORK, "images": "none", "bits": 4}
    assert "weight_sqnr" not in of_result._repr_html_()


def test_the_example_of_the_readme_runs(torch, resnet, tmp_path, monkeypatch, capsys):
    ort = pytest.importorskip("onnxruntime")
    example = (ROOT / "crates/python/README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "photos").mkdir()
    for name, photo in [("a.png", "rgb.png"), ("b.jpg", "444.JPEG"), ("cat.jpg", "420.jpg")]:
        shutil.copy(PICTURES / photo, tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    # Its weights are downloaded.
    monkeypatch.setattr("torchvision.models.resnet18", lambda weights: resnet)
    names = {}
    exec(example, names)
    assert "the class of FP32 for" in capsys.readouterr().out
    assert bits(dsconv.load("resnet18.dsc").predict(names["inputs"])) == bits(names["logits"])
    session = ort.InferenceSession("resnet18.onnx", providers=["CPUExecutionProvider"])
    exported = session.run(None, {session.get_inputs()[0].name: names["inputs"]})[0]
    assert np.corrcoef(exported.ravel(), names["logits"].ravel())[0, 1] > 0.99
    assert np.corrcoef(names["expected"].ravel(), names["logits"].ravel())[0, 1] > 0.7


def test_notebooks_show_what_was_made(quantized):
    shown = quantized._repr_html_()
    assert "times smaller than FP32" in shown and "layer1.0.conv1" in shown and "drawn pictures" in shown
    numbers = "4-bit weights, 4-bit activations in most layers"
    size = f"1,480,624 parameters in {quantized.size / 1e6:.2f} MB, 6.7 times smaller than FP32"
    assert repr(quantized).startswith(f"<dsconv.Quantized resnet50-embedded: {numbers}, {size}; input 3 x 32 x 32; pictures: shorter side")
    assert quantized.layers._repr_html_() in shown and quantized.layers[:1] == [quantized.layers[0]]
    assert "with the class of FP32" in quantized.verdict._repr_html_() and str(quantized.verdict) in quantized.verdict._repr_html_()
    assert [name for name in dir(dsconv) if not name.startswith("_")] == sorted(dsconv.__all__)
    for name in dsconv.__all__:
        item = getattr(dsconv, name)
        assert item.__doc__, name
        members = vars(item).items() if isinstance(item, type) and not issubclass(item, tuple) else []
        assert all(value.__doc__ for member, value in members if not member.startswith("_") and member != "hint"), name


def test_python_without_the_gil_is_warned():
    code = "import sys; sys._is_gil_enabled = lambda: False; import dsconv"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeWarning: dsconv is not tested in Python without the GIL" in said.stderr
    assert "Warning" not in subprocess.run([sys.executable, "-c", "import dsconv"], capture_output=True, text=True).stderr
