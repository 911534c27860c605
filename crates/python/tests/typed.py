"""A program that uses every name of the stubs: `mypy --strict crates/python/tests/typed.py` checks it, nothing runs it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dsconv


def classify(path: Path, picture: NDArray[np.uint8]) -> str:
    model: dsconv.Model = dsconv.load(path, threads=2)
    preprocessing: dsconv.Preprocessing = model.preprocessing
    print(preprocessing.mean, preprocessing.crop, model.save("copy.dsc"))
    logits: NDArray[np.float32] = model.predict(np.stack([model.input(picture), model.input("cat.jpg")]))
    one: dsconv.Prediction = model.classify(picture, top=3)
    several: list[dsconv.Prediction] = model.classify(["cat.jpg", path])
    with path.open("rb") as file:
        print(model.classify(file), model.predict(iter([model.input(picture)])))
    best: dsconv.Class = several[0][0]
    bits: int | None = model.weight_bits
    try:
        model.verify()
    except dsconv.MissingError as error:
        return str(error.filename)
    except dsconv.Error as error:
        hint: str | None = error.hint
        return str(error) + (hint or "")
    return f"{best.name} {one[0].probability} {bits} {logits.shape} {model.shape[0]}"


def quantize(weights: Mapping[str, NDArray[np.float32]], inputs: NDArray[np.float32], pictures: list[Path]) -> int:
    def hear(step: dsconv.Progress) -> None:
        print(step.phase, step.done / step.total, step.note)

    analysis: dsconv.Analysis = dsconv.analyze(weights, arch="resnet50", images=inputs, bits=[4, 8], budget=500_000, classes=["cat"])
    layer: dsconv.LayerNoise = analysis.layers[0]
    noise: dsconv.Noise = layer.formats[0]
    rules: str | None = analysis.rules
    quantized = dsconv.quantize(
        "weights.pth",
        arch="resnet50",
        bits=4,
        images=pictures,
        layers={"conv1": 8, "fc": "float"},
        rules=analysis,
        block="pixel",
        crop=(224, 224),
        resize="none",
        mean=[0.5, 0.5, 0.5],
        classes=["cat", "dog"],
        progress=hear,
    )
    model: dsconv.Model = quantized
    first: dsconv.Layer = quantized.layers[0]
    shown: str = quantized.layers._repr_html_() + analysis.layers._repr_html_()
    verdict: dsconv.Verdict | None = quantized.verdict
    if verdict is not None and verdict.broken:
        print(verdict.same, verdict.text, shown, verdict._repr_html_())
    of_generator = dsconv.quantize(weights, arch="resnet50", images=(path for path in pictures), progress=False)
    print(of_generator.preprocessing.std, dsconv.networks())
    for name, array in quantized.state_dict().items():
        print(name, array.dtype, array.shape)
    report: dsconv.Report = dsconv.read_report(quantized)
    of_run: dsconv.Report = dsconv.read_report("runs/resnet50_4bit-20261130-100000")
    print(report.metrics, report.config, of_run.predictions, first.sqnr_db, noise.sqnr_db, rules, model.size)
    return quantized.save("model.onnx")
