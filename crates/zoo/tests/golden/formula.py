"""Weights and images by the formula that src/testing.rs has too."""

import math

import numpy as np
import torch
from torch import nn


def noise(name, n):
    """n float32 in [-1, 1): FNV-1a of the name, Murmur 3's finaliser of seed and index."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = np.uint32(seed) ^ (np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return ((x >> np.uint32(8)).astype(np.int32) - (1 << 23)).astype(np.float32) / np.float32(1 << 23)


def formula(name, shape, normalisation):
    """A parameter's values from its name and shape."""
    role = name.rsplit(".", 1)[1]
    if role == "weight" and not normalisation:
        centre, spread = 0.0, math.sqrt(6.0 / math.prod(shape[1:]))
    else:
        centre, spread = {
            "weight": (0.75, 0.25),
            "bias": (0.0, 0.125),
            "running_mean": (0.0, 0.125),
            "running_var": (1.0, 0.5),
        }[role]
    values = noise(name, math.prod(shape)) * np.float32(spread) + np.float32(centre)
    return torch.from_numpy(values.reshape(shape))


def formula_state(model):
    normalisations = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {
        name: torch.zeros((), dtype=torch.long)
        if name.endswith("num_batches_tracked")
        else formula(name, tuple(tensor.shape), name.rsplit(".", 1)[0] in normalisations)
        for name, tensor in model.state_dict().items()
    }


def formula_input(shape):
    return torch.from_numpy(noise("input", math.prod(shape)).reshape(shape))
