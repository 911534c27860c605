import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Class", "Error", "Model", "Prediction", "load"]
__version__: str

class Error(Exception): ...

class Class(NamedTuple):
    index: int
    name: str | None
    probability: float

class Prediction(list[Class]):
    def _repr_html_(self) -> str: ...

class _Pillow(Protocol):
    def convert(self, mode: str) -> Any: ...

_Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | _Pillow

class Model:
    file: str
    size: int
    name: str
    source: str
    classes: list[str]
    shape: tuple[int, int, int]
    outputs: int
    parameters: int
    kernel: str
    weight_bits: int | None
    activation_bits: int | None
    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def input(self, image: _Picture) -> NDArray[np.float32]: ...
    @overload
    def classify(self, image: _Picture, top: int = 5) -> Prediction: ...
    @overload
    def classify(self, image: Sequence[_Picture], top: int = 5) -> list[Prediction]: ...
    def verify(self) -> bool: ...
    def _repr_html_(self) -> str: ...

def load(path: str | os.PathLike[str], threads: int = 0) -> Model: ...
