"""The wheel against the command line, and against ONNX Runtime and Pillow where they are there.

    pytest crates/python/tests

Tests that lack a tool are skipped.
"""

import json
import threading

import numpy as np
import pytest
from conftest import NAMES, PICTURES, bits, command

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


def test_what_does_not_fit_is_a_sentence(model, folder, tmp_path):
    with pytest.raises(dsconv.Error, match=r"the array has the type float64: expected float32"):
        model.predict(np.zeros(model.shape))
    with pytest.raises(dsconv.Error, match=r"the array has the shape \[3, 8, 8\]: expected \[N, 3, 32, 32\]"):
        model.predict(np.zeros((3, 8, 8), np.float32))
    with pytest.raises(dsconv.Error, match="element 5 of the input is NaN or infinite"):
        x = np.zeros(model.shape, np.float32)
        x.flat[5] = np.nan
        model.predict(x)
    with pytest.raises(dsconv.Error, match="not an image: neither JPEG, PNG, BMP nor WebP"):
        model.classify(b"a text, no picture")
    with pytest.raises(dsconv.Error, match="the array is float64"):
        model.classify(np.zeros((4, 4)))
    with pytest.raises(FileNotFoundError):
        dsconv.load(tmp_path / "none.dsc")
    whole = (folder / "model.dsc").read_bytes()
    for damaged in [b"", b"a text", whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]]:
        path = tmp_path / "damaged.dsc"
        path.write_bytes(damaged)
        with pytest.raises(dsconv.Error, match="damaged.dsc`: .{10}") as error:
            dsconv.load(path)
        assert "panic" not in str(error.value)


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
    shown = model.classify(PICTURES / "rgb.png")
    assert "<meter" in shown._repr_html_() and "%" in str(shown)
