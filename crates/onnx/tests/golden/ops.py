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


def case(name, nodes, init=None, shape=(4, 6, 6), opset=17, batch="n", last="y", logits=None, typed=(), inputs=(), sizes=None):
    """nodes: "Op", inputs, output(s), attributes. The model's output is `last`, flattened; golden is `logits`, if given."""
    init = init or {}
    made = []
    for i, (op, ins, outs, *attributes) in enumerate(nodes):
        attributes = dict(attributes[0]) if attributes else {}
        made.append(helper.make_node(op, ins.split(" "), outs.split(" "), name=attributes.pop("_name", f"/{op.lower()}{i}/{op}"), **attributes))
    if last == "y":
        made.append(helper.make_node("Flatten", ["y"], ["out"], name="/Flatten"))
        last = "out"
    tensors = []
    for key, value in init.items():
        if key in typed:
            kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64, "float16": TensorProto.FLOAT16}[str(value.dtype)]
            tensors.append(helper.make_tensor(key, kind, value.shape, value.flatten()))
        else:
            tensors.append(numpy_helper.from_array(value, key))
    dims = [batch, *(sizes or shape)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, None])
    listed = [helper.make_tensor_value_info(key, TensorProto.FLOAT, init[key].shape) for key in inputs]
    graph = helper.make_graph(made, name, [x, *listed], [y], initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    (HERE / "ops" / f"{name}.onnx").write_bytes(data)
    if logits:
        model.graph.output[0].name = logits
        data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    images = 2 if batch == "n" else batch
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    value = session.run(None, {"x": noise("input", images, *shape)})[0].reshape(images, -1)
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


if __name__ == "__main__":
    shutil.rmtree(HERE / "ops", ignore_errors=True)
    (HERE / "ops").mkdir()
    for group in [convolutions, linears, normalisations, functions, poolings, structure]:
        group()
    save_file(EXPECTED, HERE / "ops.safetensors")
    size = sum(path.stat().st_size for path in (HERE / "ops").iterdir())
    print(len(EXPECTED), "models,", size, "bytes, golden", (HERE / "ops.safetensors").stat().st_size)
