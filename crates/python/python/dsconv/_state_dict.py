"""State dicts: of tensors or arrays to the bytes of a safetensors file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from ._images import array
from ._kinds import is_tensor, wrong
from ._native import Error

#: The types of safetensors by those of NumPy.
_TYPES = {
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "b1": "BOOL",
    "i1": "I8",
    "i2": "I16",
    "i4": "I32",
    "i8": "I64",
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
}

#: The keys under which checkpoints have their state dict, as PyTorch's examples, timm, Lightning and others write them.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")

#: The modules that training wraps around others, which have a part in the names of parameters.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def find(model):
    """Returns the state dict in a checkpoint: the mapping itself where it holds tensors, else the one under a usual key."""

    def holds(value):
        return is_tensor(value) or isinstance(value, (np.ndarray, np.generic))

    if not model:
        raise Error("the state dict is empty")
    if any(map(holds, model.values())):
        return model
    inside = {key: value for key, value in model.items() if isinstance(value, Mapping) and any(map(holds, value.values()))}
    usual = next((key for key in _KEYS if key in inside), None)
    if usual is not None:
        return inside[usual]
    if len(inside) == 1:
        return next(iter(inside.values()))
    if inside:
        keys = ", ".join(f"`{key}`" for key in inside)
        raise Error(f"the state dict is one of {keys}: give that one")
    return model


def to_bytes(state_dict):
    """Writes tensors or arrays as the bytes of a safetensors file."""
    header, parts, at = {}, [], 0
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise wrong(f"state_dict: the name {name!r}", name, "text")
        if not (is_tensor(tensor) or isinstance(tensor, (np.ndarray, np.generic))):
            raise wrong(f"state_dict: `{name}`", tensor, "a tensor or an array")
        values = np.asarray(array(tensor))
        kind = _TYPES.get(f"{values.dtype.kind}{values.dtype.itemsize}")
        if kind is None:
            raise Error(f"state_dict: `{name}` has the type {values.dtype}: expected numbers")
        data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def from_bytes(data):
    """Reads the bytes of a safetensors file as arrays."""
    kinds = {kind: numpy for numpy, kind in _TYPES.items()}
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], "<" + kinds[tensor["dtype"]])
        # A copy: an array of another's bytes cannot be written to.
        arrays[name] = values.reshape(tensor["shape"]).copy()
    return arrays


def named_as(given, arrays):
    """Returns arrays under the names that their modules have in the given names, where a module is wrapped or is a part of another:
    `module.conv1.weight` for `conv1.weight`. They keep their names where the given ones do not tell.
    """
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in given}
    # What PyTorch counts is not in every file.
    weights = [name for name in arrays if not name.endswith(".num_batches_tracked")]
    ends = [name.removesuffix(weights[0]) for name in plain if f".{name}".endswith(f".{weights[0]}")]
    prefixes = [prefix for prefix in ends if all(prefix + name in plain for name in weights)]
    if len(prefixes) != 1:
        return arrays
    (prefix,) = prefixes
    modules = {name.rpartition(".")[0]: plain[prefix + name].rpartition(".")[0] for name in weights}

    def renamed(name):
        module, _, parameter = name.rpartition(".")
        module = modules.get(module, prefix + module)
        return f"{module}.{parameter}" if module else parameter

    return {renamed(name): values for name, values in arrays.items()}
