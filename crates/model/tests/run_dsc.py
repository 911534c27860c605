"""Reads and runs a .dsc file with NumPy, written from the page of the format.

    run_dsc.py FILE [STATE_DICT]

Prints a JSON document: the layers as the file describes them, and how many logits have the stored bits, for the stored input. With a
second file, a state dict in safetensors, also how many layers have the weights that it has, in floats. Operations that the five
families do not use are refused.

A fused multiply-add is made of float64: the product of two float32 is exact there, the sum is rounded to float64 and then to
float32. The two roundings differ from one about once in 2^29 sums.
"""

import json
import sys

import numpy as np

from read_dsc import pair_input, sections

F = np.float32


def unpack(data, bits, count):
    """Reads `count` two's complement integers of a stream, lowest bit first."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: bits * count].reshape(count, bits)
    place = 1 << np.arange(bits)
    place[-1] = -place[-1]
    return stream.astype(np.int64) @ place


def layer(info, data):
    """Returns the codes, the scales of blocks, and those of channels and the factors of blocks where there are two levels."""
    co, cg, kh, kw = info["shape"]
    block = cg if info["block"] == "pixel" else min(info["block"], cg)
    blocks, count = -(-cg // block), co * cg * kh * kw
    end = -(-count * info["bits"] // 8)
    codes = unpack(data[:end], info["bits"], count).reshape(co, cg, kh, kw)
    data, shape = data[-(-end // 4) * 4 :], (co, blocks, kh, kw)
    if info["scales"] == "two_level":
        channel = np.frombuffer(data, "<f4", co)
        factors = np.frombuffer(data, "i1", co * blocks * kh * kw, 4 * co).reshape(shape)
        return codes, channel[:, None, None, None] * factors.astype(F), channel, factors
    kind = {"f32": "<f4", "f16": "<f2"}[info["scales"]]
    return codes, np.frombuffer(data, kind, co * blocks * kh * kw).reshape(shape).astype(F), None, None


def dequantized(info, codes, scales):
    block = codes.shape[1] if info["block"] == "pixel" else min(info["block"], codes.shape[1])
    return scales[:, np.arange(codes.shape[1]) // block] * codes.astype(F)


def fma(a, b, c):
    """a * b + c, see above."""
    return (a.astype(np.float64) * b + c).astype(F)


def round_input(x, info, groups):
    """Rounds x [C, H, W] to codes and the scales [G, blocks, H, W] of its blocks."""
    form, group = info["activation"], x.shape[0] // groups
    bits, block = form["bits"], group if form["block"] == "pixel" else min(form["block"], group)
    top = 2 ** (bits - 1) - 1 if info["signed"] else 2**bits - 1
    codes, scales = np.empty(x.shape, np.int64), []
    for first in range(0, x.shape[0], group):
        for start in range(first, first + group, block):
            part = slice(start, min(start + block, first + group))
            largest = np.abs(x[part]).max(0)
            if form["scale"] == "pow2":
                exponent = np.frexp(largest)[1] - 1
                scale = np.ldexp(F(1), np.where(largest > 0, exponent - bits + (2 if info["signed"] else 1), -126))
            else:
                scale = np.minimum(largest, F(2.0**127)) / F(top)
            scale = np.clip(scale, F(2.0**-126), F(2.0**126)).astype(F)
            inverse = F(1) / scale
            codes[part] = np.clip(np.rint(x[part] * inverse), -top if info["signed"] else 0, top)
            scales.append(scale)
    return codes, np.stack(scales).reshape(groups, -1, *x.shape[1:]), block


def convolve(x, op, info, weight, bias):
    codes, scales, channel, factors = weight
    groups, (sy, sx), (py, px), (dy, dx) = op["groups"], op["stride"], op["padding"], op["dilation"]
    co, cg, kh, kw = codes.shape
    a, alpha, x_block = round_input(x, info, groups)
    block = cg if info["block"] == "pixel" else min(info["block"], cg)
    border = ((0, 0), (py, py), (px, px))
    a, alpha = np.pad(a, border), np.pad(alpha, ((0, 0), *border))
    height = (x.shape[1] + 2 * py - dy * (kh - 1) - 1) // sy + 1
    width = (x.shape[2] + 2 * px - dx * (kw - 1) - 1) // sx + 1
    out, filters = np.zeros((co, height, width), F), co // groups
    for y in range(kh):
        for z in range(kw):
            rows = slice(y * dy, y * dy + sy * (height - 1) + 1, sy)
            columns = slice(z * dx, z * dx + sx * (width - 1) + 1, sx)
            for g in range(groups):
                mine = slice(g * filters, (g + 1) * filters)
                total = 0
                for b, start in enumerate(range(0, cg, block)):
                    end = min(start + block, cg)
                    # Integers of less than 2^53, so that float64 is exact.
                    dot = np.tensordot(
                        codes[mine, start:end, y, z].astype(np.float64), a[g * cg + start : g * cg + end, rows, columns], 1
                    )
                    s = alpha[g, start // x_block, rows, columns]
                    if channel is None:
                        out[mine] = fma(scales[mine, b, y, z][:, None, None] * s, dot.astype(F), out[mine])
                        continue
                    total = total + factors[mine, b, y, z][:, None, None] * dot
                    if end == cg or end % x_block == 0:
                        out[mine], total = fma(s, total.astype(F), out[mine]), 0
    if channel is not None:
        return fma(out, channel[:, None, None], 0 if bias is None else bias[:, None, None])
    return out if bias is None else out + bias[:, None, None]


def mean(windows):
    """The means of windows of equal size, given as a list of their pixels in order."""
    total = np.zeros_like(windows[0])
    for x in windows:
        total = total + x
    return total / F(len(windows))


def step(node, op, inputs, parameters, layers):
    kind = op["op"]
    if kind in ("conv2d", "linear"):
        info, weight = layers[node["name"]]
        if info["activation"] is None:
            raise SystemExit(f"{node['name']}: inputs in floats are not run here")
        if kind == "linear":
            op = {"groups": 1, "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
        return convolve(inputs[0], op, info, weight, parameters.get(node["name"] + ".bias"))
    x = inputs[0]
    if kind == "relu":
        return np.maximum(x, F(0))
    if kind == "affine":
        w, b = (parameters[f"{node['name']}.{part}"][:, None, None] for part in ("weight", "bias"))
        return x * w + b
    if kind == "add":
        return x + inputs[1]
    if kind == "concat":
        return np.concatenate(inputs)
    if kind == "flatten":
        return x.reshape(-1, 1, 1)
    if kind == "dropout":
        return x
    if kind == "slice":
        return x[op["start"] : op["start"] + op["channels"]]
    shape = [node["shape"][side] for side in ("height", "width")]
    if kind == "adaptive_avg_pool2d":
        out = np.empty((x.shape[0], *shape), F)
        span = lambda i, n, size: range(i * size // n, -(-(i + 1) * size // n))
        for i, j in np.ndindex(*shape):
            out[:, i, j] = mean([x[:, y, z] for y in span(i, shape[0], x.shape[1]) for z in span(j, shape[1], x.shape[2])])
        return out
    if kind in ("max_pool2d", "avg_pool2d"):
        (kh, kw), (sy, sx), (py, px) = op["kernel"], op["stride"], op["padding"]
        low = F(-np.inf) if kind == "max_pool2d" else F(0)
        rows, columns = sy * (shape[0] - 1) + kh, sx * (shape[1] - 1) + kw
        after = [max(rows - py - x.shape[1], 0), max(columns - px - x.shape[2], 0)]
        padded = np.pad(x, ((0, 0), (py, after[0]), (px, after[1])), constant_values=low)
        taps = [padded[:, y : y + sy * shape[0] : sy, z : z + sx * shape[1] : sx][:, : shape[0], : shape[1]] for y, z in np.ndindex(kh, kw)]
        if kind == "max_pool2d":
            return np.max(taps, 0)
        if py or px or any(after):
            raise SystemExit(f"{node['name']}: averages with a border are not run here")
        return mean(taps)
    raise SystemExit(f"{node['name']}: {kind} is not run here")


def state_dict(path):
    """Reads the tensors of a safetensors file."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, info in json.loads(data[8:start]).items():
        if name != "__metadata__" and info["dtype"] == "F32":
            first, end = info["data_offsets"]
            yield name, np.frombuffer(data[start + first : start + end], "<f4").reshape(info["shape"])


