"""Of the 3x3 layers of ONNX files: how many blocks of channels have sums that fit 16 bits for any input.

    python experiments/winograd/chains.py FILE.onnx [...]

Weights are rounded by the scale rule, with one scale for the nine taps of a block. Needs numpy, onnx and torch.
"""

import sys

import numpy as np
import onnx
import torch
from accuracy import search, to_codes
from onnx import numpy_helper

TWICE_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])


def main():
    weights = []
    for path in sys.argv[1:]:
        for tensor in onnx.load(path).graph.initializer:
            if len(tensor.dims) == 4 and tuple(tensor.dims[2:]) == (3, 3) and tensor.dims[1] % 32 == 0:
                weights.append(numpy_helper.to_array(tensor).astype(np.float64))
    for block in (32, 64, 128):
        whole = {bits: [] for bits in (4, 5, 6)}
        saturated = []
        for w in weights:
            co, ci = w.shape[:2]
            if ci % block:
                continue
            w = torch.from_numpy(w).reshape(co, ci // block, block * 9).flatten(0, 1)
            q = to_codes(w, search(w)[:, None]).numpy().reshape(-1, block, 3, 3)
            u = np.einsum("ip,ncpq,jq->ncij", TWICE_G, q, TWICE_G).reshape(len(q), block // 4, 2, 2, 16)
            pairs = np.maximum(np.maximum(u, 0).sum(3), np.maximum(-u, 0).sum(3))
            saturated.append(pairs.max() * 252 > 32767)
            # A lane has two of four channels of every step. `V` is -2A..2A, at position (1, 1) 0..4A.
            up, down = np.maximum(u, 0).sum((1, 3)), np.maximum(-u, 0).sum((1, 3))
            for bits, fits in whole.items():
                largest = 2 * (2**bits - 1) * (up + down)
                largest[..., 5] = 4 * (2**bits - 1) * np.maximum(up, down)[..., 5]
                fits.append((largest.max((1, 2)) <= 32767).mean())
        parts = ", ".join(f"{bits} bits {100 * np.mean(fits):.1f} % ({sum(f == 1 for f in fits)} layers wholly)" for bits, fits in whole.items())
        print(f"blocks of {block}, {len(saturated)} layers: {parts}; a pair of 6-bit products saturates in {sum(saturated)}")


if __name__ == "__main__":
    main()
