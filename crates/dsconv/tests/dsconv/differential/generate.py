"""Random small CNNs as ONNX files, each with an input and what ONNX Runtime computes of it, packed into one file.

    python generate.py FILE [--count 500] [--seed 0] [--small]

Graph `seed` is the same on every machine with the same onnx, numpy and onnxruntime. Every node is run by ONNX Runtime as
it is made, so that its shape and the size of its values are known, and what ONNX Runtime does not take is drawn again.
Some of what is made is not supported by `onnx::import`: it has to be refused. `hunt.py` runs many and shrinks what fails.

The packed file: for each graph a header of JSON (its length as u32 first), the ONNX file (u32 and bytes), then input and
logits as 32-bit floats (each after a u32 of their number). All little-endian.
"""
import argparse
import json
import random
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper

from steps import STEPS, channels_first, channels_last, conv, flatten, target_of
from writer import OPSETS, Graph, Invalid, Value, ir_version, session


def draw_input(g):
    """Shape, type and batch of the image."""
    rng = g.rng
    c = rng.choice([1, 3, 3, 3, 3, 4, 2, 5, 6, 8, 12])
    if not g.small and g.chance(0.02):
        c = 97
    sides = [1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 16]
    h = rng.choice(sides)
    w = h if g.chance(0.6) else rng.choice(sides)
    if g.chance(0.08):
        h, w = rng.choice([(1, 17), (19, 1), (1, 1), (c, c), (3, 24)])
    while c * h * w > g.largest // (2 if g.small else 1):
        h, w = max(1, h // 2), max(1, w // 2)
    g.last = g.chance(0.15) and (c in (1, 3) or g.chance(0.2))
    g.batch = rng.choice(["n", "n", "n", "", -1, 0, 1, 1, 1, 2, 3])
    g.open_batch = not isinstance(g.batch, int) or g.batch < 1
    g.open_sides = g.chance(0.05)
    images = rng.choice([1, 2, 2, 3]) if g.open_batch else g.batch
    g.type = np.float32
    if g.chance(0.06):
        g.type = rng.choice([np.uint8, np.float16, np.float64])
    shape = [images, h, w, c] if g.last else [images, c, h, w]
    data = image(g, shape)
    return Value("image" if g.chance(0.9) else "x:0", data, False, g.last)


def image(g, shape):
    if g.type == np.uint8:
        return g.numbers.randint(0, 256, shape).astype(np.uint8)
    return np.float16(g.numbers.standard_normal(shape).clip(-2.5, 2.5)).astype(g.type)


def choose(g, x, odd=False):
    names = [name for name, (_, kinds, _, is_odd) in STEPS.items() if x.kind in kinds and is_odd == odd]
    return g.rng.choices(names, [STEPS[name][2] for name in names])[0]


def take(g, name, x):
    """One step, undone where it cannot be."""
    lists = g.nodes, g.initializers, g.listed, g.functions, g.pool
    saved = [len(each) for each in lists]
    try:
        y = STEPS[name][0](g, x)
        if y.constant or y.data.dtype != np.float32:
            raise Invalid("not a value of the image")
        y = g.scale(y)
    # A step that draws an axis which its value has not.
    except (Invalid, IndexError, ValueError, TypeError):
        for each, length in zip(lists, saved):
            del each[length:]
        return None
    g.pool.append(y)
    return y


def walk(g, x, steps):
    for _ in range(steps):
        for _ in range(8):
            start = x if g.chance(0.85) else g.rng.choice(g.pool)
            y = take(g, choose(g, start, odd=g.is_odd(0.7)), start)
            if y is not None:
                x = y
                break
    return x


def finish(g, x, last):
    """A classifier's head, whose final operation is the step `last` where that goes."""
    want = STEPS[last][1]
    if x.kind == "last":
        x = channels_first(g, x)
    elif x.kind == "other":
        x = take(g, "back", x) or flatten(g, x)
    features = x.kind == "features"
    if not features:
        way = g.rng.random()
        if way < 0.55:
            x = take(g, "global_pool", x)
        elif way < 0.75:
            x = g.mean(x, g.rng.choice([[2, 3], [-2, -1]] if g.opset >= 11 else [[2, 3]]), g.chance(0.5))
        elif int(np.prod(x.shape[1:])) <= 400:
            x = flatten(g, x)
        else:
            x = take(g, "global_pool", x)
    if x is None:
        raise Invalid("no head")
    g.pool.append(x)
    if x.kind == "image" and "features" in want and "image" not in want or x.kind == "image" and g.chance(0.6):
        x = flatten(g, x)
    if x.kind == "features" and g.chance(0.7):
        x = take(g, g.rng.choice(["gemm", "gemm", "matmul"]), x) or x
    elif x.kind == "image" and g.chance(0.5):
        x = conv(g, x, g.rng.randint(1, 12), [1, 1])
    if x.kind == "features" and "features" not in want and "image" in want:
        x = g.unsqueeze(x, [2, 3]) if g.chance(0.5) else g.op("Reshape", x, target_of(g, x, [*x.shape, 1, 1]))
    if x.kind == "image" and "last" in want and "image" not in want:
        x = channels_last(g, x)
    if g.scale(x) is not x:
        x = g.scale(x)
    g.pool.append(x)
    for _ in range(6):
        y = take(g, last, x)
        if y is not None:
            break
    else:
        raise Invalid("no last step")
    x = y
    if x.rank != 2 and (g.chance(0.7) or any(n != 1 for n in x.shape[2:])):
        x = flatten(g, x)
    if x.shape[0] == 1 and g.chance(0.05):
        x = g.squeeze(x, None) if g.chance(0.5) else g.op("Reshape", x, g.ints(-1))
    return x


def assemble(g, x, y):
    """The file."""
    dims = list(x.shape)
    if g.open_batch:
        dims[0] = None if g.batch == "" else g.batch
    names = list(dims)
    if g.open_sides:
        first = 1 if g.last else 2
        names[first : first + 2] = g.rng.choice([["height", "width"], [None, None]])
    info = helper.make_tensor_value_info(x.name, helper.np_dtype_to_tensor_dtype(x.data.dtype), names)
    if g.batch == 0 and g.open_batch:
        info.type.tensor_type.shape.dim[0].Clear()
        info.type.tensor_type.shape.dim[0].dim_param = "batch_size"
    out_dims = [dims[0] if n == x.shape[0] and i == 0 and g.open_batch else n for i, n in enumerate(y.shape)]
    if g.open_batch and g.batch == 0:
        out_dims[0] = None
    if y.rank == 1:
        out_dims = [None]
    out = helper.make_tensor_value_info(y.name, TensorProto.FLOAT, out_dims)
    nodes = list(g.nodes)
    if g.is_odd():
        g.rng.shuffle(nodes)
    used = {name for node in nodes for name in node.input} | {y.name}
    for node in nodes:
        for attribute in node.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    initializers = [tensor for tensor in g.initializers if tensor.name in used or g.chance(0.3)]
    kept = {tensor.name for tensor in initializers}
    listed = [value for value in g.listed if value.name in kept]
    inputs = [info, *listed]
    outputs = [out]
    if y.rank == 2 and nodes[-1].op_type in ("Gemm", "MatMul", "Add") and nodes[-1].output[0] == y.name and g.chance(0.1):
        # Probabilities or the class beside the logits.
        op = g.rng.choice(["Softmax", "Sigmoid", "ArgMax"])
        nodes.append(helper.make_node(op, [y.name], ["second"], name="second", **({} if op == "Sigmoid" else {"axis": 1})))
        kind = TensorProto.INT64 if op == "ArgMax" else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info("second", kind, None))
    graph = helper.make_graph(nodes, f"graph {g.seed}", inputs, outputs, initializer=initializers)
    opsets = [helper.make_opsetid("", g.opset)]
    if g.functions:
        opsets.append(helper.make_opsetid("own", 1))
    version = ir_version(g.opset)
    return helper.make_model(graph, opset_imports=opsets, functions=g.functions, ir_version=version, producer_name="generate.py")


