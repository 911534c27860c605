"""Quantizes trained convolutional networks to 4-bit integers without labels, and runs them with the same bits on every CPU.

    import dsconv

    quantized = dsconv.quantize("model.onnx", bits=4, images="photos")
    quantized.save("model.dsc")

    model = dsconv.load("model.dsc")
    model.classify("cat.jpg")          # the likeliest classes
    model.predict(array)               # logits of [N, C, H, W] float32

What is wrong with an argument or a file is a `dsconv.Error`, which is a `ValueError`; where there is nothing at a path or of a name, it is
a `dsconv.MissingError`, which is a `FileNotFoundError`, too. An argument of another kind is a `TypeError`.
"""

import sys as _sys
import warnings as _warnings

from ._model import Class, Model, Prediction, Preprocessing, load
from ._native import Error, __version__
from ._quantize import Analysis, Layer, LayerNoise, Noise, Progress, Quantized, Verdict, analyze, networks, quantize
from ._report import Report, read_report
from ._words import MissingError

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

#: What to do about it, where there is something; the text ends with it.
Error.hint = None

# Python switches the GIL on when it loads the extension, unless it is told not to.
if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    _warnings.warn("dsconv is not tested in Python without the GIL: run it with PYTHON_GIL=1", RuntimeWarning, stacklevel=2)
