"""A file in the making, node by node."""
import random

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSETS = range(7, 26)
# Elements of a value between nodes, of one image.
LARGEST = 4096


class Invalid(Exception):
    """What was drawn cannot be: draw again."""


def options():
    result = onnxruntime.SessionOptions()
    result.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result.intra_op_num_threads = result.inter_op_num_threads = 1
    result.log_severity_level = 4
    return result


OPTIONS = options()
# What is not finite is drawn again.
np.seterr(all="ignore")


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"])


def ir_version(opset):
    return 3 if opset < 9 else 8 if opset < 21 else 10


class Value:
    """A value of the file: its name, what it is for the network's input, and whether it depends on that."""

    def __init__(self, name, data, constant, last=False):
        self.name, self.data, self.constant = name, data, constant
        # Whether channels are the last axis.
        self.last = last

    @property
    def shape(self):
        return list(self.data.shape)

    @property
    def rank(self):
        return self.data.ndim

    @property
    def channel(self):
        """The axis of channels."""
        return self.rank - 1 if self.last or self.rank < 2 else 1

    @property
    def channels(self):
        return self.shape[self.channel]

    @property
    def spatial(self):
        """The axes behind the batch that are not the channels."""
        return [axis for axis in range(1, self.rank) if axis != self.channel]

    @property
    def kind(self):
        """What a step can take it for."""
        if self.rank == 4:
            return "last" if self.last else "image"
        return "features" if self.rank == 2 else "other"


def computed(op, inputs, attributes):
    """A simple operator's value without ONNX Runtime, which takes longer to begin; `None` for any other one."""
    data = [value.data if value else None for value in inputs]
    if op == "Constant":
        if "value" in attributes:
            return numpy_helper.to_array(attributes["value"])
        ((key, value),) = attributes.items()
        return np.array(value, np.float32 if "float" in key else np.int64)
    if op == "Shape" and not attributes:
        return np.array(data[0].shape, np.int64)
    simple = SIMPLE.get(op)
    if simple is None or any(array is None or array.dtype == np.float64 for array in data):
        return None
    result = simple(attributes, *data)
    return result if result is None else np.asarray(result, data[0].dtype, order="C")


def reshaped(attributes, x, target):
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(target)])


def unsqueezed(attributes, x, axes=None):
    axes = attributes.get("axes", axes)
    return np.expand_dims(x, tuple(int(a) for a in axes))


def squeezed(attributes, x, axes=None):
    axes = attributes.get("axes", axes)
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes))


def flattened(attributes, x):
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1) if axis or x.size else None


def product(attributes, x, w, b=0):
    if x.ndim != 2 or w.ndim != 2:
        return None
    alpha, beta = attributes.get("alpha", 1), attributes.get("beta", 1)
    return alpha * (x @ (w.T if attributes.get("transB") else w)) + beta * np.asarray(b)


# Enough of each operator to know the shape and the size of its values: whether the opset has it shows in the whole file.
SIMPLE = {
    "Identity": lambda _, x: x,
    "Relu": lambda _, x: np.maximum(x, 0),
    "LeakyRelu": lambda a, x: np.where(x > 0, x, a.get("alpha", 0.01) * x),
    "Neg": lambda _, x: -x,
    "Sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "Tanh": lambda _, x: np.tanh(x),
    "Add": lambda _, x, y: x + y,
    "Sub": lambda _, x, y: x - y,
    "Mul": lambda _, x, y: x * y,
    "Div": lambda _, x, y: x / y if x.dtype == np.float32 else None,
    "Transpose": lambda a, x: x.transpose(a["perm"]) if "perm" in a else None,
    "Concat": lambda a, *xs: np.concatenate(xs, a["axis"]),
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdims=True),
    "Reshape": reshaped,
    "Flatten": flattened,
    "Unsqueeze": unsqueezed,
    "Squeeze": squeezed,
    "Gemm": product,
    "MatMul": product,
}