def main(path, against=None):
    with open(path, "rb") as file:
        found = sections(file.read())
    meta = json.loads(found[0][2])
    layers = {info["node"]: (info, layer(info, data)) for info, (_, _, data) in zip(meta["layers"], found[1:])}
    parameters, floats, at = {}, found[1 + len(layers)][2], 0
    for info in meta["floats"]:
        at, kind = -(-at // 4) * 4, {"f32": "<f4", "f16": "<f2"}[info["type"]]
        values = np.frombuffer(floats, kind, int(np.prod(info["shape"])), at)
        parameters[info["name"]], at = values.reshape(info["shape"]).astype(F), at + values.nbytes
    report = {"layers": [info for info, _ in layers.values()], "source": meta["info"]["source"]}
    if against:
        theirs = dict(state_dict(against))
        dense = {f"{name}.weight": dequantized(info, *weight[:2]) for name, (info, weight) in layers.items()}
        equal = [np.array_equal(values.reshape(theirs[name].shape), theirs[name]) for name, values in dense.items()]
        report["equal_weights"] = sum(equal)
    if meta["pair"] is not None:
        nodes, values = meta["graph"]["nodes"], []
        shape = [nodes[0]["shape"][side] for side in ("channels", "height", "width")]
        for node in nodes:
            inputs = [values[i] for i in node["inputs"]]
            image = node["op"]["op"] == "input"
            x = np.array(pair_input(meta["pair"], int(np.prod(shape))), F).reshape(shape) if image else None
            values.append(x if image else step(node, node["op"], inputs, parameters, layers))
        stored = np.frombuffer(found[-1][2], "<f4")
        report["logits"], report["equal_logits"] = len(stored), int((values[-1].ravel().view("<i4") == stored.view("<i4")).sum())
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
