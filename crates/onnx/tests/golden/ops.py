"""Small ONNX models, one for each way in which a file can say something, and what ONNX Runtime computes of them.

Writes ops/*.onnx and ops.safetensors, which are committed:  python ops.py
Input and parameters are a hash of their names, as in zoo::testing. Needs onnx, onnxruntime, safetensors.
"""
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def noise(name, *shape):
    """float32 in [-1, 1): FNV-1a of the name, Murmur 3's finaliser of seed and index."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = np.uint32(seed) ^ (np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    values = ((x >> np.uint32(8)).astype(np.int32) - (1 << 23)).astype(np.float32) / np.float32(1 << 23)
    return values.reshape(shape)


def ints(*values):
    return np.array(values, dtype=np.int64)


def f32(*values):
    return np.array(values, dtype=np.float32)


EXPECTED = {}


def case(name, nodes, init=None, shape=(4, 6, 6), opset=17, batch="n", last="y", logits=None, typed=(), inputs=(), sizes=None, kind="float32", more=(), functions=(), metadata=None, unsorted=False, dims=None, rank=2):
    """nodes: "Op", inputs, output(s), attributes. The model's output is `last`, flattened; golden is `logits`, if given.

    `kind` is the type of the input, `more` are outputs beside the last, `dims` those of the input where they differ,
    `rank` is that of the outputs.
    """
    init = init or {}
    made = []
    for i, (op, ins, outs, *attributes) in enumerate(nodes):
        attributes = dict(attributes[0]) if attributes else {}
        title = attributes.pop("_name", f"/{op.lower()}{i}/{op}")
        made.append(helper.make_node(op, ins.split(" ") if ins else [], outs.split(" "), name=title, domain=attributes.pop("_domain", ""), **attributes))
    if last == "y":
        made.append(helper.make_node("Flatten", ["y"], ["out"], name="/Flatten"))
        last = "out"
    tensors = []
    for key, value in init.items():
        if key in typed:
            stored = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64, "float16": TensorProto.FLOAT16}[str(value.dtype)]
            tensors.append(helper.make_tensor(key, stored, value.shape, value.flatten()))
        else:
            tensors.append(numpy_helper.from_array(value, key))
    if unsorted:
        made.reverse()
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16}
    x = helper.make_tensor_value_info("x", types[kind], dims or [batch, *(sizes or shape)])
    y = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * (1 if output == "index" else rank)) for output in [last, *more]]
    for output in y:
        if output.name in ("index", "index1"):
            output.type.tensor_type.elem_type = TensorProto.INT64
    listed = [helper.make_tensor_value_info(key, TensorProto.FLOAT, init[key].shape) for key in inputs]
    graph = helper.make_graph(made, name, [x, *listed], y, initializer=tensors)
    domains = [helper.make_opsetid(domain, 1) for domain in sorted({f.domain for f in functions})]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=8 if opset < 21 else 10, functions=functions)
    helper.set_model_props(model, metadata or {})
    if not unsorted:
        onnx.checker.check_model(model)
    data = model.SerializeToString()
    (HERE / "ops" / f"{name}.onnx").write_bytes(data)
    if logits:
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
        data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    images = 2 if batch == "n" else batch
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    image = noise("input", images, *shape)
    if kind == "uint8":
        image = np.floor(image * 128 + 128)
    value = session.run(None, {"x": image.astype(kind)})[0].reshape(images, -1).astype(np.float32)
    assert value.shape[1] > 0 and np.isfinite(value).all() and np.abs(value).max() > 1e-3, name
    EXPECTED[name] = np.ascontiguousarray(value)


def conv(name, weight, shape=(4, 6, 6), bias=None, **attributes):
    init = {"c.weight": noise("c.weight", *weight)}
    if bias:
        init["c.bias"] = noise("c.bias", weight[0])
    case(name, [("Conv", "x c.weight" + (" c.bias" if bias else ""), "y", attributes)], init, shape)


def convolutions():
    conv("conv_plain", (3, 4, 3, 3))
    conv("conv_bias_stride", (3, 4, 3, 3), bias=True, strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    conv("conv_stride_differs", (3, 4, 3, 2), strides=[2, 1], pads=[1, 0, 1, 0])
    conv("conv_groups", (4, 2, 3, 3), group=2, pads=[1, 1, 1, 1])
    conv("conv_depthwise", (8, 1, 3, 3), group=4, pads=[1, 1, 1, 1])
    conv("conv_dilation", (3, 4, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1])
    conv("conv_pads_differ", (3, 4, 3, 3), pads=[0, 1, 2, 0], strides=[2, 2])
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"]:
        conv(f"conv_{auto.lower()}", (2, 4, 3, 3), (4, 7, 6), auto_pad=auto, strides=[2, 2])
    conv("conv_same_one_by_one", (2, 4, 1, 1), (4, 6, 6), auto_pad="SAME_UPPER", strides=[2, 2])
    conv("conv_same_even", (2, 4, 2, 2), (4, 5, 5), auto_pad="SAME_LOWER")
    half = noise("c.weight", 3, 4, 1, 1).astype(np.float16)
    case("conv_float16_weight", [("Cast", "h", "w", {"to": 1}), ("Conv", "x w", "y")], {"h": half})
    case("conv_float16_typed", [("Cast", "h", "w", {"to": 1}), ("Conv", "x w", "y")], {"h": half}, typed=["h"])
    case("conv_double_typed", [("Cast", "h", "w", {"to": 1}), ("Conv", "x w", "y")], {"h": half.astype(np.float64)}, typed=["h"])
    case("conv_typed_listed", [("Conv", "x w", "y")], {"w": noise("w", 3, 4, 1, 1)}, typed=["w"], inputs=["w"], opset=9)
    case("conv_shared_weight", [("Conv", "x s.weight", "a"), ("Relu", "a", "b"), ("Conv", "b s.weight", "y")], {"s.weight": noise("s", 4, 4, 1, 1)})
    case("pad_conv", [("Pad", "x p", "a", {"mode": "constant"}), ("Conv", "a w", "y")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "w": noise("w", 3, 4, 3, 3)})
    case("pad_value_conv", [("Pad", "x p v", "a"), ("Conv", "a w", "y")], {"p": ints(0, 0, 1, 0, 0, 0, 1, 2), "v": f32(0.5)[0], "w": noise("w", 3, 4, 3, 3)})
    case("pad_attribute", [("Pad", "x", "a", {"pads": [0, 0, 2, 1, 0, 0, 2, 1], "value": 0.0}), ("Conv", "a w", "y")], {"w": noise("w", 3, 4, 3, 3)}, opset=9)
    case("pad_axes", [("Pad", "x p  a", "b"), ("Conv", "b w", "y")], {"p": ints(1, 1), "a": ints(-1), "w": noise("w", 3, 4, 3, 3)}, opset=18)


def linears():
    pool = ("GlobalAveragePool", "x", "g")
    flat = ("Flatten", "g", "f")
    w, b = noise("fc.weight", 5, 4), noise("fc.bias", 5)
    case("gemm_trans_b", [pool, flat, ("Gemm", "f fc.weight fc.bias", "out", {"transB": 1})], {"fc.weight": w, "fc.bias": b}, last="out")
    case("gemm_alpha_beta", [pool, flat, ("Gemm", "f w b", "out", {"alpha": 0.5, "beta": 2.0})], {"w": w.T.copy(), "b": b}, last="out")
    case("gemm_scalar_bias", [pool, flat, ("Gemm", "f w b", "out", {"transB": 1})], {"w": w, "b": f32(0.25)}, last="out")
    case("gemm_no_bias", [pool, flat, ("Gemm", "f w", "out", {"transB": 1})], {"w": w}, last="out", opset=11)
    case("gemm_of_pixels", [("Flatten", "x", "f"), ("Gemm", "f w", "out", {"transB": 1})], {"w": noise("w", 5, 36)}, (4, 3, 3), last="out")
    case("matmul_add", [pool, flat, ("MatMul", "f w", "m"), ("Add", "m b", "out")], {"w": w.T.copy(), "b": b}, last="out")
    case("matmul_transposed", [pool, flat, ("Transpose", "fc.weight", "w", {"perm": [1, 0]}), ("MatMul", "f w", "m"), ("Add", "b m", "out")], {"fc.weight": w, "b": b}, last="out")
    case("reshape_by_shape", [("Shape", "x", "s"), ("Gather", "s i", "n"), ("Unsqueeze", "n z", "u"), ("Concat", "u m", "t", {"axis": 0}), ("Reshape", "x t", "f"), ("Gemm", "f w", "out", {"transB": 1})], {"i": ints(0)[0], "z": ints(0), "m": ints(-1), "w": noise("w", 5, 36)}, (4, 3, 3), last="out")
    case("reshape_to_one_image", [pool, ("Reshape", "g t", "out")], {"t": ints(1, 4)}, last="out", batch=1)
    case("reshape_zero", [pool, ("Reshape", "g t", "out")], {"t": ints(0, -1)}, last="out")
    case("squeeze_axes", [pool, ("Squeeze", "g a", "out")], {"a": ints(-1, 2)}, last="out")
    case("squeeze_attribute", [pool, ("Squeeze", "g", "out", {"axes": [2, 3]})], last="out", opset=11)
    case("squeeze_all", [pool, ("Squeeze", "g", "out")], last="out")
    case("nhwc_flatten", [("Transpose", "x", "t", {"perm": [0, 2, 3, 1]}), ("Reshape", "t s", "f"), ("Gemm", "f w", "out", {"transB": 1})], {"s": ints(-1, 36), "w": noise("w", 5, 36)}, (4, 3, 3), last="out")
    case("nhwc_input", [("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Conv", "t w", "c"), ("Relu", "c", "r"), ("Transpose", "r", "u", {"perm": [0, 2, 3, 1]}), ("Add", "u b", "v"), ("ReduceMean", "v", "out", {"axes": [1, 2], "keepdims": 0})], {"w": noise("w", 5, 3, 3, 3), "b": noise("b", 5)}, (8, 9, 3), last="out", opset=13)


def normalisations():
    init = {"bn.weight": noise("bn.weight", 4) + f32(1.5), "bn.bias": noise("bn.bias", 4), "m": noise("m", 4), "v": noise("v", 4) + f32(1.5)}
    for opset in [7, 9, 14, 15]:
        case(f"batch_norm_{opset}", [("BatchNormalization", "x bn.weight bn.bias m v", "y", {"epsilon": 1e-3})], init, opset=opset)
    case("batch_norm_features", [("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f"), ("BatchNormalization", "f bn.weight bn.bias m v", "out")], init, last="out")
    c = lambda name: noise(name, 4, 1, 1)
    case("batch_norm_decomposed", [("Conv", "x w", "c"), ("Sub", "c m", "a"), ("Add", "v e", "ve"), ("Sqrt", "ve", "s"), ("Div", "a s", "d"), ("Mul", "d g", "f"), ("Add", "f b", "y")], {"w": noise("w", 4, 4, 1, 1), "m": c("m"), "v": c("v") + f32(1.5), "e": f32(1e-5), "g": c("g"), "b": c("b")})
    case("affine_of_image", [("Mul", "x s", "a"), ("Sub", "a m", "b"), ("Div", "b d", "c"), ("Conv", "c w", "y", {"pads": [1, 1, 1, 1]})], {"s": f32(0.25)[0], "m": noise("m", 1, 4, 1, 1), "d": noise("d", 1, 4, 1, 1) + f32(2), "w": noise("w", 3, 4, 3, 3)})
    case("constant_minus", [("Sub", "c x", "y")], {"c": noise("c", 4, 1, 1)})
    case("negated", [("Neg", "x", "y")])
    case("shift_before_padding", [("Add", "x b", "a"), ("Conv", "a w", "y", {"pads": [1, 1, 1, 1]})], {"b": noise("b", 4, 1, 1), "w": noise("w", 3, 4, 3, 3)})
    case("lrn", [("LRN", "x", "y", {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5})], shape=(6, 3, 3))
    lrn = [("Mul", "x x", "s"), ("Unsqueeze", "s one", "u"), ("Pad", "u p", "q"), ("AveragePool", "q", "m", {"kernel_shape": [3, 1, 1], "strides": [1, 1, 1]}), ("Squeeze", "m one", "v"), ("Mul", "v a", "va"), ("Add", "va k", "k1"), ("Pow", "k1 e", "d"), ("Div", "x d", "y")]
    case("lrn_of_all", [("LRN", "x", "y", {"size": 21, "alpha": 0.3, "beta": 0.6, "bias": 1.5})], shape=(6, 3, 3))
    case("lrn_of_pytorch", lrn, {"one": ints(1), "p": ints(0, 0, 1, 0, 0, 0, 0, 1, 0, 0), "a": f32(0.3)[0], "k": f32(2)[0], "e": f32(0.75)[0]}, (6, 3, 3))
    case("softmax_last", [("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f"), ("Softmax", "f", "out", {"axis": 1})], last="out", logits="f")
    case("softmax_last_opset_11", [("GlobalAveragePool", "x", "g"), ("Softmax", "g", "p"), ("Flatten", "p", "out")], last="out", logits="g", opset=11)
    case("log_softmax_last", [("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f"), ("LogSoftmax", "f", "out", {"axis": -1})], last="out", logits="f")
    case("softmax_within", [("Softmax", "x", "a", {"axis": 1}), ("Conv", "a w", "y")], {"w": noise("w", 3, 4, 1, 1)})


def functions():
    for op, attributes in [("Relu", {}), ("Sigmoid", {}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.2}), ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})]:
        case(f"{op.lower()}{len(attributes)}", [("Mul", "x s", "a"), (op, "a", "y", attributes)], {"s": f32(5)[0]})
    five = [("Mul", "x s", "a")]
    s = {"s": f32(8)[0]}
    relu6 = {"lo": f32(0)[0], "hi": f32(6)[0]}
    case("clip_inputs", five + [("Clip", "a lo hi", "y")], s | relu6)
    case("clip_attributes", five + [("Clip", "a", "y", {"min": 0.0, "max": 6.0})], s, opset=9)
    case("clip_no_max", five + [("Clip", "a lo", "y")], s | relu6)
    case("clip_no_min", five + [("Clip", "a  hi", "y")], s | relu6)
    case("clip_by_min_and_max", five + [("Max", "a lo", "b"), ("Min", "hi b", "y")], s | relu6)
    case("clip_of_clip", five + [("Clip", "a l h", "b"), ("Clip", "b lo hi", "y")], s | relu6 | {"l": f32(-1)[0], "h": f32(3)[0]})
    case("prelu_one_slope", [("PRelu", "x p", "y")], {"p": f32(0.3).reshape(1, 1, 1)})
    plus = [("Add", "a three", "b"), ("Clip", "b lo hi", "c")]
    k = s | relu6 | {"three": f32(3)[0], "six": f32(6)[0], "sixth": f32(1 / 6)[0]}
    case("hard_swish_of_div", five + plus + [("Mul", "a c", "d"), ("Div", "d six", "y")], k)
    case("hard_swish_of_gate", five + plus + [("Div", "c six", "d"), ("Mul", "a d", "y")], k)
    case("hard_swish_of_mul", five + plus + [("Mul", "c sixth", "d"), ("Mul", "d a", "y")], k)
    case("hard_swish_of_hard_sigmoid", five + [("HardSigmoid", "a", "b", {"alpha": 1 / 6}), ("Mul", "a b", "y")], s)
    case("hard_sigmoid_of_clip", five + plus + [("Div", "c six", "y")], k)
    case("hard_sigmoid_0_to_1", five + [("Mul", "a sixth", "b"), ("Add", "b half", "c"), ("Clip", "c lo one", "y")], k | {"half": f32(0.5)[0], "one": f32(1)[0]})
    case("silu", five + [("Sigmoid", "a", "b"), ("Mul", "a b", "y")], s)
    case("sigmoid_of_another", five + [("Sigmoid", "x", "b"), ("Mul", "a b", "y")], s)
    case("square", [("Pow", "x two", "y")], {"two": f32(2)[0]})


def poolings():
    for kind in ["MaxPool", "AveragePool"]:
        short = "max" if kind == "MaxPool" else "avg"
        pool = lambda name, shape=(2, 7, 6), opset=17, **attributes: case(f"{short}_{name}", [(kind, "x", "y", attributes)], shape=shape, opset=opset)
        pool("plain", kernel_shape=[2, 2], strides=[2, 2])
        pool("stride_1", kernel_shape=[3, 2])
        pool("padded", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        pool("ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        pool("ceil_padded", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, opset=11)
        pool("ceil_last_window_outside", (2, 5, 5), kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1)
        pool("pads_at_the_end", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
        for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"]:
            if (kind, auto) != ("AveragePool", "SAME_LOWER"):
                pool(auto.lower(), kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto)
    max_pool = lambda name, **attributes: case(f"max_{name}", [("MaxPool", "x", "y", attributes)], shape=(2, 6, 6))
    max_pool("pads_at_the_start", kernel_shape=[3, 3], strides=[1, 1], pads=[2, 1, 0, 1])
    max_pool("pads_too_wide", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    case("max_of_relu_pads_differ", [("Relu", "x", "a"), ("MaxPool", "a", "y", {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1]})], shape=(2, 6, 6))
    average = lambda name, shape=(2, 6, 7), opset=17, **attributes: case(f"avg_{name}", [("AveragePool", "x", "y", attributes)], shape=shape, opset=opset)
    average("include_padded", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    average("include_differ", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0], count_include_pad=1)
    average("include_ceil", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1, ceil_mode=1, opset=19)
    case("pad_avg", [("Pad", "x p", "a"), ("AveragePool", "a", "y", {"kernel_shape": [3, 3], "strides": [2, 2]})], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, (2, 5, 5))
    case("global_max", [("GlobalMaxPool", "x", "y")])
    case("mean_keep", [("ReduceMean", "x", "y", {"axes": [2, 3]})])
    case("mean_drop", [("ReduceMean", "x", "out", {"axes": [-1, -2], "keepdims": 0})], last="out")
    case("mean_input", [("ReduceMean", "x a", "out", {"keepdims": 0})], {"a": ints(2, 3)}, last="out", opset=18)
    case("mean_one_by_one", [("ReduceMean", "x", "a", {"axes": [3], "keepdims": 0}), ("ReduceMean", "a", "out", {"axes": [2], "keepdims": 0})], last="out")
    case("mean_of_flat", [("Reshape", "x t", "a"), ("ReduceMean", "a", "out", {"axes": [2], "keepdims": 0})], {"t": ints(0, 4, -1)}, last="out")
    case("mean_rows", [("ReduceMean", "x", "y", {"axes": [2]})])


def structure():
    case("add", [("Relu", "x", "a"), ("Add", "x a", "y")])
    case("sub", [("Relu", "x", "a"), ("Sub", "x a", "y")])
    case("mul_same", [("Sigmoid", "x", "a"), ("Relu", "x", "b"), ("Mul", "a b", "y")])
    init = {"a.weight": noise("a", 2, 4, 1, 1), "b.weight": noise("b", 4, 2, 1, 1), "fa": noise("fa", 2, 4), "fb": noise("fb", 4, 2)}
    gate = [("GlobalAveragePool", "x", "g"), ("Conv", "g a.weight", "h"), ("Relu", "h", "i"), ("Conv", "i b.weight", "j"), ("Sigmoid", "j", "k")]
    convs = {k: init[k] for k in ["a.weight", "b.weight"]}
    case("squeeze_excite", gate + [("Mul", "x k", "y")], convs)
    case("squeeze_excite_first", gate + [("Mul", "k x", "y")], convs)
    case("squeeze_excite_expanded", gate + [("Shape", "x", "s"), ("Expand", "k s", "e"), ("Mul", "x e", "y")], convs)
    fcs = [("ReduceMean", "x", "g", {"axes": [2, 3], "keepdims": 0}), ("Gemm", "g fa", "h", {"transB": 1}), ("Relu", "h", "i"), ("Gemm", "i fb", "j", {"transB": 1}), ("Sigmoid", "j", "k"), ("Unsqueeze", "k a", "l"), ("Mul", "x l", "y")]
    case("squeeze_excite_gemm", fcs, {"fa": init["fa"], "fb": init["fb"], "a": ints(2, 3)})
    case("concat", [("Relu", "x", "a"), ("Sigmoid", "x", "b"), ("Concat", "a b x", "y", {"axis": 1})], shape=(2, 3, 3))
    case("concat_negative_axis", [("Relu", "x", "a"), ("Concat", "a x", "y", {"axis": -3})], shape=(2, 3, 3))
    case("concat_features", [("GlobalAveragePool", "x", "a"), ("Flatten", "a", "f"), ("GlobalMaxPool", "x", "b"), ("Flatten", "b", "g"), ("Concat", "f g", "out", {"axis": 1})], last="out")
    shuffle = [("Reshape", "x a", "r"), ("Transpose", "r", "t", {"perm": [0, 2, 1, 3, 4]}), ("Reshape", "t b", "s"), ("Conv", "s w", "y")]
    w = {"w": noise("w", 3, 6, 1, 1)}
    case("shuffle", shuffle, {"a": ints(-1, 2, 3, 4, 4), "b": ints(-1, 6, 4, 4)} | w, (6, 4, 4))
    flat = [shuffle[0], ("Transpose", "r", "t", {"perm": [0, 2, 1, 3]}), *shuffle[2:]]
    case("shuffle_flat", flat, {"a": ints(-1, 3, 2, 16), "b": ints(-1, 6, 4, 4)} | w, (6, 4, 4))
    case("shuffle_one_image", shuffle, {"a": ints(1, 2, 3, 4, 4), "b": ints(1, 6, 4, 4)} | w, (6, 4, 4), batch=1)
    arithmetic = [("Shape", "x", "shp"), ("Slice", "shp z one", "n"), ("Slice", "shp one two", "c"), ("Slice", "shp two four", "hw"), ("Div", "c g", "k"), ("Concat", "n g k hw", "a", {"axis": 0}), ("Concat", "n c hw", "b", {"axis": 0})]
    case("shuffle_by_shape", arithmetic + shuffle, {"z": ints(0), "one": ints(1), "two": ints(2), "four": ints(4), "g": ints(2)} | w, (6, 4, 4))
    case("split_sizes", [("Split", "x p", "a b", {"axis": 1}), ("Sigmoid", "b", "c"), ("Concat", "c a", "y", {"axis": 1})], {"p": ints(1, 3)}, (4, 3, 3))
    case("split_even_opset_11", [("Split", "x", "a b", {"axis": 1}), ("Add", "a b", "y")], shape=(4, 3, 3), opset=11)
    case("split_num_outputs", [("Split", "x", "a b c", {"axis": 1, "num_outputs": 3}), ("Concat", "c a b", "y", {"axis": 1})], shape=(5, 3, 3), opset=18)
    case("split_one_used", [("Split", "x p", "a b", {"axis": 1}), ("Relu", "b", "y")], {"p": ints(1, 3)}, (4, 3, 3))
    case("slice_channels", [("Slice", "x s e a", "y")], {"s": ints(1), "e": ints(-1), "a": ints(1)}, (4, 3, 3))
    case("slice_attributes", [("Slice", "x", "y", {"starts": [0, 2], "ends": [9, 4], "axes": [0, 1]})], shape=(4, 3, 3), opset=9)
    case("gather_channels", [("Gather", "x i", "y", {"axis": 1})], {"i": ints(1, 2)}, (4, 3, 3))
    case("gather_one_channel", [("Gather", "x i", "a", {"axis": 1}), ("Mul", "a s", "b"), ("Unsqueeze", "b one", "y")], {"i": ints(2)[0], "s": f32(0.5)[0], "one": ints(1)}, (4, 3, 3))
    option_a = [("Slice", "x s e a t", "b"), ("Pad", "b p", "c"), ("Relu", "x", "r"), ("Conv", "r w", "d", {"strides": [2, 2]}), ("Add", "c d", "y")]
    case("shortcut_option_a", option_a, {"s": ints(0, 0), "e": ints(9, 9), "a": ints(2, 3), "t": ints(2, 2), "p": ints(0, 2, 0, 0, 0, 2, 0, 0), "w": noise("w", 8, 4, 1, 1)}, (4, 5, 5))
    case("transposes_cancel", [("Transpose", "x", "a", {"perm": [0, 2, 3, 1]}), ("Relu", "a", "b"), ("Transpose", "b", "y", {"perm": [0, 3, 1, 2]})])
    case("dropout", [("Dropout", "x", "a"), ("Identity", "a", "b"), ("Relu", "b", "y")])
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)])
    case("if_of_shape", [("Shape", "x", "s"), ("Gather", "s i", "n"), ("Equal", "n four", "q"), ("If", "q", "y", {"then_branch": then, "else_branch": other})], {"i": ints(1)[0], "four": ints(4)[0]})
    layers = [("Conv", "x conv.weight conv.bias", "a", {"strides": [2, 2], "_name": "/conv/Conv"}), ("Relu", "a", "b"), ("GlobalAveragePool", "b", "c"), ("Flatten", "c", "d"), ("Gemm", "d fc.weight fc.bias", "out", {"transB": 1, "_name": "/fc/Gemm"})]
    params = {"conv.weight": noise("conv.weight", 8, 3, 3, 3), "conv.bias": noise("conv.bias", 8), "fc.weight": noise("fc.weight", 16, 8), "fc.bias": noise("fc.bias", 16)}
    case("classifier", layers, params, (3, 32, 32), last="out")
    case("unused_nodes", [("Erf", "x", "unused"), ("Relu", "x", "y")])


def soundness():
    """What a reader could take for something else."""
    gate = [("GlobalAveragePool", "x", "g")]
    case("expand_before_conv", gate + [("Expand", "g t", "e"), ("Mul", "e two", "m"), ("Conv", "m w", "y", {"pads": [1, 1, 1, 1]})], {"t": ints(1, 4, 6, 6), "two": f32(2)[0], "w": noise("w", 3, 4, 3, 3)})
    case("expand_by_shape", gate + [("Shape", "x", "s"), ("Expand", "g s", "y")])
    case("expand_channels_last", gate + [("Transpose", "g", "h", {"perm": [0, 2, 3, 1]}), ("Expand", "h t", "e"), ("Transpose", "x", "u", {"perm": [0, 2, 3, 1]}), ("Add", "e u", "v"), ("Transpose", "v", "y", {"perm": [0, 3, 1, 2]})], {"t": ints(1, 6, 6, 1)})
    case("add_pooled", gate + [("Add", "x g", "y")])
    case("sub_from_pooled", gate + [("Sub", "g x", "y")])
    case("clip_highest", [("Clip", "x lo hi", "y")], {"lo": f32(-3.4028234663852886e38)[0], "hi": f32(np.inf)[0]})
    case("softmax_twice", gate + [("Flatten", "g", "f"), ("Softmax", "f", "s"), ("Softmax", "s", "out")], last="out", logits="s")
    case("softmax_shared", gate + [("Flatten", "g", "f"), ("Softmax", "f", "s"), ("Mul", "s f", "out")], last="out")
    case("conv_shared_output", [("Conv", "x w", "c"), ("Mul", "c two", "a"), ("Add", "a c", "y")], {"w": noise("w", 3, 4, 1, 1), "two": f32(2)[0]})
    case("sigmoid_shared", [("Sigmoid", "x", "s"), ("Mul", "x s", "a"), ("Add", "a s", "y")])
    case("clip_shared", [("Clip", "x lo hi", "a"), ("Clip", "a zero one", "b"), ("Add", "a b", "y")], {"lo": f32(-0.5)[0], "hi": f32(0.5)[0], "zero": f32(0.1)[0], "one": f32(0.3)[0]})
    case("constant_of_one_axis", [("Add", "x c", "y")], {"c": np.broadcast_to(noise("c", 4, 1, 1), (4, 6, 6)).copy()})
    case("constant_of_no_axis", [("Mul", "x c", "y")], {"c": np.full((1, 1, 6, 6), 0.5, np.float32)})
    # As many channels, rows and columns as images that a reader might try.
    case("sizes_of_97", [("Relu", "x", "a"), ("Reshape", "a t", "b"), ("Transpose", "b", "c", {"perm": [0, 2, 1]}), ("Transpose", "c", "d", {"perm": [0, 2, 1]}), ("ReduceMean", "d", "out", {"axes": [2], "keepdims": 0})], {"t": ints(0, 97, -1)}, (97, 2, 1), last="out")
    case("sizes_of_89", [("Transpose", "x", "a", {"perm": [0, 2, 3, 1]}), ("ReduceMean", "a", "out", {"axes": [1, 2], "keepdims": 0})], {}, (89, 2, 1), last="out")
    case("batch_norm_of_features_3d", [("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f"), ("Unsqueeze", "f two", "u"), ("BatchNormalization", "u s b m v", "n"), ("Squeeze", "n two", "out")], {"two": ints(2), "s": noise("s", 4), "b": noise("b", 4), "m": noise("m", 4), "v": noise("v", 4) + f32(1.5)}, last="out")
    case("gemm_bias_row", gate + [("Flatten", "g", "f"), ("Gemm", "f w b", "out", {"transB": 1})], {"w": noise("w", 5, 4), "b": noise("b", 1, 5)}, last="out")
    for kind in ["MaxPool", "AveragePool"]:
        for ceil in [0, 1]:
            case(f"{kind.lower()}_valid_ceil_{ceil}", [(kind, "x", "y", {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "VALID", "ceil_mode": ceil})], shape=(2, 7, 8))


def same_pools():
    for side in ["UPPER", "LOWER"]:
        for kernel, stride, size in [(2, 2, 7), (3, 2, 6), (3, 2, 7), (2, 1, 6), (4, 1, 7), (4, 3, 8), (5, 2, 8), (2, 3, 7)]:
            for kind in ["MaxPool", "AveragePool"]:
                for include in [0, 1] if kind == "AveragePool" else [0]:
                    attributes = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "auto_pad": f"SAME_{side}"} | ({"count_include_pad": 1} if include else {})
                    case(f"{kind.lower()}_same_{side.lower()}_{kernel}_{stride}_{size}_{include}", [(kind, "x", "y", attributes)], shape=(2, size, size))
    # The same borders, written out.
    for pads in [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 2, 1]]:
        case("averagepool_pads_" + "".join(map(str, pads)), [("AveragePool", "x", "y", {"kernel_shape": [4, 4], "pads": pads})], shape=(2, 6, 6))


def idioms():
    w = {"w": noise("w", 3, 4, 3, 3)}
    rgb = {"w": noise("rgb", 5, 3, 3, 3)}
    pool = [("GlobalAveragePool", "x", "g"), ("Flatten", "g", "f")]
    case("open_sizes_minus_1", [("Relu", "x", "y")], dims=[-1, 4, 6, 6])
    # timm's dynamic SAME padding: max((ceil(n / 2) - 1) * 2 + 2 + 1 - n, 0), half of it before, the rest after.
    same = [("Shape", "x", "shape")]
    for axis, name in [(2, "h"), (3, "w_")]:
        same += [("Gather", f"shape i{axis}", name), ("Cast", name, f"{name}f", {"to": 1}), ("Div", f"{name}f twof", f"{name}q"), ("Ceil", f"{name}q", f"{name}c"), ("Cast", f"{name}c", f"{name}n", {"to": 7}), ("Sub", f"{name}n one", f"{name}m"), ("Mul", f"{name}m two", f"{name}s"), ("Add", f"{name}s three", f"{name}r"), ("Sub", f"{name}r {name}", f"{name}t"), ("Clip" if axis == 2 else "Max", f"{name}t zero", f"{name}p"), ("Div", f"{name}p two", f"{name}b"), ("Sub", f"{name}p {name}b", f"{name}a"), ("Unsqueeze", f"{name}b first", f"{name}ub"), ("Unsqueeze", f"{name}a first", f"{name}ua")]
    same += [("Concat", "nothing hub w_ub nothing hua w_ua", "pads", {"axis": 0}), ("Pad", "x pads", "p"), ("Conv", "p w", "y", {"strides": [2, 2]})]
    numbers = {"i2": ints(2)[0], "i3": ints(3)[0], "twof": f32(2)[0], "one": ints(1)[0], "two": ints(2)[0], "three": ints(3)[0], "zero": ints(0)[0], "first": ints(0), "nothing": ints(0, 0)}
    case("same_padding_of_timm", same, numbers | w, (4, 6, 7))
    # The same through F.pad of the older exporter.
    pads = [("Shape", "front", "n"), ("Sub", "eight n", "rest"), ("ConstantOfShape", "rest", "zeros", {"value": numpy_helper.from_array(np.array([0], np.int64))}), ("Concat", "front zeros", "all", {"axis": 0}), ("Reshape", "all pairs", "table"), ("Slice", "table last lowest first last", "back"), ("Transpose", "back", "columns", {"perm": [1, 0]}), ("Reshape", "columns flat", "flatpads"), ("Cast", "flatpads", "pads", {"to": 7}), ("Pad", "x pads v", "p"), ("Conv", "p w", "y")]
    case("pad_of_pytorch", pads, {"front": ints(0, 1, 1, 2), "eight": ints(8), "pairs": ints(-1, 2), "last": ints(-1), "lowest": ints(-9223372036854775807), "first": ints(0), "flat": ints(-1), "v": f32(0)[0]} | w)
    # Weights.
    case("weight_norm", [("ReduceL2", "v", "n", {"axes": [1, 2, 3]}), ("Div", "v n", "d"), ("Mul", "d g", "w"), ("Conv", "x w", "y")], {"v": w["w"], "g": noise("g", 3, 1, 1, 1)})
    case("weight_centred", [("ReduceMean", "v", "m", {"axes": [1, 2, 3]}), ("Sub", "v m", "d"), ("Mul", "d d", "dd"), ("ReduceMean", "dd", "var", {"axes": [1, 2, 3]}), ("Add", "var e", "ve"), ("Sqrt", "ve", "sd"), ("Div", "d sd", "w"), ("Conv", "x w", "y")], {"v": w["w"], "e": f32(1e-5)[0]})
    codes = (noise("codes", 3, 4, 3, 3) * 127).astype(np.int8)
    case("weight_int8", [("DequantizeLinear", "q s z", "w", {"axis": 0}), ("Conv", "x w", "y")], {"q": codes, "s": noise("s", 3) / 100 + f32(0.02), "z": np.array([3, 0, -5], np.int8)})
    case("weight_uint8", [("DequantizeLinear", "q s z", "w"), ("Conv", "x w", "y")], {"q": (codes.astype(np.int16) + 128).astype(np.uint8), "s": f32(0.01)[0], "z": np.array(128, np.uint8)})
    case("weight_rounded", [("QuantizeLinear", "v s z", "q", {"axis": 0}), ("DequantizeLinear", "q s z", "w", {"axis": 0}), ("Conv", "x w", "y")], {"v": w["w"], "s": noise("s", 3) / 100 + f32(0.02), "z": np.zeros(3, np.int8)})
    blocks = helper.make_tensor("value", TensorProto.INT4, [5, 4], (noise("i4", 5, 4) * 8).astype(np.int8))
    case("weight_int4_blocks", pool + [("Constant", "", "q", {"value": blocks}), ("DequantizeLinear", "q s", "w", {"axis": 1, "block_size": 2}), ("Transpose", "w", "t", {"perm": [1, 0]}), ("MatMul", "f t", "out")], {"s": noise("s", 5, 2) + f32(1.5)}, last="out", opset=21)
    case("weight_of_two", pool + [("MatMul", "a b", "w"), ("MatMul", "f w", "out")], {"a": noise("a", 4, 2), "b": noise("b", 2, 5)}, last="out")
    mask = (noise("mask", 3, 4, 3, 3) > 0)
    case("weight_masked", [("Where", "mask v zero", "w"), ("Conv", "x w", "y")], {"mask": mask, "v": w["w"], "zero": f32(0)[0]})
    case("weight_tiled", [("Tile", "v times", "w"), ("Conv", "x w", "y")], {"v": noise("v", 3, 1, 3, 3), "times": ints(1, 4, 1, 1)})
    case("weight_split", [("Split", "v", "w u", {"axis": 0}), ("Conv", "x w", "a"), ("Conv", "x u", "b"), ("Add", "a b", "y")], {"v": noise("v", 6, 4, 3, 3)}, opset=13)
    case("numbers_of_shapes", [("Shape", "x", "s"), ("Size", "x", "n"), ("ReduceProd", "s", "p", {"keepdims": 0}), ("Equal", "n p", "same"), ("Cast", "same", "c", {"to": 1}), ("Range", "zero four one", "r"), ("ReduceSum", "r", "six", {"keepdims": 0}), ("Cast", "six", "f6", {"to": 1}), ("Greater", "f6 c", "g"), ("Not", "g", "ng"), ("Where", "ng c f6", "k"), ("Min", "k ten three", "m"), ("Pow", "m two", "q"), ("Floor", "half", "fl"), ("Add", "q fl", "t"), ("Mul", "x t", "y")], {"zero": ints(0)[0], "four": ints(4)[0], "one": ints(1)[0], "ten": f32(10)[0], "three": f32(3)[0], "two": f32(2)[0], "half": f32(1.5)[0]})
    # Functions.
    for op, attributes in [("Tanh", {}), ("Elu", {"alpha": 0.7}), ("Elu", {}), ("Selu", {}), ("Celu", {"alpha": 0.6}), ("Softplus", {}), ("Abs", {})]:
        case(f"{op.lower()}{len(attributes)}", [("Mul", "x s", "a"), (op, "a", "y", attributes)], {"s": f32(4)[0]})
    case("mish", [("Mul", "x s", "a"), ("Mish", "a", "y")], {"s": f32(4)[0]}, opset=18)
    case("mish_of_softplus", [("Mul", "x s", "a"), ("Softplus", "a", "b"), ("Tanh", "b", "c"), ("Mul", "a c", "y")], {"s": f32(4)[0]})
    case("prelu_channels", [("PRelu", "x p", "y")], {"p": noise("p", 4, 1, 1)})
    case("prelu_channels_last", [("Transpose", "x", "a", {"perm": [0, 2, 3, 1]}), ("PRelu", "a p", "b"), ("Transpose", "b", "y", {"perm": [0, 3, 1, 2]})], {"p": noise("p", 4)})
    case("prelu_features", pool + [("PRelu", "f p", "out")], {"p": noise("p", 4)}, last="out")
    case("sum_of_three", [("Relu", "x", "a"), ("Sigmoid", "x", "b"), ("Sum", "a b x", "y")])
    case("zero_channels", [("Shape", "x", "s"), ("Slice", "s zero one", "n"), ("Concat", "n chw", "t", {"axis": 0}), ("ConstantOfShape", "t", "z"), ("Concat", "z x z z", "y", {"axis": 1})], {"zero": ints(0), "one": ints(1), "chw": ints(2, 6, 6)})
    case("log_of_softmax", [*pool, ("Softmax", "f", "s", {"axis": 1}), ("Log", "s", "out")], last="out", logits="f")
    case("sum_of_one", [("Sum", "x", "a"), ("Relu", "a", "y")])
    case("mean_of_three", [("Relu", "x", "a"), ("Mean", "a x c", "y")], {"c": noise("c", 4, 1, 1)})
    case("max_of_two", [("Split", "x", "a b", {"axis": 1}), ("Max", "a b", "y")], opset=13)
    case("min_of_three", [("Relu", "x", "a"), ("Sigmoid", "x", "b"), ("Min", "a b h", "y")], {"h": f32(0.6)[0]})
    for op in ["ReduceSum", "ReduceMax", "ReduceMin"]:
        axes = {"a": ints(2, 3)} if op == "ReduceSum" else {}
        attributes = {"keepdims": 0} | ({} if axes else {"axes": [2, 3]})
        case(f"{op.lower()}_pixels", [(op, "x a" if axes else "x", "out", attributes)], axes, last="out", opset=13)
        attributes = {} if axes else {"axes": [2]}
        case(f"{op.lower()}_rows", [(op, "x a" if axes else "x", "y", attributes)], {"a": ints(2)} if axes else {}, opset=13)
    # Channels in another order.
    flip = [("Slice", "x s e a t", "b")]
    back = {"s": ints(-1), "e": ints(-9223372036854775807), "a": ints(1), "t": ints(-1)}
    case("bgr_slice_conv", flip + [("Conv", "b w", "y")], back | rgb, (3, 6, 6))
    case("bgr_gather_normalise_conv", [("Gather", "x i", "b", {"axis": 1}), ("Sub", "b m", "c"), ("Div", "c d", "e"), ("Conv", "e w", "y", {"pads": [1, 1, 1, 1]})], {"i": ints(2, 1, 0), "m": noise("m", 3, 1, 1), "d": noise("d", 3, 1, 1) + f32(2)} | rgb, (3, 6, 6))
    case("bgr_split_concat", [("Split", "x", "r g b", {"axis": 1}), ("Concat", "b g r", "c", {"axis": 1}), ("Conv", "c w", "y")], rgb, (3, 6, 6), opset=13)
    case("bgr_alone", flip + [("Relu", "b", "y")], back, (3, 6, 6))
    case("bgr_nhwc_input", [("Slice", "x s e a t", "b"), ("Transpose", "b", "c", {"perm": [0, 3, 1, 2]}), ("Conv", "c w", "y")], back | {"a": ints(3)} | rgb, (8, 9, 3))
    case("gather_any", [("Gather", "x i", "b", {"axis": 1}), ("Conv", "b w", "y")], {"i": ints(-1, 0, 0, 2), "w": noise("w", 3, 4, 1, 1)})
    case("gather_shuffle", [("Gather", "x i", "b", {"axis": 1}), ("Conv", "b w", "y", {"group": 2})], {"i": ints(0, 3, 1, 4, 2, 5), "w": noise("w", 4, 3, 1, 1)}, (6, 3, 3))
    case("gather_grouped", [("Gather", "x i", "b", {"axis": 1}), ("BatchNormalization", "b s t m v", "c"), ("Conv", "c w", "y", {"group": 2})], {"i": ints(1, 0, 3, 2), "s": noise("s", 4), "t": noise("t", 4), "m": noise("m", 4), "v": noise("v", 4) + f32(1.5), "w": noise("w", 4, 2, 1, 1)})
    case("gather_some_features", [*pool, ("Gather", "f i", "out", {"axis": 1})], {"i": ints(-1, 1)}, last="out")
    case("pad_of_flattened", [("Flatten", "x", "f"), ("Unsqueeze", "f a", "u"), ("Pad", "u p", "q"), ("Relu", "q", "y")], {"a": ints(2, 3), "p": ints(0, 0, 0, 1, 0, 0, 0, 2)}, (4, 3, 3))
    case("gather_features", pool + [("Gather", "f i", "h", {"axis": 1}), ("Gemm", "h w", "out", {"transB": 1})], {"i": ints(3, 1, 0, 2), "w": noise("w", 5, 4)}, last="out")
    case("slice_every_other_channel", [("Slice", "x s e a t", "b"), ("Relu", "b", "y")], {"s": ints(1), "e": ints(9), "a": ints(1), "t": ints(2)})
    # Shapes.
    case("squeeze_all_one_image", [pool[0], ("Squeeze", "g", "s"), ("MatMul", "s w", "out")], {"w": noise("w", 4, 5)}, last="out", batch=1, rank=1)
    case("output_of_one_axis", [*pool, ("Gemm", "f w", "l", {"transB": 1}), ("Reshape", "l flat", "out")], {"w": noise("w", 5, 4), "flat": ints(-1)}, last="out", batch=1, rank=1)
    case("output_of_one_axis_softmax", [*pool, ("Reshape", "f flat", "l"), ("Softmax", "l", "out", {"axis": 0})], {"flat": ints(-1)}, last="out", batch=1, logits="l", rank=1)
    case("one_image_picked", [*pool, ("Gemm", "f w", "l", {"transB": 1}), ("Gather", "l zero", "out")], {"w": noise("w", 5, 4), "zero": ints(0)[0]}, last="out", batch=1, rank=1)
    # Bytes.
    normalise = [("Cast", "x", "f", {"to": 1}), ("Div", "f d", "n"), ("Conv", "n w", "y")]
    case("bytes", normalise, {"d": f32(255)[0]} | rgb, (3, 6, 6), kind="uint8")
    case("bytes_nhwc_input", [("Cast", "x", "f", {"to": 1}), ("Transpose", "f", "t", {"perm": [0, 3, 1, 2]}), ("Mul", "t s", "n"), ("Conv", "n w", "y")], {"s": f32(1 / 255)[0]} | rgb, (8, 9, 3), kind="uint8")
    case("bytes_moved_nhwc_input", [("Slice", "x s e a t", "b"), ("Transpose", "b", "c", {"perm": [0, 3, 1, 2]}), ("Cast", "c", "f", {"to": 1}), ("Sub", "f m", "n"), ("Conv", "n w", "y")], back | {"a": ints(3), "m": f32(104, 117, 123).reshape(1, 3, 1, 1)} | rgb, (8, 9, 3), kind="uint8")
    # Functions of the file, whose attributes are the caller's.
    node = helper.make_node
    leaky = node("LeakyRelu", ["c"], ["out"])
    slope = leaky.attribute.add()
    slope.name, slope.ref_attr_name, slope.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    block = helper.make_function("own", "Block", ["in", "w", "b"], ["out"], [node("Conv", ["in", "w", "b"], ["c"]), leaky], [helper.make_opsetid("", 17)], ["slope"])
    twice = helper.make_function("own", "Twice", ["in", "w"], ["out", "first"], [node("Block", ["in", "w"], ["first"], domain="own", slope=0.2), node("Relu", ["first"], ["out"])], [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])
    case("functions", [("Block", "x w b", "h", {"_domain": "own", "slope": 0.3}), ("Twice", "h v", "y between", {"_domain": "own"})], {"w": noise("w", 4, 4, 1, 1), "b": noise("b", 4), "v": noise("v", 3, 4, 1, 1)}, functions=[block, twice])
    case("unsorted", [("Conv", "x w", "c"), ("Relu", "c", "r"), ("Add", "r c", "y")], w, unsorted=True)
    # Outputs beside the logits.
    case("two_outputs", [*pool, ("Gemm", "f w", "l", {"transB": 1}), ("Softmax", "l", "p")], {"w": noise("w", 5, 4)}, last="p", more=["l"], logits="l")
    case("probabilities_and_index", [*pool, ("Softmax", "f", "p", {"axis": 1}), ("ArgMax", "p", "index", {"axis": 1, "keepdims": 0})], last="p", more=["index"], logits="f")
    case("sigmoids_and_logits", [*pool, ("Sigmoid", "f", "p")], last="f", more=["p"], logits="f")
    case("only_index", [*pool, ("ArgMax", "f", "index1", {"axis": 1})], last="index1", logits="f")
    case("class_names", [*pool, ("Softmax", "f", "p")], last="p", logits="f", metadata={"names": "{0: 'cat', 1: \"dog's\", 2: 'bird', 3: 'fish'}"})
    case("class_names_of_other", [*pool, ("Relu", "f", "p")], last="p", metadata={"labels": "cat,dog"})


if __name__ == "__main__":
    shutil.rmtree(HERE / "ops", ignore_errors=True)
    (HERE / "ops").mkdir()
    for group in [convolutions, linears, normalisations, functions, poolings, structure, soundness, same_pools, idioms]:
        group()
    save_file(EXPECTED, HERE / "ops.safetensors")
    size = sum(path.stat().st_size for path in (HERE / "ops").iterdir())
    print(len(EXPECTED), "models,", size, "bytes, golden", (HERE / "ops.safetensors").stat().st_size)