class Graph:
    """A file in the making."""

    def __init__(self, seed, small=False):
        self.rng = random.Random(seed)
        self.numbers = np.random.RandomState(seed & 0xFFFFFFFF)
        self.opset = self.rng.choice(OPSETS)
        self.nodes, self.initializers, self.listed, self.functions, self.count = [], [], [], [], 0
        self.largest = LARGEST // 8 if small else LARGEST
        self.small = small
        # How often something odd is drawn where there is something usual.
        self.odd = self.rng.choice([0.0, 0.0, 0.02, 0.05, 0.2])
        self.style = self.rng.choice(["torch", "none", "shared", "plain"])
        # How often a constant is written in an unusual way.
        self.written = self.rng.choice([0.0, 0.0, 0.05, 0.3])

    def chance(self, p):
        return self.rng.random() < p

    def is_odd(self, p=1.0):
        return self.chance(self.odd * p)

    def fresh(self, prefix="v"):
        self.count += 1
        return f"{prefix}{self.count}"

    def noise(self, *shape, scale=1.0, at=0.0):
        """Normal numbers with short mantissas, so that files compress."""
        values = self.numbers.standard_normal(shape).clip(-3, 3) * scale + at
        return np.asarray(np.float16(values), np.float32)

    def positive(self, *shape):
        return np.asarray(np.float16(self.numbers.uniform(0.5, 1.5, shape)), np.float32)

    def initializer(self, data, name=None):
        name = name or self.fresh("c")
        data = np.asarray(data)
        if self.chance(0.1) and data.dtype in (np.float32, np.int64) and data.size:
            tensor = helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape, data.flatten())
        else:
            tensor = numpy_helper.from_array(data, name)
        self.initializers.append(tensor)
        if self.opset < 9 and self.chance(0.5):
            self.listed.append(helper.make_tensor_value_info(name, tensor.data_type, data.shape))
        return Value(name, data, True)

    def constant(self, data, name=None):
        """A known value, written in one of the ways that files have."""
        data = np.asarray(data)
        way = self.rng.random()
        if data.dtype == np.int64:
            if way < 0.4 or way < 0.66 and not self.chance(0.2 + self.written):
                return self.op("Constant", value=numpy_helper.from_array(data))
            if way < 0.5 and self.opset >= 12 and data.ndim <= 1 and data.size:
                values = data.tolist()
                return self.op("Constant", **{"value_ints" if data.ndim else "value_int": values})
            if way < 0.55 and data.ndim == 1 and len(data) > 1:
                return self.op("Concat", *[self.constant(data[i : i + 1]) for i in range(len(data))], axis=0)
            if way < 0.6 and data.ndim == 0:
                return self.op("Gather", self.initializer(np.array([data, data + 1])), self.initializer(np.array(0)), axis=0)
            if way < 0.63:
                return self.op("Cast", self.initializer(data.astype(np.int32)), to=TensorProto.INT64)
            if way < 0.66:
                return self.op("Add", self.initializer(data - 3), self.initializer(np.int64(3)))
            return self.initializer(data, name)
        if data.dtype != np.float32 or not self.chance(self.written):
            if way < 0.2 and data.dtype == np.float32:
                return self.op("Constant", value=numpy_helper.from_array(data))
            return self.initializer(data, name)
        way = 0.82 + 0.18 * way
        if way < 0.84 and self.opset >= 12 and data.ndim <= 1 and data.size:
            return self.op("Constant", **{"value_floats" if data.ndim else "value_float": data.tolist()})
        if way < 0.86:
            return self.op("Identity", self.initializer(data, name))
        if way < 0.88:
            return self.op("Cast", self.initializer(data.astype(self.rng.choice([np.float16, np.float64]))), to=TensorProto.FLOAT)
        if way < 0.90 and data.ndim > 1:
            return self.op("Transpose", self.initializer(np.ascontiguousarray(data.T)))
        if way < 0.92:
            return self.op("Mul", self.initializer(data), self.initializer(np.float32(self.rng.choice([1.0, 0.5, -1.25]))))
        if way < 0.93:
            return self.op("Reshape", self.initializer(data.flatten()), self.constant(np.array(data.shape, np.int64)))
        if way < 0.94:
            return self.op(self.rng.choice(["Neg", "Abs", "Floor", "Relu", "Sigmoid", "Tanh"]), self.initializer(data))
        if way < 0.95 and data.size:
            x = self.initializer(data)
            if self.opset < 11:
                return self.op("Clip", x, min=-1.0, max=1.0)
            return self.op("Clip", x, self.initializer(np.float32(-1)), self.initializer(np.float32(1)))
        if way < 0.96 and data.ndim > 1:
            return self.mean(self.initializer(np.stack([data, data], 0)), [0], False)
        if self.opset >= 10 and data.size:
            return self.dequantized(data)
        return self.initializer(data, name)

    def dequantized(self, data):
        """Weights in 8 bits, as weight-only quantization leaves them."""
        kind = self.rng.choice([np.int8, np.uint8])
        zero = 0 if kind == np.int8 else 128
        axis = self.rng.choice([None, 0]) if self.opset >= 13 and data.ndim > 1 else None
        reduced = tuple(range(1, data.ndim)) if axis == 0 else None
        scale = np.asarray(np.maximum(np.abs(data).max(reduced), 1e-3) / 127, np.float32)
        codes = np.rint(data / (scale.reshape([-1] + [1] * (data.ndim - 1)) if axis == 0 else scale)).clip(-127, 127) + zero
        inputs = [self.initializer(codes.astype(kind)), self.initializer(scale)]
        if zero or self.chance(0.5):
            inputs.append(self.initializer(np.full(scale.shape, zero, kind)))
        return self.op("DequantizeLinear", *inputs, **({"axis": 0} if axis == 0 else {}))

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def op(self, op, *inputs, outputs=1, take=0, **attributes):
        """A node, run at once. `None` leaves an input out."""
        attributes = {key: value for key, value in attributes.items() if value is not None}
        inputs = list(inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        names = [value.name if value else "" for value in inputs]
        outs = [self.fresh() for _ in range(outputs)]
        n = len(self.nodes)
        title = {"torch": f"/layer{n}/{op}", "none": "", "shared": f"/block{n // 4}/block{n // 4}.{n // 2}/{op}_{n}", "plain": f"{op}_{n}"}[self.style]
        try:
            node = helper.make_node(op, names, outs, name=title, **attributes)
            data = computed(op, inputs, attributes)
        except (ValueError, IndexError) as error:
            raise Invalid(str(error)) from None
        if data is None:
            data = self.run_alone(node, inputs, take)
        if not isinstance(data, np.ndarray):
            raise Invalid("no tensor")
        constant = all(value is None or value.constant for value in inputs) or op in ("Shape", "Size")
        if data.dtype == np.float32 and not np.isfinite(data).all():
            raise Invalid("not finite")
        if not constant and (data.size == 0 or data.size > self.largest * 4 or data.size / max(data.shape[0] if data.ndim else 1, 1) > self.largest):
            raise Invalid("size")
        if op in ("Add", "Sub") and not constant and np.abs(data).max() < 0.02 * max(np.abs(v.data).max() for v in inputs):
            raise Invalid("a difference of nearly equal values is mostly rounding")
        self.nodes.append(node)
        first = next((value for value in inputs if value and not value.constant), None)
        return Value(outs[take], data, constant, bool(first and first.last))

    def run_alone(self, node, inputs, take):
        """What ONNX Runtime computes of one node."""
        known = {value.name: value.data for value in inputs if value}
        infos = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape) for name, data in known.items()]
        constants = [value for value in inputs if value and value.constant]
        made = [numpy_helper.from_array(value.data, value.name) for value in {v.name: v for v in constants}.values()]
        graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=node.output[take])], initializer=made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version(self.opset))
        try:
            run = session(model)
            feeds = {i.name: known[i.name] for i in run.get_inputs()}
            return run.run(None, feeds)[0]
        except Exception as error:
            raise Invalid(str(error)[:200]) from None

    # What is written differently in different opsets.

    def with_axes(self, op, x, axes, since, **attributes):
        if axes is None:
            return self.op(op, x, **attributes)
        if self.opset < since:
            return self.op(op, x, axes=axes, **attributes)
        return self.op(op, x, self.ints(*axes), **attributes)

    def mean(self, x, axes, keep, op="ReduceMean"):
        since = 13 if op == "ReduceSum" else 18
        return self.with_axes(op, x, axes, since, keepdims=None if keep and self.chance(0.5) else int(keep))

    def clip(self, x, low, high):
        if self.opset < 11:
            return self.op("Clip", x, **{k: float(v) for k, v in (("min", low), ("max", high)) if v is not None})
        one = lambda v: None if v is None else self.constant(np.float32(v))
        return self.op("Clip", x, one(low), one(high))

    def slice(self, x, starts, ends, axes, steps=None):
        if self.opset < 10:
            if steps and any(s != 1 for s in steps):
                raise Invalid("no steps")
            return self.op("Slice", x, starts=starts, ends=ends, axes=axes)
        steps = self.ints(*steps) if steps else None
        if steps is None and axes == list(range(len(axes))) and self.chance(0.3):
            return self.op("Slice", x, self.ints(*starts), self.ints(*ends))
        return self.op("Slice", x, self.ints(*starts), self.ints(*ends), self.ints(*axes), steps)

    def pad(self, x, before, after, value=0.0, mode=None):
        """Borders of every axis."""
        if mode is None and self.chance(0.5):
            mode = "constant"
        pads = [*before, *after]
        if self.opset < 11:
            return self.op("Pad", x, pads=pads, mode=mode, value=float(value) if value or self.chance(0.5) else None)
        given = self.constant(np.float32(value)) if value or self.chance(0.5) else None
        if self.opset >= 18 and self.chance(0.3):
            axes = [a for a in range(x.rank) if before[a] or after[a]] or [0]
            self.rng.shuffle(axes)
            pads = [before[a] for a in axes] + [after[a] for a in axes]
            return self.op("Pad", x, self.ints(*pads), given, self.ints(*[self.signed(a, x.rank) for a in axes]), mode=mode)
        return self.op("Pad", x, self.ints(*pads), given, mode=mode)

    def squeeze(self, x, axes):
        return self.with_axes("Squeeze", x, axes, 13)

    def unsqueeze(self, x, axes):
        return self.with_axes("Unsqueeze", x, axes, 13)

    def split(self, x, sizes, axis, take):
        outputs = len(sizes)
        even = len(set(sizes)) == 1
        if even and self.chance(0.5):
            return self.op("Split", x, outputs=outputs, take=take, axis=axis, num_outputs=outputs if self.opset >= 18 else None)
        if self.opset < 13:
            return self.op("Split", x, outputs=outputs, take=take, axis=axis, split=sizes)
        return self.op("Split", x, self.ints(*sizes), outputs=outputs, take=take, axis=axis)

    def signed(self, axis, rank):
        """The same axis, now and then from the end."""
        return axis - rank if self.opset >= 13 and self.chance(0.3) else axis

    def scale(self, x):
        """Values of order 1, which rounding and tolerances are made for."""
        if x.constant or x.data.dtype != np.float32:
            return x
        deviation, largest = float(x.data.std()), float(np.abs(x.data).max())
        if largest > 20 or deviation > 4:
            return self.op("Mul", x, self.constant(np.float32(1 / max(deviation, largest / 8))))
        if 0 < largest < 0.005:
            raise Invalid("small")
        if 0 < largest < 0.05:
            return self.op("Div", x, self.constant(np.float32(largest)))
        return x

    def ints_scalar(self, value):
        return self.constant(np.int64(value))
