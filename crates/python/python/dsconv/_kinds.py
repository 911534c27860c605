"""The kinds of arguments. What is of another kind is a `TypeError` that names the argument and says what is expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np


def wrong(name, value, expected):
    """Makes the error of a value that is of none of the expected kinds."""
    return TypeError(f"{name} has the type {type(value).__name__}: expected {expected}")


def path(name, value, expected="a path"):
    """Returns a path as text."""
    if not isinstance(value, (str, os.PathLike)):
        raise wrong(name, value, expected)
    return os.fsdecode(value)


def whole(name, value):
    """Returns a whole number."""
    value = plain(value)
    if not is_whole(value):
        raise wrong(name, value, "a whole number")
    return value


def is_tensor(value):
    """Tells whether something is a tensor of PyTorch; files can be detached too."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def is_file(value):
    """Tells whether something is an open file, which is an iterable of lines too."""
    return callable(getattr(value, "read", None))


def plain(value):
    """Returns what arrays, tensors and numbers of NumPy hold as numbers and lists of Python, and anything else as it is."""
    return value.tolist() if is_tensor(value) or isinstance(value, (np.ndarray, np.generic)) else value


def listed(value):
    """Returns several values as a list, and one as it is."""
    is_one = isinstance(value, (str, bytes, os.PathLike, Mapping)) or is_file(value) or not isinstance(value, Iterable)
    return value if is_one else [plain(one) for one in value]


def is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(value):
    return isinstance(value, str)


def _is_path(value):
    return isinstance(value, (str, os.PathLike))


def _is_flag(value):
    return isinstance(value, bool)


def _several(kind):
    return lambda value: isinstance(value, (list, tuple)) and all(map(kind, value))


def _or(*kinds):
    return lambda value: any(kind(value) for kind in kinds)


def _is_layers(value):
    return isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(_or(is_whole, _is_text), value.values()))


_WHOLE = ("a whole number", is_whole)
_TEXT = ("text", _is_text)
_FLAG = ("True or False", _is_flag)
_BLOCK = ('a whole number, or "pixel"', _or(is_whole, _is_text))
_SIZE = ("a whole number, or height and width", _or(is_whole, _several(is_whole)))
_CUT = ('a whole number, height and width, or "none"', _or(is_whole, _several(is_whole), _is_text))
_VALUES = ("a number, or one for each channel", _or(_is_number, _several(_is_number)))

#: The arguments that `quantize` and `analyze` share with commands: what is expected of each, in words, and what tells that it is so.
KINDS = {
    "bits": _WHOLE,
    "image_count": _WHOLE,
    "count": _WHOLE,
    "arch": _TEXT,
    "activation_bits": _WHOLE,
    "image_bits": _WHOLE,
    "winograd": _WHOLE,
    "block": _BLOCK,
    "activation_block": _BLOCK,
    "rule": _TEXT,
    "activation_scale": _TEXT,
    "scales": _TEXT,
    "floats": _TEXT,
    "order": _TEXT,
    "image_sum": _FLAG,
    "weights_only": _FLAG,
    "keep_worst": _FLAG,
    "convolutions_only": _FLAG,
    "proxy": _FLAG,
    "layers": ('names with bits or "float", as {"conv1": 8}', _is_layers),
    "skip": ("the name of a layer, or several", _or(_is_text, _several(_is_text))),
    "classes": ("a path, or names in the order of the outputs", _or(_is_path, _several(_is_text))),
    "input": _SIZE,
    "resize": _CUT,
    "crop": _CUT,
    "mean": _VALUES,
    "std": _VALUES,
    "divide": ("a number", _is_number),
    "budget": ('text, as "4.2bits", "6MB" or "12ms", or a number of bytes', _or(is_whole, _is_text)),
    "progress": ("a function, or False for no line on stderr", _or(_is_flag, callable)),
}
#: The same where several widths are tried.
ANALYZED = KINDS | {"bits": ("a whole number, or several", _or(is_whole, _several(is_whole)))}


def checked(arguments, kinds=KINDS):
    """Returns the arguments that are given, with values of Python's own kinds.

    Raises `TypeError` for one of another kind. `None` stands for what is not given.
    """
    found = {}
    for name, value in arguments.items():
        value = plain(value)
        expected, is_right = kinds[name]
        # Also what is read once, such as a generator.
        value = {key: plain(one) for key, one in value.items()} if isinstance(value, Mapping) else listed(value)
        if value is not None and not is_right(value):
            if isinstance(value, list):
                raise TypeError(f"{name} is {value!r:.60}: expected {expected}")
            raise wrong(name, value, expected)
        if not (value is None or value is False or (name == "skip" and not value)):
            found[name] = value
    return found
