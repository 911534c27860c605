"""The wheel against the command line, and against ONNX Runtime and Pillow where they are there.

    pytest crates/python/tests

Tests that lack a tool are skipped.
"""

import copy
import functools
import json
import os
import pickle
import shutil
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import NAMES, PICTURES, bits, command, in_a_fork

import dsconv


def test_logits_are_those_of_the_command(folder, model):
    paths = [PICTURES / name for name in NAMES]
    expected = json.loads(command("--json", "predict", folder / "model.dsc", *paths, "--logits"))
    batch = model.predict(np.stack([model.input(path) for path in paths]))
    for row, path, said in zip(batch, paths, expected):
        assert bits(row) == bits(said["logits"]), path
        assert bits(model.predict(model.input(path.read_bytes()))) == bits(row), path
        best = model.classify(path)
        assert [c.name for c in best] == [c["name"] for c in said["top"]]
        assert np.allclose([c.probability for c in best], [c["probability"] for c in said["top"]], atol=1e-12)


def test_floats_are_those_of_onnx_runtime(folder):
    ort = pytest.importorskip("onnxruntime")
    model = dsconv.load(folder / "float.safetensors")
    assert model.weight_bits is None
    session = ort.InferenceSession(folder / "float.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((4, *model.shape), dtype=np.float32)
    expected = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.abs(model.predict(x) - expected).max() < 1e-4 * np.abs(expected).max()


def test_any_number_of_threads_gives_the_same_bits(folder, model):
    x = np.random.default_rng(1).standard_normal((5, *model.shape), dtype=np.float32)
    assert bits(dsconv.load(folder / "model.dsc", threads=3).predict(x)) == bits(model.predict(x))
    assert model.verify()


def test_pictures_of_pillow_and_numpy(model):
    image = pytest.importorskip("PIL.Image")
    for name in ["rgb.png", "rgba.png", "palette.png", "rgb.bmp"]:
        expected = bits(model.input(PICTURES / name))
        opened = image.open(PICTURES / name)
        assert bits(model.input(opened)) == expected, name
        assert bits(model.input(np.asarray(opened.convert("RGB")))) == expected, name
    # Of 16 bits a file gives the upper 8, and so does Pillow's image, whose own conversion makes them white.
    assert bits(model.input(image.open(PICTURES / "gray16.png"))) == bits(model.input(PICTURES / "gray16.png"))
    with pytest.raises(dsconv.Error, match="has the mode F, whose white is not known"):
        model.input(image.new("F", (4, 4)))
    # Decoders of JPEG differ by up to 3 levels.
    std = np.array(model.preprocessing.std)[:, None, None]
    for name in ["444.JPEG", "gray.jpg", "420.jpg", "progressive.jpg"]:
        levels = 255 * std * (model.input(image.open(PICTURES / name)) - model.input(PICTURES / name))
        assert np.abs(levels).max() < 3.01, (name, np.abs(levels).max())
    with open(PICTURES / "rgb.png", "rb") as file:
        assert bits(model.input(file)) == bits(model.input(PICTURES / "rgb.png"))
    rgb = np.asarray(image.open(PICTURES / "rgb.png").convert("RGB"))
    assert bits(model.input(rgb.transpose(2, 0, 1))) == bits(model.input(rgb)), "as tensors have it"
    grey = np.full((9, 7), 40, np.uint8)
    assert bits(model.input(grey)) == bits(model.input(np.repeat(grey[..., None], 3, axis=2)))
    strided = np.asarray(image.open(PICTURES / "rgb.png").convert("RGB"))[::2, ::-1]
    assert bits(model.input(strided)) == bits(model.input(strided.copy()))
    assert len(model.classify([grey, PICTURES / "rgb.png"], top=3)) == 2


def test_shapes(model):
    x = np.random.default_rng(2).standard_normal((2, *model.shape), dtype=np.float32)
    both = model.predict(x)
    assert both.shape == (2, model.outputs) and both.dtype == np.float32
    assert bits(model.predict(x[1])) == bits(both[1])
    assert bits(model.predict(np.asfortranarray(x))) == bits(both)
    assert model.predict(x[:0]).shape == (0, model.outputs)
    # What is as clear: doubles, channels last, lists.
    for same in [x.astype(np.float64), x.transpose(0, 2, 3, 1), list(x), iter(x), [x[0].transpose(1, 2, 0), x[1].transpose(1, 2, 0)]]:
        assert bits(model.predict(same)) == bits(both)
    assert model.predict([]).shape == (0, model.outputs)
    assert bits(model.predict(x[1].transpose(1, 2, 0))) == bits(both[1])
    many = np.concatenate([x] * 100)
    assert bits(model.predict(many)) == bits(np.concatenate([both] * 100))


def test_tensors(model):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(2).standard_normal((2, *model.shape), dtype=np.float32)
    assert bits(model.predict(torch.from_numpy(x).requires_grad_())) == bits(model.predict(x))
    halves = torch.from_numpy(x).bfloat16()
    assert bits(model.predict(halves)) == bits(model.predict(halves.float()))


def test_what_does_not_fit_is_a_sentence(model, folder, tmp_path):
    with pytest.raises(dsconv.Error, match=r"the array has the type int64: expected floats"):
        model.predict(np.zeros(model.shape, np.int64))
    with pytest.raises(dsconv.Error, match=r"the arrays have different shapes: \[3, 8, 8\], \[3, 32, 32\]"):
        model.predict([np.zeros((3, 8, 8)), np.zeros((3, 32, 32))])
    with pytest.raises(dsconv.Error, match=r"the array has the shape \[3, 8, 8\]: expected \[N, 3, 32, 32\]"):
        model.predict(np.zeros((3, 8, 8), np.float32))
    for images, at in [(1, 5), (100, 3 * 32 * 32 * 90 + 7)]:
        x = np.zeros((images, *model.shape), np.float32)
        x.flat[at] = np.nan
        with pytest.raises(dsconv.Error, match=f"element {at} of the input is NaN or infinite"):
            model.predict(x)
    with pytest.raises(dsconv.Error, match="not an image: neither JPEG, PNG, BMP nor WebP"):
        model.classify(b"a text, no picture")
    with pytest.raises(dsconv.Error, match=r"a picture is float64 \[4, 4\]"):
        model.classify(np.zeros((4, 4)))
    for top in [0, -1]:
        with pytest.raises(ValueError, match="top is "):
            model.classify(PICTURES / "rgb.png", top=top)
    for threads in [-1, 1025, 10**30]:
        with pytest.raises(ValueError, match=f"threads is {threads}: expected 1 to 1024, or 0"):
            dsconv.load(folder / "model.dsc", threads=threads)
    with pytest.raises(dsconv.Error, match="0x0 pixels: an image has at least one"):
        model.classify(np.zeros((0, 0, 3), np.uint8))
    with pytest.raises(dsconv.Error, match=r"input \[1, 0, 2, 0\] is 1e\+300, which is too large for float32"):
        x = np.zeros((2, *model.shape))
        x[1, 0, 2, 0] = 1e300
        model.predict(x)
    for shown, use in [("is a folder, not a picture", model.classify), ("has no `model.dsc`", dsconv.load)]:
        with pytest.raises(dsconv.Error, match=shown):
            use(PICTURES)
    for missing in [functools.partial(dsconv.load, tmp_path / "none.dsc"), functools.partial(model.classify, tmp_path / "none.png")]:
        with pytest.raises(FileNotFoundError, match="none.(dsc|png)`: there is no such file") as error:
            missing()
        assert isinstance(error.value, dsconv.Error) and error.value.filename.startswith(str(tmp_path))
        again = pickle.loads(pickle.dumps(error.value))
        assert (type(again), str(again), again.filename) == (dsconv.MissingError, str(error.value), error.value.filename)
    with pytest.raises(dsconv.MissingError, match="there is no folder"):
        model.save(tmp_path / "none/model.dsc")
    whole = (folder / "model.dsc").read_bytes()
    for damaged in [b"", b"a text", whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]]:
        path = tmp_path / "damaged.dsc"
        path.write_bytes(damaged)
        with pytest.raises(dsconv.Error, match="damaged.dsc`: .{10}") as error:
            dsconv.load(path)
        assert "panic" not in str(error.value)


