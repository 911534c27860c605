"""Reads a .dsc file with nothing but Python's standard library, written from the page of model::dsc.

    read_dsc.py FILE

Prints for every parameter its name, its number of values and the crc32 of the values as little-endian f32.
"""

import json
import math
import struct
import sys
import zlib

M64 = (1 << 64) - 1


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def sections(data):
    magic, version, count, length, whole = struct.unpack_from("<8sIIQI", data)
    assert magic == b"\x89DSC\r\n\x1a\n" and version == 1 and length == len(data)
    assert zlib.crc32(data[:24] + bytes(4) + data[28:]) == whole
    end, found = 64 + 32 * count, []
    for i in range(count):
        kind, index, offset, size, crc, zero = struct.unpack_from("<IIQQII", data, 64 + 32 * i)
        assert offset == -(-end // 64) * 64 and zero == 0 and not any(data[end:offset])
        end = offset + size
        assert zlib.crc32(data[offset:end]) == crc
        found.append((kind, index, data[offset:end]))
    assert len(data) == -(-end // 64) * 64 and not any(data[end:])
    return found


def layer(info, data):
    co, cg, kh, kw = info["shape"]
    bits, block = info["bits"], info["block"]
    block = cg if block == "pixel" else min(block, cg)
    blocks = -(-cg // block)
    count = co * cg * kh * kw
    stream = int.from_bytes(data[: -(-count * bits // 8)], "little")
    codes = []
    for _ in range(count):
        field = stream & ((1 << bits) - 1)
        codes.append(field - (1 << bits) if field >> (bits - 1) else field)
        stream >>= bits
    assert stream == 0
    at, per = -(-(-(-count * bits // 8)) // 4) * 4, blocks * kh * kw
    if info["scales"] == "two_level":
        s = struct.unpack_from(f"<{co}f", data, at)
        k = struct.unpack_from(f"<{co * per}b", data, at + 4 * co)
        scales = [f32(s[i // per] * k[i]) for i in range(co * per)]
    else:
        scales = struct.unpack_from(f"<{co * per}{'f' if info['scales'] == 'f32' else 'e'}", data, at)
    values = []
    for i, code in enumerate(codes):
        o, c, tap = i // (cg * kh * kw), i // (kh * kw) % cg, i % (kh * kw)
        values.append(f32(scales[(o * blocks + c // block) * kh * kw + tap] * code))
    return values


def pair_input(seed, count):
    out, state = b"", seed
    while len(out) < count:
        state = (state + 0x9E3779B97F4A7C15) & M64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & M64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
        out += struct.pack("<Q", z ^ z >> 31)
    return [(byte - 128) / 64 for byte in out[:count]]


def main(path):
    with open(path, "rb") as file:
        found = sections(file.read())
    assert found[0][:2] == (1, 0)
    meta = json.loads(found[0][2])
    layers = meta["layers"]
    expected = [(2, i) for i in range(len(layers))] + [(3, 0)] + ([(4, 0)] if meta["pair"] is not None else [])
    assert [section[:2] for section in found[1:]] == expected
    tensors = {}
    for info, (_, _, data) in zip(layers, found[1:]):
        tensors[info["node"] + ".weight"] = layer(info, data)
    floats, at = found[1 + len(layers)][2], 0
    for info in meta["floats"]:
        at, count = -(-at // 4) * 4, math.prod(info["shape"])
        kind = "f" if info["type"] == "f32" else "e"
        tensors[info["name"]] = struct.unpack_from(f"<{count}{kind}", floats, at)
        at += count * struct.calcsize(kind)
    assert at == len(floats)
    if meta["pair"] is not None:
        logits = found[-1][2]
        shape = meta["graph"]["nodes"][0]["shape"]
        x = pair_input(meta["pair"], shape["channels"] * shape["height"] * shape["width"])
        tensors["pair"] = list(x) + list(struct.unpack(f"<{len(logits) // 4}f", logits))
    for name in sorted(tensors):
        values = tensors[name]
        print(name, len(values), f"{zlib.crc32(struct.pack(f'<{len(values)}f', *values)):08x}")


if __name__ == "__main__":
    main(sys.argv[1])
