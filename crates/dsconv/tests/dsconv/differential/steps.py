"""Ways to go on from a value: layers, functions, and what exporters write for them, nearly that, and what is not supported."""
import numpy as np
import onnx
from onnx import TensorProto, helper
from writer import Invalid, Value

STEPS = {}


def step(kinds, weight=1.0, odd=False):
    """A way to go on from a value of one of `kinds`; `odd` ones are mostly not supported."""

    def add(function):
        STEPS[function.__name__] = (function, kinds.split(), weight, odd)
        return function

    return add


EVERY = "image last features other"


# ---------------------------------------------------------------- layers


def window(g, x, pool=False):
    """Kernel, strides and borders."""
    h, w = x.shape[2:]
    size = lambda n: min(g.rng.choice([1, 1, 2, 3, 3, 3, 5, 7]), n + 2)
    k = [size(h), size(w)] if g.chance(0.3) else [size(min(h, w))] * 2
    attributes = {"kernel_shape": k}
    if g.chance(0.5) or pool and g.chance(0.7):
        s = g.rng.choice([1, 2, 2, 3])
        attributes["strides"] = [s, s] if g.chance(0.8) else [s, g.rng.choice([1, 2, 3])]
    way = g.rng.random()
    if way < 0.2:
        attributes["auto_pad"] = g.rng.choice(["SAME_UPPER", "SAME_UPPER", "SAME_LOWER", "VALID"])
    elif way < 0.6:
        attributes["pads"] = [k[0] // 2, k[1] // 2] * 2
    elif way < 0.8:
        attributes["pads"] = [g.rng.randint(0, max(1, side // 2 + (not pool))) for side in k * 2]
    if "auto_pad" not in attributes and g.chance(0.2):
        attributes["auto_pad"] = "NOTSET"
    return attributes


def weight(g, x, out, groups, kernel):
    fan = x.shape[1] // groups * kernel[0] * kernel[1]
    return g.noise(out, x.shape[1] // groups, *kernel, scale=(2 / fan) ** 0.5)


@step("image", 8)
def conv(g, x, out=None, kernel=None):
    c = x.shape[1]
    divisors = [d for d in range(1, c + 1) if c % d == 0]
    groups = g.rng.choice([1, 1, 1, c, g.rng.choice(divisors)])
    if out is None:
        most = 6 if g.small else 80 if g.chance(0.1) else 16
        out = groups * g.rng.randint(1, max(1, most // groups))
    else:
        groups = 1
    attributes = window(g, x) if kernel is None else {"kernel_shape": kernel}
    if g.chance(0.15):
        attributes["dilations"] = [g.rng.choice([1, 2]), g.rng.choice([1, 2, 3])]
    k = attributes["kernel_shape"]
    w = g.constant(weight(g, x, out, groups, k), g.chance(0.3) and g.fresh("layer") + ".weight" or None)
    b = g.constant(g.noise(out, scale=0.2)) if g.chance(0.6) else None
    if g.chance(0.3):
        del attributes["kernel_shape"]
    return g.op("Conv", x, w, b, group=groups if groups > 1 or g.chance(0.5) else None, **attributes)


@step("features", 4)
def gemm(g, x, out=None):
    f = x.shape[1]
    out = out or g.rng.randint(1, 12)
    transposed = g.chance(0.6)
    w = g.noise(*([out, f] if transposed else [f, out]), scale=f**-0.5)
    shape = g.rng.choice([[out], [out], [1, out], [1], [], [x.shape[0], 1] if g.is_odd() else [out]])
    b = g.constant(g.noise(*shape, scale=0.3)) if g.opset < 11 or g.chance(0.7) else None
    attributes = {"alpha": g.rng.choice([0.5, 2.0]) if g.chance(0.1) else None, "beta": g.rng.choice([0.5, 0.0]) if g.chance(0.1) else None}
    return g.op("Gemm", x, g.constant(w), b, transB=1 if transposed else None, **attributes)


@step("features other", 2)
def matmul(g, x):
    f = x.shape[-1]
    out = g.rng.randint(1, 10)
    y = g.op("MatMul", x, g.constant(g.noise(f, out, scale=f**-0.5)))
    if g.chance(0.6):
        y = g.op("Add", *shuffled(g, y, g.constant(g.noise(*g.rng.choice([[out], [1, out], []]), scale=0.3))))
    return y


@step("image features other", 3)
def batch_norm(g, x):
    c = x.shape[1]
    parameters = [g.positive(c), g.noise(c, scale=0.3), g.noise(c, scale=0.3), g.positive(c)]
    attributes = {"epsilon": g.rng.choice([1e-3, 1e-5, 0.1]) if g.chance(0.5) else None, "momentum": 0.9 if g.chance(0.3) else None}
    if g.is_odd(0.3):
        attributes["spatial"] = 1 if g.opset < 9 else None
        attributes["training_mode"] = g.rng.choice([0, 1]) if g.opset >= 14 else None
    outputs = 1
    if g.is_odd(0.2):
        outputs = 5 if g.opset < 14 else 3
    return g.op("BatchNormalization", x, *[g.constant(p) for p in parameters], outputs=outputs, **attributes)


# ---------------------------------------------------------------- functions of one number


@step(EVERY, 6)
def relu(g, x):
    return g.op("Relu", x)


@step(EVERY, 3)
def clip(g, x):
    low, high = g.rng.choice([(0, 6), (0, 1), (-1, 1), (0, None), (None, 1), (-0.5, 0.75), (0.25, 2), (None, None), (-2, 6), (0, 1e9)])
    way = g.rng.random()
    if way < 0.2 and low is not None:
        return g.op("Max", *shuffled(g, x, g.constant(g.rng.choice([np.float32(low), np.full([1] * g.rng.randint(1, x.rank), low, np.float32)]))))
    if way < 0.4 and high is not None:
        return g.op("Min", *shuffled(g, x, g.constant(np.float32(high))))
    y = g.clip(x, low, high)
    return g.clip(y, *g.rng.choice([(0, 6), (-0.25, 0.5), (None, 1)])) if g.chance(0.15) else y


@step(EVERY, 2)
def leaky_relu(g, x):
    return g.op("LeakyRelu", x, alpha=g.rng.choice([0.1, 0.2, 0.3]) if g.chance(0.7) else None)


@step(EVERY, 2)
def prelu(g, x):
    c = x.channels
    shape = [1] * (x.rank - 1)
    shape[x.channel - 1] = c
    whole = [1, *shape]
    way = g.rng.random()
    if way < 0.3:
        slope = np.full(g.rng.choice([[], [1], shape, whole]), 0.25, np.float32)
    elif way < 0.9 or not g.is_odd():
        slope = g.noise(*g.rng.choice([shape, whole]), scale=0.3, at=0.2)
    else:
        slope = g.noise(*x.shape[1:], scale=0.3)
    return g.op("PRelu", x, g.constant(slope))


@step(EVERY, 2)
def sigmoid(g, x):
    return g.op("Sigmoid", x)


@step(EVERY, 1.5)
def tanh(g, x):
    return g.op("Tanh", x)


@step(EVERY, 1)
def elu(g, x):
    return g.op("Elu", x, alpha=g.rng.choice([None, 1.0, 0.5]))


@step(EVERY, 1)
def softplus(g, x):
    return g.op("Softplus", x)


@step(EVERY, 1.5)
def hard_sigmoid(g, x):
    alpha, beta = g.rng.choice([(None, None), (1 / 6, 0.5), (0.25, 0.4), (0.2, 0.5), (-0.3, 0.5)])
    return g.op("HardSigmoid", x, alpha=alpha, beta=beta)


@step(EVERY, 1.5)
def hard_swish(g, x):
    return g.op("HardSwish", x)


def shuffled(g, *values):
    values = list(values)
    if g.chance(0.4):
        g.rng.shuffle(values)
    return values


def near(g, value, p=0.25):
    """A constant of a pattern, now and then another one."""
    return value if not g.chance(p) else value * g.rng.choice([0.5, 0.9, 1.1, 2.0])


@step(EVERY, 2)
def silu(g, x):
    y = g.op("Sigmoid", x if not g.is_odd() else g.op("Neg", x))
    return g.op("Mul", *shuffled(g, x, y))


@step(EVERY, 2)
def hard_swish_written(g, x):
    """x * relu6(x + 3) / 6 in all orders, also with other numbers, also where somebody else reads a part."""
    p = g.rng.choice([0.0, 0.0, 0.2])
    y = g.op("Add", *shuffled(g, x, g.constant(np.float32(near(g, 3.0, p)))))
    other = y
    y = g.clip(y, 0.0, near(g, 6.0, p)) if g.chance(0.8) else g.op("Min", g.op("Relu", y), g.constant(np.float32(6)))
    other = g.rng.choice([other, y])
    divided = lambda v: g.op("Div", v, g.constant(np.float32(near(g, 6.0, p)))) if g.chance(0.5) else g.op("Mul", v, g.constant(np.float32(near(g, 1 / 6, p))))
    if g.chance(0.2):
        return divided(y)
    if g.chance(0.5):
        y = g.op("Mul", *shuffled(g, x, divided(y)))
    else:
        y = divided(g.op("Mul", *shuffled(g, x, y)))
    return g.op("Add", y, other) if g.chance(0.1) else y


@step(EVERY, 1.5)
def hard_sigmoid_written(g, x):
    """clip(a x + b, 0, 1), or as a clip to a number and a division by it."""
    top = g.rng.choice([1.0, 1.0, 6.0, 3.0])
    y = g.op("Mul", *shuffled(g, x, g.constant(np.float32(g.rng.choice([0.2, 1 / 6, -0.5]))))) if g.chance(0.7) else x
    y = g.op("Add", *shuffled(g, y, g.constant(np.float32(0.5 * top))))
    y = g.clip(y, near(g, 0.0, 0), near(g, top, 0.15))
    return y if top == 1.0 else g.op("Div", y, g.constant(np.float32(near(g, top, 0.1))))


# ---------------------------------------------------------------- pooling


@step("image", 4)
def max_pool(g, x):
    attributes = window(g, x, pool=True)
    if g.opset >= 10 and g.chance(0.3):
        attributes["ceil_mode"] = 1
    if g.opset >= 10 and g.is_odd(0.5):
        attributes["dilations"] = [g.rng.choice([1, 2])] * 2
    if g.opset >= 8 and g.chance(0.1):
        attributes["storage_order"] = 0
    return g.op("MaxPool", x, **attributes)


@step("image", 4)
def average_pool(g, x):
    attributes = window(g, x, pool=True)
    if g.opset >= 10 and g.chance(0.3):
        attributes["ceil_mode"] = 1
    if g.chance(0.5):
        attributes["count_include_pad"] = g.rng.choice([0, 1])
    if g.opset >= 19 and g.is_odd(0.5):
        attributes["dilations"] = [g.rng.choice([1, 2])] * 2
    return g.op("AveragePool", x, **attributes)


@step("image", 2)
def global_pool(g, x):
    return g.op(g.rng.choice(["GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"]), x)


@step("image last", 2)
def reduce(g, x):
    """Rows, columns or both go, or stay as axes of 1."""
    op = g.rng.choice(["ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax"])
    axes = list(x.spatial) if g.chance(0.7) else [g.rng.choice(x.spatial)]
    if g.is_odd():
        axes = g.rng.sample(range(x.rank), g.rng.randint(1, 3))
    g.rng.shuffle(axes)
    keep = g.chance(0.6) or len(axes) == 1
    last = x.last and keep
    y = g.mean(x, [g.signed(a, x.rank) if g.opset >= 11 else a for a in axes], keep, op)
    y.last = last
    return y


@step("image", 1.5)
def lrn(g, x):
    size = g.rng.choice([1, 2, 3, 5])
    return g.op("LRN", x, size=size, alpha=g.rng.choice([None, 0.3, 1.0]), beta=g.rng.choice([None, 0.75, 0.5]), bias=g.rng.choice([None, 1.0, 2.0]))


@step("image", 1)
def lrn_written(g, x):
    """x / (k + alpha * mean of squares around)^beta, as PyTorch writes it."""
    n, c, h, w = x.shape
    size = g.rng.choice([2, 3, 5])
    square = g.op("Mul", x, x) if g.chance(0.7) else g.op("Pow", x, g.constant(np.float32(2)))
    y = g.unsqueeze(square, [1])
    before, after = size // 2, (size - 1) // 2
    if g.chance(0.3):
        before, after = after, before
    y = g.pad(y, [0, 0, before, 0, 0], [0, 0, after, 0, 0])
    y = g.op("AveragePool", y, kernel_shape=[size, 1, 1], strides=g.rng.choice([None, [1, 1, 1]]))
    y = g.squeeze(y, [1])
    y = g.op("Mul", *shuffled(g, y, g.constant(np.float32(g.rng.choice([0.3, 1.0])))))
    y = g.op("Add", *shuffled(g, y, g.constant(np.float32(g.rng.choice([1.0, 2.0])))))
    y = g.op("Pow", y, g.constant(np.float32(0.75)))
    return g.op("Div", x, y)


@step("features image last other", 0.7)
def softmax(g, x):
    axis = x.channel if not g.is_odd() else g.rng.randrange(1, x.rank)
    op = "Softmax" if not g.is_odd() else "LogSoftmax"
    return g.op(op, x, axis=None if g.chance(0.2) else g.signed(axis, x.rank))


# ---------------------------------------------------------------- sums and products


def beside(g, x, at=0.0, scale=0.5):
    """A constant that broadcasts to `x`: one number, one a channel, or something that only looks like it."""
    c, axis, rank = x.channels, x.channel, x.rank
    full = [1] * rank
    full[axis] = c
    shapes = [[], [1], [1] * rank, full, full, full, full[1:], full[axis:]]
    if g.is_odd() or g.chance(0.03):
        shapes = [[n if g.chance(0.5) else 1 for n in x.shape[g.rng.randint(0, rank - 1) :]], x.shape, x.shape[1:], [x.shape[-1]], [1] * (rank + 1)]
    return g.constant(g.noise(*g.rng.choice(shapes), scale=scale, at=at))


@step(EVERY, 4)
def constant_arithmetic(g, x):
    op = g.rng.choice(["Add", "Sub", "Mul", "Div"])
    if op == "Add" and g.chance(0.1) and g.opset >= 8:
        op = "Sum"
    if op == "Div":
        return g.op("Div", x, g.constant(np.exp2(np.rint(beside(g, x).data)).astype(np.float32) * np.float32(1.3)))
    c = beside(g, x, at=1.0 if op == "Mul" else 0.0)
    return g.op(op, *(shuffled(g, x, c)))


@step(EVERY, 1)
def decomposed_norm(g, x):
    """Batch normalisation in small pieces."""
    shape = [1] * (x.rank - 1)
    shape[x.channel - 1] = x.channels
    value = lambda data: g.constant(data.reshape(shape))
    y = g.op("Sub", x, value(g.noise(x.channels, scale=0.3)))
    if g.chance(0.5):
        y = g.op("Div", y, g.op("Sqrt", g.op("Add", value(g.positive(x.channels)), g.constant(np.float32(1e-5)))))
    y = g.op("Mul", *shuffled(g, y, value(g.noise(x.channels, at=1.0, scale=0.4))))
    return g.op("Add", *shuffled(g, y, value(g.noise(x.channels, scale=0.3))))


@step(EVERY, 0.7)
def negate(g, x):
    return g.op("Neg", x)


@step(EVERY, 0.5)
def power(g, x):
    return g.op("Pow", x, g.constant(np.float32(g.rng.choice([2, 2, 1, 3]))))


def partners(g, x):
    """Other values that go with `x` without being made smaller or larger, or, oddly, with it."""
    same = [v for v in g.pool if v is not x and v.shape == x.shape]
    if not g.is_odd() and same:
        return same
    def fits(v):
        return v.rank <= x.rank and all(a == b or a == 1 or b == 1 for a, b in zip(reversed(v.shape), reversed(x.shape)))
    return [v for v in g.pool if v is not x and fits(v)] + same


@step(EVERY, 3)
def combine(g, x):
    op = g.rng.choice(["Add", "Add", "Add", "Mul", "Sub", *(["Sum", "Max", "Min"] if g.opset >= 8 else [])])
    others = partners(g, x)
    if not others:
        raise Invalid("alone")
    y = g.rng.choice(others)
    if op == "Sum" and g.chance(0.5):
        return g.op("Sum", x, y, *[g.rng.choice(others + [x]) for _ in range(g.rng.randint(0, 2))])
    if g.is_odd(0.5):
        op = g.rng.choice(["Div", "Mean" if g.opset >= 8 else "Add"])
    return g.op(op, *(shuffled(g, x, y)))


@step("image last", 2)
def twice(g, x):
    """Several readers: two branches that meet."""
    a = STEPS[g.rng.choice(["relu", "conv", "sigmoid", "batch_norm", "constant_arithmetic", "silu"] if x.kind == "image" else ["relu", "sigmoid", "constant_arithmetic"])][0](g, x)
    b = STEPS[g.rng.choice(["relu", "leaky_relu", "tanh", "constant_arithmetic", "clip"])][0](g, x)
    a.last = b.last = x.last
    g.pool += [a, b]
    if a.shape != b.shape:
        if a.shape[2:] == b.shape[2:] and not x.last:
            return g.op("Concat", a, b, axis=1)
        raise Invalid("shapes differ")
    return g.op(g.rng.choice(["Add", "Mul", "Sub"]), a, b)


@step("image last", 2)
def gate(g, x):
    """Squeeze and excitation."""
    c = x.channels
    keep = g.chance(0.7)
    if x.last:
        y = g.mean(x, [1, 2], keep)
        y.last = keep
        if keep:
            y = g.op("Transpose", y, perm=[0, 3, 1, 2])
            y.last = False
    else:
        y = g.op("GlobalAveragePool", x) if keep and g.chance(0.5) else g.mean(x, [2, 3], keep)
    middle = max(1, c // 2)
    if keep and y.rank == 4 and g.chance(0.5):
        y = conv(g, y, middle, [1, 1])
        y = g.op("Relu", y)
        y = conv(g, y, c, [1, 1])
    else:
        if y.rank == 4:
            y = flatten(g, y)
        y = g.op("Relu", gemm(g, y, middle))
        y = gemm(g, y, c)
        way = g.rng.random()
        if way < 0.4:
            y = g.op("Reshape", y, g.ints(*([0, -1, 1, 1] if g.chance(0.5) else [x.shape[0] if g.is_odd() else -1, c, 1, 1])))
        elif way < 0.8:
            y = g.unsqueeze(y, [2, 3])
        else:
            y = g.unsqueeze(g.unsqueeze(y, [2]), [3])
    y = g.op("Sigmoid", y) if g.chance(0.5) else g.op("HardSigmoid", y, alpha=1 / 6)
    if x.last:
        y = g.op("Transpose", y, perm=[0, 2, 3, 1])
        y.last = True
    if g.opset >= 8 and g.chance(0.2):
        y = expanded(g, y, x)
        g.pool.append(y)
    return g.op("Mul" if not g.is_odd() else g.rng.choice(["Add", "Sub", "Div"]), *shuffled(g, x, y))


def expanded(g, y, x):
    """`y` made as large as `x`, by its shape or by numbers."""
    way = g.rng.random()
    if way < 0.5:
        return g.op("Expand", y, g.op("Shape", x))
    if way < 0.8:
        return g.op("Expand", y, g.ints(*(1 if g.chance(0.5) and n == m else m for n, m in zip(y.shape, x.shape))))
    return g.op("Expand", y, g.ints(*x.shape[1:]))


@step("image last", 1)
def expand(g, x):
    """A value of 1x1 pixels, expanded: then whatever follows."""
    if g.opset < 8:
        raise Invalid("no Expand")
    if any(x.shape[a] != 1 for a in x.spatial):
        if g.chance(0.5):
            return g.op("Expand", x, g.ints(*g.rng.choice([x.shape, [1] * x.rank, x.shape[1:], [1]])))
        small = g.mean(x, list(x.spatial), True)
        small.last = x.last
        return expanded(g, small, x)
    target = list(x.shape)
    for a in x.spatial:
        target[a] = g.rng.choice([1, 2, 3])
    return g.op("Expand", x, g.ints(*target))


# ---------------------------------------------------------------- channels


def piece(g, size):
    start = g.rng.randrange(size)
    return start, g.rng.randint(start + 1, size)


@step(EVERY, 2)
def slice_channels(g, x):
    axis, size = x.channel, x.channels
    start, end = piece(g, size)
    step = 1
    if g.is_odd():
        axis = g.rng.randrange(x.rank)
        size = x.shape[axis]
        start, end = piece(g, size)
        step = g.rng.choice([1, 2, -1])
        if step < 0:
            start, end = end - 1, (start - 1 if start else -size - 1)
    elif g.opset >= 10 and g.chance(0.1):
        start, end, step = size - 1, -size - 1, -1
    if g.chance(0.3) and step == 1:
        end = 2**31 - 1 if end == size and g.chance(0.7) else end - size if end < size else end
        start = start - size if g.chance(0.3) else start
    return g.slice(x, [start], [end], [g.signed(axis, x.rank)], [step] if step != 1 or g.chance(0.3) else None)


@step("image last", 1.5)
def slice_pixels(g, x):
    """Every n-th row and column, or a part of them."""
    axes, starts, ends, steps = [], [], [], []
    for axis in x.spatial if g.chance(0.8) else [g.rng.choice(x.spatial)]:
        axes.append(axis)
        starts.append(0 if not g.is_odd() else g.rng.randint(0, 1))
        ends.append(g.rng.choice([x.shape[axis], 2**31 - 1, 2**63 - 1]) if not g.is_odd() else g.rng.randint(1, x.shape[axis]))
        steps.append(g.rng.choice([1, 2, 2, 3]))
    return g.slice(x, starts, ends, axes, steps)


@step("image last features", 1.5)
def split(g, x):
    axis, size = x.channel, x.channels
    if g.is_odd():
        axis = g.rng.randrange(1, x.rank)
        size = x.shape[axis]
    parts = g.rng.randint(1, 3)
    if size % parts == 0 and g.chance(0.5):
        sizes = [size // parts] * parts
    else:
        first = g.rng.randint(1, size)
        sizes = [first, size - first] if first < size else [size]
    take = g.rng.randrange(len(sizes))
    y = g.split(x, sizes, g.signed(axis, x.rank), take)
    if len(sizes) > 1 and g.chance(0.5):
        # The other part too, joined the other way round.
        node = g.nodes[-1]
        at = (take + 1) % len(sizes)
        start = sum(sizes[:at])
        index = [slice(None)] * x.rank
        index[axis] = slice(start, start + sizes[at])
        other = Value(node.output[at], np.ascontiguousarray(x.data[tuple(index)]), False, x.last)
        return g.op("Concat", other, y, axis=axis)
    return y


@step("image features last", 1.2)
def gather(g, x):
    axis, size = x.channel, x.channels
    if g.is_odd():
        axis = g.rng.randrange(1, x.rank)
        size = x.shape[axis]
    start, end = piece(g, size)
    way = g.rng.random()
    if way < 0.5:
        indices = list(range(start, end))
    elif way < 0.65:
        indices = list(reversed(range(size)))
    elif way < 0.7:
        indices = [g.rng.randrange(size) for _ in range(g.rng.randint(1, 4))]
    elif way < 0.85:
        indices = [start]
    else:
        y = g.op("Gather", x, g.constant(np.int64(start)), axis=axis)
        y.last = False
        return g.unsqueeze(y, [axis]) if g.chance(0.5) else y
    if g.opset >= 11 and g.chance(0.2):
        indices = [i - size for i in indices]
    return g.op("Gather", x, g.ints(*indices), axis=axis if axis or g.chance(0.5) else None)


@step("image", 2)
def shuffle(g, x):
    """ShuffleNet's, and what is nearly that."""
    n, c, h, w = x.shape
    divisors = [d for d in range(1, c + 1) if c % d == 0]
    groups = g.rng.choice(divisors)
    rest = [h, w] if g.chance(0.7) else [h * w]
    head = g.rng.choice([0, -1, n if g.open_batch is False else -1])
    y = g.op("Reshape", x, g.ints(head, groups, c // groups, *rest))
    perm = [0, 2, 1, *range(3, y.rank)]
    if g.is_odd(0.3):
        perm[1:] = g.rng.sample(perm[1:], len(perm) - 1)
    y = g.op("Transpose", y, perm=perm)
    return g.op("Reshape", y, target_of(g, x, [n, c, h, w]))


@step("image last", 2)
def pad(g, x):
    before, after = [0] * x.rank, [0] * x.rank
    axes = x.spatial
    value = g.rng.choice([0.0, 0.0, 0.5, -1.0])
    if g.chance(0.2):
        axes, value = [x.channel], 0.0 if not g.is_odd() else 0.5
    if g.is_odd():
        axes = list(range(1, x.rank))
    for a in axes:
        before[a], after[a] = g.rng.randint(0, 2), g.rng.randint(0, 2)
        if g.is_odd(0.3) and x.shape[a] > 2:
            before[a] = -1
    mode = g.rng.choice(["reflect", "edge"]) if g.is_odd() else None
    if g.chance(0.3):
        after = list(before)
    y = g.pad(x, before, after, value, mode)
    if x.kind == "image" and g.chance(0.4):
        y = STEPS[g.rng.choice(["conv", "average_pool", "max_pool"])][0](g, y)
    return y


@step("image", 1.5)
def same_padding(g, x):
    """TensorFlow's SAME as timm writes it: borders computed from the shape."""
    kernel, stride = g.rng.choice([2, 3, 5]), g.rng.choice([1, 2])
    shape = g.op("Shape", x)
    sides = []
    for axis in (2, 3):
        size = g.op("Gather", shape, g.constant(np.int64(axis)), axis=0)
        if g.chance(0.5):
            # ceil(size / stride) = (size + stride - 1) / stride
            out = g.op("Div", g.op("Add", size, g.ints_scalar(stride - 1)), g.ints_scalar(stride))
        else:
            real = g.op("Div", g.op("Cast", size, to=TensorProto.FLOAT), g.constant(np.float32(stride)))
            out = g.op("Cast", g.op("Ceil", real), to=TensorProto.INT64)
        total = g.op("Sub", g.op("Add", g.op("Mul", g.op("Sub", out, g.ints_scalar(1)), g.ints_scalar(stride)), g.ints_scalar(kernel)), size)
        if g.opset >= 12 and g.chance(0.7):
            total = g.op("Clip", total, g.constant(np.int64(0))) if g.chance(0.5) else g.op("Max", total, g.constant(np.int64(0)))
        elif int(total.data) < 0:
            raise Invalid("negative")
        half = g.op("Div", total, g.ints_scalar(2))
        sides.append((half, g.op("Sub", total, half)))
    one = lambda v: g.unsqueeze(v, [0])
    zero = g.ints(0, 0)
    pads = g.op("Concat", zero, one(sides[0][0]), one(sides[1][0]), zero, one(sides[0][1]), one(sides[1][1]), axis=0)
    if g.opset < 11:
        raise Invalid("borders are an attribute")
    y = g.op("Pad", x, pads, g.constant(np.float32(0)) if g.chance(0.5) else None)
    if g.chance(0.3):
        return g.op("MaxPool", y, kernel_shape=[kernel] * 2, strides=[stride] * 2)
    out = g.rng.randint(1, 8)
    w = g.constant(weight(g, x, out, 1, [kernel] * 2))
    return g.op("Conv", y, w, strides=[stride] * 2)


@step("image last features other", 2.5)
def concat(g, x):
    axis = x.channel
    others = [v for v in g.pool if v.rank == x.rank and all(a == b for i, (a, b) in enumerate(zip(v.shape, x.shape)) if i != axis)]
    if g.is_odd():
        axis = g.rng.randrange(x.rank)
        others = [v for v in g.pool if v.rank == x.rank and all(a == b for i, (a, b) in enumerate(zip(v.shape, x.shape)) if i != axis)]
    others = others + [x]
    parts = [x, *[g.rng.choice(others) for _ in range(g.rng.randint(0, 3))]]
    if g.is_odd(0.3):
        parts.append(g.constant(g.noise(*x.shape)))
    g.rng.shuffle(parts)
    return g.op("Concat", *parts, axis=g.signed(axis, x.rank))


@step("image", 1)
def shortcut(g, x):
    """Option A of He et al.: every other pixel, channels of zeros."""
    y = g.slice(x, [0, 0], [2**31 - 1] * 2, [2, 3], [2, 2]) if g.opset >= 10 and g.chance(0.8) else x
    before, after = g.rng.randint(0, 3), g.rng.randint(0, 3)
    return g.pad(y, [0, before, 0, 0], [0, after, 0, 0])


# ---------------------------------------------------------------- looks


def target_of(g, x, shape):
    """A shape for `Reshape`, as numbers or computed from the shape of `x`."""
    way = g.rng.random()
    batch = g.op("Gather", g.op("Shape", x), g.constant(np.int64(0)), axis=0) if way < 0.25 else None
    if batch:
        parts = [g.unsqueeze(batch, [0])]
        rest = list(shape[1:])
        if rest and g.chance(0.3):
            rest[g.rng.randrange(len(rest))] = -1
        return g.op("Concat", *parts, *[g.ints(n) for n in rest], axis=0) if rest else parts[0]
    if way < 0.35 and list(shape) == x.shape[: len(shape)]:
        return g.slice(g.op("Shape", x), [0], [len(shape)], [0])
    if way < 0.4 and g.opset >= 15:
        return g.op("Concat", g.op("Shape", x, start=0, end=1), g.ints(*shape[1:]), axis=0)
    target = list(shape)
    batch = x.shape[0]
    if target[0] == batch:
        if way < 0.6:
            target[0] = 0
        elif way < 0.8 or g.open_batch:
            target[0] = -1
    if -1 not in target and g.chance(0.3):
        target[g.rng.randrange(len(target))] = -1
    return g.ints(*target)


def flatten(g, x):
    n = x.shape[0]
    f = int(np.prod(x.shape[1:]))
    way = g.rng.random()
    y = None
    if way < 0.5:
        y = g.op("Flatten", x, axis=g.rng.choice([None, 1, 1 - x.rank if g.opset >= 11 else 1]))
    elif way < 0.9 or any(m != 1 for m in x.shape[2:]):
        y = g.op("Reshape", x, target_of(g, x, [n, f]))
    elif n > 1 and g.chance(0.3):
        y = g.squeeze(x, None) if x.shape[1] != 1 else g.squeeze(x, list(range(2, x.rank)))
    else:
        y = g.squeeze(x, list(range(2, x.rank)))
    y.last = False
    return y


@step("image last other", 0.7)
def flat(g, x):
    if int(np.prod(x.shape[1:])) > 600:
        raise Invalid("too many features")
    return flatten(g, x)


@step("image", 1.5)
def channels_last(g, x):
    y = g.op("Transpose", x, perm=[0, 2, 3, 1])
    y.last = True
    return y


@step("last", 4)
def channels_first(g, x):
    y = g.op("Transpose", x, perm=[0, 3, 1, 2])
    y.last = False
    return y


@step("image last", 1)
def sandwich(g, x):
    """There and back, with a function between."""
    n, a, b, c = x.shape
    last = x.last
    if g.chance(0.5):
        perm = g.rng.choice([[0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 3, 2, 1]])
        y = g.op("Transpose", x, perm=perm)
        y.last = False
        y = STEPS[g.rng.choice(["relu", "sigmoid", "clip", "negate", "leaky_relu", "softmax", "power"])][0](g, y)
        y = g.op("Transpose", y, perm=[perm.index(i) for i in range(4)])
    else:
        shape = g.rng.choice([[n, a, b * c], [n, a * b * c], [n, a * b, c], [n, a, b, c, 1], [n, 1, a, b, c]])
        y = g.op("Reshape", x, target_of(g, x, shape))
        y.last = False
        y = STEPS[g.rng.choice(["relu", "sigmoid", "clip", "tanh", "constant_arithmetic", "softmax"])][0](g, y)
        y = g.op("Reshape", y, target_of(g, y, [n, a, b, c]))
    y.last = last
    return y


@step("features", 2)
def to_image(g, x):
    way = g.rng.random()
    n, f = x.shape
    if way < 0.5:
        return g.op("Reshape", x, target_of(g, x, [n, f, 1, 1]))
    if way < 0.8:
        return g.unsqueeze(x, [2, 3])
    divisors = [d for d in range(1, f + 1) if f % d == 0]
    h = g.rng.choice(divisors) if g.is_odd(3) else 1
    return g.op("Reshape", x, target_of(g, x, [n, f // h, h, 1]))


@step("other", 6)
def back(g, x):
    """Something of another rank as an image or features again."""
    if x.rank == 3:
        y = g.unsqueeze(x, [g.rng.choice([2, 3, -1 if g.opset >= 13 else 3])])
    elif x.rank == 5:
        y = g.op("Reshape", x, target_of(g, x, [x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]]))
    elif x.rank == 1:
        y = g.unsqueeze(x, [0])
    else:
        y = flatten(g, x)
    y.last = False
    return y


@step(EVERY, 0.5)
def transpose(g, x):
    perm = [0, *g.rng.sample(range(1, x.rank), x.rank - 1)] if x.rank > 1 else [0]
    y = g.op("Transpose", x, perm=perm if not g.is_odd() else g.rng.sample(perm, x.rank))
    y.last = False
    return y


@step(EVERY, 1.5)
def nothing(g, x):
    """What changes no value at inference."""
    way = g.rng.choice(["Identity", "Dropout", "Cast", "twice", "one"])
    if way == "Dropout":
        if g.opset < 12:
            return g.op("Dropout", x, ratio=g.rng.choice([None, 0.3]), outputs=g.rng.choice([1, 2]))
        ratio = g.constant(np.float32(0.3)) if g.chance(0.5) else None
        mode = g.constant(np.array(g.is_odd(0.3))) if g.chance(0.3) else None
        return g.op("Dropout", x, ratio, mode)
    if way == "Cast":
        return g.op("Cast", x, to=TensorProto.FLOAT)
    if way == "one":
        return g.op("Mul", x, g.constant(np.float32(1))) if g.chance(0.5) else g.op("Add", x, g.constant(np.float32(0)))
    return g.op("Identity", g.op("Identity", x) if way == "twice" else x)


@step("image features", 0.5)
def branch(g, x):
    """An `If` whose condition is known."""
    condition = g.constant(np.array(g.chance(0.5)))
    if g.chance(0.5):
        condition = g.op("Equal", g.op("Size", g.op("Shape", x)) if g.chance(0.5) else g.constant(np.int64(3)), g.constant(np.int64(g.rng.choice([3, 4]))))
    names = [g.fresh("b"), g.fresh("b")]
    bodies = [
        helper.make_graph([helper.make_node(op, [x.name], [name], name=name)], "branch", [], [onnx.ValueInfoProto(name=name)])
        for op, name in zip(g.rng.sample(["Relu", "Sigmoid", "Identity", "Neg"], 2), names)
    ]
    # Not run alone: its branches read a value from outside.
    taken = bodies[0 if bool(condition.data) else 1]
    out = g.fresh()
    body = taken.node[0]
    before = len(g.nodes)
    data = g.op(body.op_type, x).data
    del g.nodes[before:]
    g.nodes.append(helper.make_node("If", [condition.name], [out], name=out, then_branch=bodies[0], else_branch=bodies[1]))
    return Value(out, data, False, x.last)


@step("image features", 0.5)
def function(g, x):
    """A function of the file's own: x times a function of x, or a function of that function."""
    if g.opset < 14 or g.functions:
        raise Invalid("no functions")
    gate, alpha = g.rng.choice(["Sigmoid", "HardSigmoid", "Tanh"]), g.rng.choice([0.1, 0.25])
    name, out = f"Gated{gate}", g.fresh()
    leaky = helper.make_node("LeakyRelu", ["x"], ["l"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    nodes = [leaky, helper.make_node(gate, ["l"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    opsets = [helper.make_opsetid("", g.opset)]
    g.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets, ["slope"]))
    before = len(g.nodes)
    data = g.op("Mul", x, g.op(gate, g.op("LeakyRelu", x, alpha=alpha))).data
    del g.nodes[before:]
    g.nodes.append(helper.make_node(name, [x.name], [out], name=out, domain="own", slope=alpha))
    return Value(out, data, False, x.last)


# ---------------------------------------------------------------- mostly not supported


@step(EVERY, 3, odd=True)
def other_function(g, x):
    op = g.rng.choice(["Selu", "Softsign", "Erf", "Gelu", "Mish", "Abs", "Exp", "Sin", "Celu", "Atan", "Reciprocal", "Sqrt", "Log"])
    if op in ("Reciprocal", "Sqrt", "Log"):
        x = g.op("Add", g.op("Abs", x), g.constant(np.float32(0.5)))
    return g.op(op, x)


@step("image", 2, odd=True)
def other_layer(g, x):
    c = x.shape[1]
    way = g.rng.choice(["ConvTranspose", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "DepthToSpace", "SpaceToDepth", "LpPool", "GlobalLpPool", "Resize", "Upsample", "MeanVarianceNormalization", "matrix", "conv_of_values"])
    if way == "ConvTranspose":
        return g.op(way, x, g.constant(g.noise(c, 3, 2, 2, scale=c**-0.5)))
    if way == "InstanceNormalization":
        return g.op(way, x, g.constant(g.positive(c)), g.constant(g.noise(c)))
    if way == "GroupNormalization":
        return g.op(way, x, g.constant(g.positive(c)), g.constant(g.noise(c)), num_groups=1)
    if way == "LayerNormalization":
        return g.op(way, x, g.constant(g.positive(x.shape[-1])))
    if way in ("DepthToSpace", "SpaceToDepth"):
        return g.op(way, x, blocksize=g.rng.choice([1, 2]))
    if way == "LpPool":
        return g.op(way, x, kernel_shape=[2, 2])
    if way == "Resize":
        return g.op(way, x, None, None, g.ints(*x.shape[:2], x.shape[2] * 2, x.shape[3]), mode="nearest") if g.opset >= 11 else g.op(way, x, g.constant(np.array([1, 1, 2, 1], np.float32)))
    if way == "Upsample":
        return g.op(way, x, g.constant(np.array([1, 1, 2, 2], np.float32))) if g.opset >= 9 else g.op(way, x, scales=[1.0, 1.0, 2.0, 2.0])
    if way == "matrix":
        return g.op("MatMul", x, g.op("Transpose", x, perm=[0, 1, 3, 2]))
    if way == "conv_of_values":
        small = g.op("GlobalAveragePool", x)
        return g.op("Conv", x, g.op("Reshape", g.slice(small, [0], [1], [0]), g.ints(1, -1, 1, 1)))
    return g.op(way, x)


@step(EVERY, 2, odd=True)
def other_reduction(g, x):
    op = g.rng.choice(["ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare", "ReduceProd", "ReduceLogSumExp"])
    axis = g.rng.randrange(1, x.rank) if x.rank > 1 else 0
    return g.with_axes(op, x, [axis], 18, keepdims=1)


@step(EVERY, 2, odd=True)
def other_move(g, x):
    way = g.rng.choice(["Tile", "Where", "TopK", "CumSum", "ScatterND", "Einsum", "Trilu", "GatherElements", "ReverseSequence", "batch"])
    if way == "Tile":
        return g.op("Tile", x, g.ints(*[1 if a == 0 else g.rng.randint(1, 2) for a in range(x.rank)]))
    if way == "Where":
        return g.op("Where", g.constant(g.numbers.rand(*x.shape[1:]) < 0.5), x, g.constant(np.float32(0)))
    if way == "CumSum":
        return g.op("CumSum", x, g.constant(np.int64(x.rank - 1)))
    if way == "Einsum" and x.rank == 2:
        return g.op("Einsum", x, g.constant(g.noise(x.shape[1], 4)), equation="nc,cf->nf")
    if way == "Trilu":
        return g.op("Trilu", x)
    if way == "GatherElements":
        return g.op(way, x, g.constant(np.zeros(x.shape, np.int64)), axis=1)
    if way == "TopK" and g.opset >= 11:
        return g.op("TopK", x, g.ints(1), outputs=2)
    if way == "batch":
        # Images that look at each other.
        return g.rng.choice([
            lambda: g.op("Sub", x, g.mean(x, [0], True)),
            lambda: g.slice(x, [0], [1], [0]),
            lambda: g.op("Softmax", x, axis=0),
            lambda: g.op("Reshape", x, g.ints(-1, *x.shape[2:])),
            lambda: g.op("Transpose", x),
        ])()
    raise Invalid("other rank")
