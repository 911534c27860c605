"""Networks that a newcomer may try, too small to be of use: make.py writes the .onnx files beside it (onnx, numpy)."""
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

HERE = Path(__file__).parent


def write(name, nodes, outputs, weights, opset=17):
    values = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    out = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()]
    graph = helper.make_graph(nodes, name, [image], out, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(model)
    save(model, HERE / f"{name}.onnx")


def weights(*shape):
    """The same on every machine."""
    count = int(np.prod(shape))
    return (np.sin(np.arange(count, dtype=np.float64) * 12.9898) * 0.2).astype(np.float32).reshape(shape)


def classifier(name, classes, last):
    """Convolution, average, fully connected, and what comes last."""
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["x" if last else "y"], transB=1),
    ]
    if last:
        nodes.append(helper.make_node(last, ["x"], ["y"]))
    params = {"conv.weight": weights(8, 3, 3, 3), "fc.weight": weights(classes, 8), "fc.bias": weights(classes)}
    write(name, nodes, {"y": [1, classes]}, params)


classifier("one_sigmoid", 1, "Sigmoid")
classifier("one_logit", 1, None)
classifier("labels", 4, "Sigmoid")

# Pixels of 0 to 1 are normalised by the network itself.
write(
    "normalising",
    [
        helper.make_node("Sub", ["image", "image.mean"], ["s"], name="centre"),
        helper.make_node("Div", ["s", "image.std"], ["d"], name="scale"),
        helper.make_node("Conv", ["d", "conv.weight"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ],
    {"y": [1, 4]},
    {
        "image.mean": np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(1, 3, 1, 1),
        "image.std": np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(1, 3, 1, 1),
        "conv.weight": weights(8, 3, 3, 3),
        "fc.weight": weights(4, 8),
        "fc.bias": weights(4),
    },
)

conv = helper.make_node("Conv", ["image", "conv.weight"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
# Every pixel a class.
write("segmenter", [conv], {"c": [1, 8, 32, 32]}, {"conv.weight": weights(8, 3, 3, 3)})
# Boxes and scores.
write(
    "detector",
    [conv, helper.make_node("Relu", ["c"], ["boxes"]), helper.make_node("GlobalAveragePool", ["c"], ["p"]),
     helper.make_node("Flatten", ["p"], ["scores"])],
    {"boxes": [1, 8, 32, 32], "scores": [1, 8]},
    {"conv.weight": weights(8, 3, 3, 3)},
)
# Patches, tokens, layer normalisation.
write(
    "transformer",
    [
        helper.make_node("Conv", ["image", "patch.weight"], ["c"], name="patch", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["c", "tokens"], ["t"], name="tokens"),
        helper.make_node("Transpose", ["t"], ["tt"], name="swap", perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["tt", "norm.scale", "norm.bias"], ["n"], name="norm", axis=-1),
        helper.make_node("ReduceMean", ["n"], ["m"], name="mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["m", "fc.weight"], ["y"], name="fc", transB=1),
    ],
    {"y": [1, 5]},
    {
        "patch.weight": weights(16, 3, 8, 8),
        "tokens": np.array([1, 16, 16], dtype=np.int64),
        "norm.scale": weights(16),
        "norm.bias": weights(16),
        "fc.weight": weights(5, 16),
    },
)
# Quantized by another tool: activations are integers.
write(
    "int8",
    [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("Conv", ["d", "conv.weight"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ],
    {"y": [1, 8]},
    {"s": np.float32(0.02), "z": np.uint8(128), "conv.weight": weights(8, 3, 3, 3)},
)
