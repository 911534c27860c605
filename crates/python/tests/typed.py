"""A program that uses every name of the stubs: `mypy --strict crates/python/tests/typed.py` checks it, nothing runs it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dsconv


def classify(path: Path, picture: NDArray[np.uint8]) -> str:
    model: dsconv.Model = dsconv.load(path, threads=2)
    logits: NDArray[np.float32] = model.predict(np.stack([model.input(picture), model.input("cat.jpg")]))
    one: dsconv.Prediction = model.classify(picture, top=3)
    several: list[dsconv.Prediction] = model.classify(["cat.jpg", path])
    best: dsconv.Class = several[0][0]
    bits: int | None = model.weight_bits
    try:
        model.verify()
    except dsconv.Error as error:
        return str(error)
    return f"{best.name} {one[0].probability} {bits} {logits.shape} {model.shape[0]}"
