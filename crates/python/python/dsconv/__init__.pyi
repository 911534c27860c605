import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Analysis",
    "Class",
    "Error",
    "Layer",
    "LayerNoise",
    "MissingError",
    "Model",
    "Noise",
    "Prediction",
    "Preprocessing",
    "Progress",
    "Quantized",
    "Report",
    "Verdict",
    "analyze",
    "load",
    "networks",
    "quantize",
    "read_report",
]
__version__: str

class _Pillow(Protocol):
    def convert(self, mode: str) -> Any: ...

class _Tensor(Protocol):
    def detach(self) -> Any: ...

class _File(Protocol):
    def read(self) -> bytes: ...

# A data set of PyTorch, whose items begin with an image.
class _Dataset(Protocol):
    def __getitem__(self, index: int) -> Any: ...
    def __len__(self) -> int: ...

_Path: TypeAlias = str | os.PathLike[str]
_Picture: TypeAlias = _Path | _File | bytes | bytearray | memoryview | NDArray[np.uint8] | _Pillow | _Tensor
_Inputs: TypeAlias = NDArray[np.floating[Any]] | _Tensor
_StateDict: TypeAlias = Mapping[str, NDArray[Any]] | Mapping[str, _Tensor] | Mapping[str, Any]
_Images: TypeAlias = _Picture | _Inputs | Iterable[_Picture] | Iterable[_Inputs] | Iterable[Sequence[_Tensor]] | _Dataset
_Block: TypeAlias = int | Literal["pixel"]
_Size: TypeAlias = int | tuple[int, int]
_Rule: TypeAlias = Literal["mse", "l2", "kl", "balanced"]
_Scale: TypeAlias = Literal["float", "pow2"]
_Row = TypeVar("_Row")

class Error(ValueError):
    hint: str | None

class MissingError(Error, FileNotFoundError):
    def __init__(self, text: str, filename: str | None = None) -> None: ...

class Class(NamedTuple):
    index: int  # type: ignore[assignment]  # a tuple has a method of that name
    name: str | None
    probability: float

class _Listed(list[_Row]):
    def _repr_html_(self) -> str: ...

class Prediction(list[Class]):
    def _repr_html_(self) -> str: ...

class Preprocessing(NamedTuple):
    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    order: Literal["rgb", "bgr", "grey"]
    divide: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

class Model:
    file: str
    @property
    def size(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def outputs(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def kernel(self) -> str: ...
    @property
    def weight_bits(self) -> int | None: ...
    @property
    def activation_bits(self) -> int | None: ...
    def predict(self, images: _Inputs | Sequence[_Inputs] | Iterator[_Inputs]) -> NDArray[np.float32]: ...
    def input(self, image: _Picture) -> NDArray[np.float32]: ...
    @overload
    def classify(self, image: _Picture, top: int = 5) -> Prediction: ...  # type: ignore[overload-overlap]  # a path is a sequence too
    @overload
    def classify(self, image: Sequence[_Picture] | Iterator[_Picture], top: int = 5) -> list[Prediction]: ...
    def verify(self) -> bool: ...
    def save(self, path: _Path) -> int: ...
    def _repr_html_(self) -> str: ...

def load(path: _Path, threads: int = 0) -> Model: ...

class Progress(NamedTuple):
    phase: str
    done: int
    total: int
    note: str

class Layer(NamedTuple):
    name: str
    format: str
    weights: int
    sqnr_db: float | None

class Verdict(NamedTuple):
    on: str
    images: int
    same: int
    noise: float
    sqnr_db: float | None
    divergence: float
    alike: int
    constant: bool
    broken: bool
    text: str
    def _repr_html_(self) -> str: ...

class Quantized(Model):
    layers: _Listed[Layer]
    float_layers: list[str]
    verdict: Verdict | None
    notes: list[str]
    report: dict[str, Any]
    fp32_size: int
    def state_dict(self) -> dict[str, Any]: ...

def quantize(
    model: _Path | _StateDict,
    *,
    bits: int = 4,
    images: _Images | None = None,
    image_count: int | None = None,
    arch: str | None = None,
    activation_bits: int | None = None,
    block: _Block | None = None,
    rule: _Rule | None = None,
    activation_block: _Block | None = None,
    activation_scale: _Scale | None = None,
    image_bits: int | None = None,
    image_sum: bool = False,
    winograd: int | None = None,
    weights_only: bool = False,
    layers: Mapping[str, int | Literal["float"]] | None = None,
    rules: _Path | Analysis | None = None,
    keep_worst: bool = False,
    skip: Sequence[str] = (),
    convolutions_only: bool = False,
    scales: Literal["f16", "f32", "two-level"] | None = None,
    floats: Literal["f16", "f32"] | None = None,
    classes: _Path | Sequence[str] | None = None,
    input: _Size | None = None,
    resize: _Size | Literal["none"] | None = None,
    crop: _Size | Literal["none"] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    order: Literal["rgb", "bgr", "grey"] | None = None,
    divide: float | None = None,
    progress: Callable[[Progress], object] | bool | None = None,
) -> Quantized: ...

def networks() -> list[str]: ...

class Noise(NamedTuple):
    format: str
    noise: float
    sqnr_db: float | None
    divergence: float | None
    agreement: float | None

class LayerNoise(NamedTuple):
    name: str
    weights: int
    formats: list[Noise]

class Analysis:
    layers: _Listed[LayerNoise]
    rules: str | None
    svg: str
    notes: list[str]
    report: dict[str, Any]
    def _repr_html_(self) -> str: ...

def analyze(
    model: _Path | _StateDict,
    *,
    images: _Images | None = None,
    count: int | None = None,
    arch: str | None = None,
    bits: int | Iterable[int] | None = None,
    proxy: bool = False,
    budget: str | int | None = None,
    classes: _Path | Sequence[str] | None = None,
    activation_bits: int | None = None,
    block: _Block | None = None,
    rule: _Rule | None = None,
    activation_block: _Block | None = None,
    activation_scale: _Scale | None = None,
    input: _Size | None = None,
    resize: _Size | Literal["none"] | None = None,
    crop: _Size | Literal["none"] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    order: Literal["rgb", "bgr", "grey"] | None = None,
    divide: float | None = None,
    progress: Callable[[Progress], object] | bool | None = None,
) -> Analysis: ...

class Report:
    run: str
    metrics: dict[str, Any]
    config: dict[str, Any]
    predictions: dict[str, NDArray[Any]] | None
    def _repr_html_(self) -> str: ...

def read_report(run: _Path | Quantized) -> Report: ...