def test_what_is_of_another_kind_is_a_type_error(model, tmp_path):
    with open(PICTURES / "rgb.png") as text:
        of_models = [None, 3, "text", b"bytes", {}, {1.0}, [None], [3.0], text]
        of_pictures = [None, 3, {}, {1.0}, [None], text]
        of_files = [None, 3, b"bytes", {}, [], text]
        tried = [(model.predict, one) for one in of_models] + [(model.classify, one) for one in of_pictures]
        tried += [(model.input, one) for one in [*of_pictures, []]] + [(dsconv.load, one) for one in of_files]
        tried += [(model.save, one) for one in of_files] + [(dsconv.read_report, one) for one in of_files]
        tried += [(functools.partial(dsconv.load, tmp_path), one) for one in [True, 1.5, "x", None]]
        tried += [(functools.partial(model.classify, PICTURES / "rgb.png"), one) for one in [True, 2.5, "x", None]]
        for call, value in tried:
            with pytest.raises(TypeError, match="has the type .*: expected|a picture is a file of text: open it as a binary file"):
                call(value)
                pytest.fail(f"{call} takes {value!r}")


def test_inputs_that_were_not_normalised_are_warned_of(model, folder):
    image = pytest.importorskip("PIL.Image")
    pixels = np.stack([np.asarray(image.open(PICTURES / "rgb.png").convert("RGB").resize((32, 32)))] * 2).transpose(0, 3, 1, 2)
    for wrong, part in [(pixels.astype(np.float32), "10 to 254"), (pixels / 255.0, "0.039.. to 0.996.")]:
        said = f"the inputs are from {part}.*, where this network takes pixels normalised to -2.118 to 2.64"
        with pytest.warns(UserWarning, match=said) as caught:
            model.predict(wrong)
        assert caught[0].filename == __file__
    plain = dsconv.quantize("resnet50-embedded", images="none", mean=0, std=1, divide=1)
    with pytest.warns(UserWarning, match="this network takes pixels normalised to 0 to 255"):
        plain.predict(model.input(PICTURES / "rgb.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random = np.random.default_rng(1).standard_normal((64, *model.shape), np.float32)
        for right in [random, np.zeros(model.shape), np.stack([model.input(path) for path in map(PICTURES.joinpath, NAMES)])]:
            model.predict(right)
        model.predict(0.3 * random.clip(-1, 1) + 0.4)
        plain.predict(pixels.astype(np.float32))
        plain.classify(PICTURES / "rgb.png")


def test_files_of_other_kinds_are_named(folder, tmp_path):
    def said(name, data):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(dsconv.Error) as error:
            dsconv.load(tmp_path / name)
        return str(error.value)

    use = "\n\nhint: `dsconv.quantize("
    onnx = said("a.onnx", (folder / "float.onnx").read_bytes())
    assert "a.onnx` is an ONNX file, not a model that runs" in onnx and use in onnx
    quantized = said("b.onnx", b"\x08 and so on, DequantizeLinear")
    assert "b.onnx` is an ONNX file of a quantized network" in quantized and use not in quantized and ".dsc` file" in quantized
    jpeg = said("a.dsc", (PICTURES / "420.jpg").read_bytes())
    assert "is a JPEG picture, not a model" in jpeg and use not in jpeg
    assert "is a checkpoint of PyTorch" in said("a.pth", b"PK\x03\x04 and so on")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    other = said("a.safetensors", len(header).to_bytes(8, "little") + header + bytes(4))
    assert "is a safetensors file of another program" in other and use in other


def test_files_without_a_stored_input_are_verified_as_far_as_they_can_be(folder):
    assert dsconv.load(folder / "model.dsc").verify() is True
    assert dsconv.load(folder / "float.safetensors").verify() is False


def test_a_model_is_passed_on(model, folder, tmp_path):
    x = np.random.default_rng(4).standard_normal((2, *model.shape), dtype=np.float32)
    expected = bits(model.predict(x))
    for other in [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]:
        assert bits(other.predict(x)) == expected and other.file == model.file
    assert model.save(tmp_path / "copy.dsc") == model.size
    assert (tmp_path / "copy.dsc").read_bytes() == (folder / "model.dsc").read_bytes()
    with pytest.raises(dsconv.Error, match="a model that was read from a .dsc file is written as one"):
        model.save(tmp_path / "copy.onnx")
    # The folder of a run.
    (tmp_path / "run").mkdir()
    shutil.copy(folder / "model.dsc", tmp_path / "run")
    assert bits(dsconv.load(tmp_path / "run").predict(x)) == expected


def test_preprocessing_is_shown(model):
    shown = model.preprocessing
    assert shown == ((32), (32, 32), "rgb", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    text = "shorter side resized to 32, middle 32 x 32 cut out; rgb / 255, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"
    assert str(shown) == text and text in repr(model) and text in model._repr_html_()


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_forked_process_goes_on(folder, threads):
    forked = dsconv.load(folder / "model.dsc", threads=threads)
    x = np.random.default_rng(1).standard_normal((5, *forked.shape), dtype=np.float32)
    expected = bits(forked.predict(x))
    assert in_a_fork(lambda: [bits(forked.predict(x)), bits(dsconv.load(folder / "model.dsc").predict(x))]) == [expected] * 2
    assert bits(forked.predict(x)) == expected


def test_a_process_that_is_forked_while_a_model_runs_does_not_hang(folder):
    forked = dsconv.load(folder / "model.dsc", threads=2)
    x = np.zeros((64, *forked.shape), np.float32)
    stop = threading.Event()

    def run():
        while not stop.is_set():
            forked.predict(x)

    def tried():
        try:
            return bits(forked.predict(x[0]))
        except dsconv.Error as error:
            return str(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        time.sleep(0.05)
        found = [in_a_fork(tried) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    said = "another thread ran this model when the process was forked: load it again"
    expected = bits(forked.predict(x[0]))
    assert all(one in (expected, said) for one in found), found
    assert said in found, "the thread runs it nearly always"


def test_ctrl_c_stops_a_prediction(folder):
    model = dsconv.load(folder / "model.dsc", threads=1)
    x = np.zeros((64, *model.shape), np.float32)
    begun = time.monotonic()
    model.predict(x)
    # What takes 20 seconds.
    x = np.broadcast_to(x, (int(20 / (time.monotonic() - begun)) + 1, *x.shape)).reshape(-1, *model.shape)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sent = []
    threading.Timer(0.5, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt):
        model.predict(x)
    assert time.monotonic() - sent[0] < 2
    assert model.predict(x[0]).shape == (model.outputs,)


def test_other_threads_run_while_it_computes(folder, model):
    x = np.zeros((64, *model.shape), np.float32)
    counted, done = 0, threading.Event()
    thread = threading.Thread(target=lambda: (model.predict(x), done.set()))
    thread.start()
    while not done.wait(0.001):
        counted += 1
    thread.join()
    assert counted > 3


def test_notebooks_show_tables(model):
    assert "4-bit weights" in model._repr_html_() and "4-bit weights" in repr(model)
    assert "1,480,624 parameters in 0." in repr(model)
    shown = model.classify(PICTURES / "rgb.png")
    assert "<meter" in shown._repr_html_() and "%" in str(shown)
