"""Compares the layer times of ResNet-50 with OpenVINO's, by stage and kind of layer, in milliseconds.

    echo profile | DSCONV_KERNEL=avxvnni target/release/examples/time resnet50 two > ours.txt
    ONEDNN_MAX_CPU_ISA=AVX2_VNNI python experiments/runtime/layers.py resnet50.int8.xml ours.txt

`peers.py` makes the model for OpenVINO; lines of several profiles may be in one file. One image, one thread: of each layer the fastest run
counts. Needs numpy and openvino.
"""

import re
import sys

import numpy as np
import openvino as ov

RUNS = 40


def openvino_layers(path):
    """Returns the fastest time of each layer, by its name in PyTorch."""
    config = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(path, "CPU", config).create_infer_request()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    fastest = {}
    for _ in range(RUNS):
        request.infer({0: image})
        for node in request.profiling_info:
            ms = node.real_time.total_seconds() * 1e3
            if ms > 0:
                fastest[node.node_name] = min(ms, fastest.get(node.node_name, ms))
    layers = {}
    for node, ms in fastest.items():
        found = re.search(r"layer\d\.\d/(?:conv\d|downsample)", node)
        name = found[0].replace("/", ".") if found else re.sub(r"[/_.].*", "", node.lstrip("/"))
        layers[name] = layers.get(name, 0) + ms
    return layers


def our_layers(path):
    """Returns the fastest time of each layer."""
    layers = {}
    with open(path) as lines:
        for line in lines:
            words = line.split()
            if "ms" in words and words[0] != "total":
                ms = float(words[words.index("ms") - 1])
                layers[words[0]] = min(ms, layers.get(words[0], ms))
    return layers


def kind(layer):
    """Names what is compared: a sum and the layers it joins run together in one engine and apart in the other."""
    stage, _, rest = layer.partition(".")
    kinds = {"conv1": "narrowing 1x1", "conv2": "3x3", "conv3": "widening 1x1", "downsample": "widening 1x1"}
    found = [text for key, text in kinds.items() if key in rest]
    other = {"image": "image", "input": "image", "ReduceMean": "pool, classifier", "avgpool": "pool, classifier"}
    return f"{stage} {found[0]}" if found else other.get(layer, "pool, classifier" if layer in ("fc", "flatten") else layer)


def main():
    theirs, ours = openvino_layers(sys.argv[1]), our_layers(sys.argv[2])
    sums = {}
    for column, layers in enumerate((theirs, ours)):
        for layer, ms in layers.items():
            sums.setdefault(kind(layer), [0, 0])[column] += ms
    print("| layers | OpenVINO INT8 | dsconv | ratio |\n|---|---|---|---|")
    for name, (a, b) in sums.items():
        print(f"| {name} | {a:.2f} | {b:.2f} | {f'{b / a:.2f}' if a else ''} |")
    a, b = sum(theirs.values()), sum(ours.values())
    print(f"| all | {a:.2f} | {b:.2f} | {b / a:.2f} |")


if __name__ == "__main__":
    main()