def runner(model):
    """What ONNX Runtime computes of an image."""
    ready, name = session(model), model.graph.input[0].name
    return lambda x: np.asarray(ready.run(None, {name: x})[0], np.float32)


def measure(model, x, other, open_batch):
    """Logits for `x`, which are of order 1, differ from those of `other`, and do not move where `x` moves by a millionth.

    Where the file takes any number of images, they are those of each image alone.
    """
    run = runner(model)
    logits = run(x)
    if open_batch and len(x) > 1:
        try:
            logits = np.concatenate([run(x[i : i + 1]).flatten() for i in range(len(x))])
        except Exception:
            # A file for this number of images: it has to be refused.
            open_batch = False
    if not np.isfinite(logits).all() or logits.size == 0:
        raise Invalid("not finite")
    largest = float(np.abs(logits).max())
    if not 1e-3 < largest < 1e4:
        raise Invalid("logits of no size")
    every = run if not open_batch else lambda x: np.concatenate([run(x[i : i + 1]).flatten() for i in range(len(x))])
    moved = 0.0
    if x.dtype == np.float32:
        signs = np.where(np.arange(x.size) % 2, 1, -1).reshape(x.shape)
        near = every((x * (1 + 1e-6 * signs)).astype(np.float32))
        moved = float(np.abs(near - logits).max()) / largest
    if moved > 2e-5:
        raise Invalid("ill-conditioned")
    if float(np.abs(every(other) - logits).max()) < 1e-3 * largest:
        raise Invalid("does not depend on the image")
    return logits


def attempt(seed, draw, small):
    g = Graph(seed * 1009 + draw, small)
    g.seed = seed
    g.pool = []
    x = draw_input(g)
    g.pool_input = x
    y = x
    if x.data.dtype != np.float32:
        y = g.op("Cast", x, to=TensorProto.FLOAT)
        if x.data.dtype == np.uint8:
            y = g.op("Div", y, g.constant(np.float32(255))) if g.chance(0.5) else g.op("Mul", y, g.constant(np.float32(1 / 64)))
        y.last = x.last
    g.pool.append(y)
    if y.last and g.chance(0.9):
        y = channels_first(g, y)
        g.pool.append(y)
    if not g.is_odd(0.5) and y.kind == "image" and g.chance(0.7):
        y = take(g, "conv", y) or y
    y = walk(g, y, g.rng.randint(0, 6 if small else 14))
    names = list(STEPS)
    usual = [name for name in names if not STEPS[name][3]]
    last = usual[seed % len(usual)] if not g.is_odd() else g.rng.choice(names)
    y = finish(g, y, last)
    model = assemble(g, x, y)
    try:
        logits = measure(model, x.data, image(g, x.shape), g.open_batch)
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(str(error)) from None
    if len(model.graph.output) > 1 and g.chance(0.5):
        model.graph.output.append(model.graph.output[0])
        del model.graph.output[0]
    header = {"seed": seed, "opset": g.opset, "last": last, "shape": x.shape, "type": str(x.data.dtype)}
    if g.open_sides:
        header["sides"] = [x.shape[a] for a in x.spatial]
        header["last_of_open"] = g.last and x.channels in (1, 3)
    return model, x.data, logits, header


def make(seed, small=False):
    """Graph `seed`: the model, its input, its logits and a header."""
    for draw in range(1000):
        try:
            return attempt(seed, draw, small)
        except (Invalid, IndexError, ValueError, TypeError):
            continue
    raise RuntimeError(f"nothing for seed {seed}")


def varied(model, x, header, variant, opset):
    """The same nodes with other numbers, images and batch; `None` where ONNX Runtime does not take them in this opset."""
    rng = np.random.RandomState(header["seed"] * 31 + variant)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensors = [*other.graph.initializer, *(a.t for node in other.graph.node for a in node.attribute if node.op_type == "Constant")]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 8:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(rng.permutation(values.flatten()).reshape(values.shape), tensor.name))
    other.opset_import[0].version = opset
    other.ir_version = ir_version(opset)
    for function in other.functions:
        function.opset_import[0].version = opset
    # Files before IR 4 list what is no input among the inputs, and only those.
    if opset >= 9:
        del other.graph.input[1:]
    dims = other.graph.input[0].type.tensor_type.shape.dim
    is_open = dims[0].dim_value < 1
    if is_open and rng.rand() < 0.5:
        dims[0].dim_value = x.shape[0]
        is_open = False
    pixels = lambda: rng.permutation(x.flatten()).reshape(x.shape)
    x = pixels()
    try:
        logits = measure(other, x, pixels(), is_open)
    except Exception:
        return None
    return other, x, logits, {**header, "opset": opset, "variant": variant}


def family(seed, small=False, variants=3):
    """Graph `seed`, and up to so many variants of it."""
    graph = make(seed, small)
    yield graph
    model, x, _, header = graph
    if len(model.graph.output) == 1:
        opsets = random.Random(seed).sample(OPSETS, variants)
        for variant, opset in enumerate(opsets, 1):
            other = varied(model, x, header, variant, opset) or varied(model, x, header, variant, header["opset"])
            if other:
                yield other


def packed(model, x, logits, header):
    text, data = json.dumps(header).encode(), model.SerializeToString()
    block = lambda b: struct.pack("<I", len(b)) + b
    floats = lambda a: struct.pack("<I", a.size) + np.asarray(a, "<f4").tobytes()
    return block(text) + block(data) + floats(x) + floats(logits)


def unpack(path):
    """The graphs of a packed file: header, bytes of the ONNX file, input, logits."""
    data, at = open(path, "rb").read(), 0

    def block(size=1):
        nonlocal at
        (n,) = struct.unpack_from("<I", data, at)
        at += 4 + n * size
        return data[at - n * size : at]

    while at < len(data):
        yield json.loads(block()), block(), np.frombuffer(block(4), "<f4"), np.frombuffer(block(4), "<f4")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--small", action="store_true", help="few channels, pixels and nodes")
    args = parser.parse_args()
    with open(args.file, "wb") as out:
        for seed in range(args.seed, args.seed + args.count):
            out.write(packed(*make(seed, args.small)))


if __name__ == "__main__":
    sys.exit(main())
