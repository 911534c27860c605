"""Scores one network in others' block formats by direct cast, and in dsconv's, on the same images.

    python compare.py DSCONV NET LABELLED [UNLABELLED] [--limit N] [--formats NAME...] [--schemes SCHEME...]

DSCONV: the command. NET: a model that holds its preprocessing. LABELLED: a CIFAR .bin file, or a folder with
labels.txt; both sides read the same images. UNLABELLED: 128 images that layers are fitted on. Needs torch, onnx, numpy and pillow.

The network comes as `dsconv export --profile fp32` writes it, batch normalisation folded, and runs in PyTorch, node by node; the
weight and the input of every `Conv` and `Gemm` are cast. In the rows with "image in 8 bits" the layer that reads the image has an
input in MXINT8, as dsconv's has 8 bits.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from formats import FORMATS, activation, weight

BATCH = 32


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def pad(x, pads, value=0.0):
    """Pads height and width by ONNX's `pads`: top, left, bottom, right."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


class Network:
    """An ONNX file, run node by node."""

    def __init__(self, path):
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self.layers = [node for node in self.nodes if node.op_type in ("Conv", "Gemm")]
        # Values that hold the image, perhaps normalised or moved, but no layer's output.
        image = {self.input}
        for node in self.nodes:
            if node.op_type not in ("Conv", "Gemm") and any(name in image for name in node.input):
                image.update(node.output)
        self.reads_image = {node.output[0] for node in self.layers if node.input[0] in image}

    def cast(self, format, image=None):
        """Returns the cast weights, the formats of inputs by the layers' outputs, and the bits of a weight."""
        weights, formats, bits, count = {}, {}, 0, 0
        for node in self.layers:
            w = self.constants[node.input[1]]
            if node.op_type == "Gemm":
                assert attributes(node).get("transB") == 1, "weights are [out, in]"
            weights[node.input[1]] = weight(format, w)
            formats[node.output[0]] = image if image and node.output[0] in self.reads_image else format
            bits += format.bits(w.shape[1]) * (w.numel() // w.shape[1])
            count += w.numel()
        return weights, formats, bits / count

    def run(self, images, weights=None, formats=None):
        values = {**self.constants, **(weights or {}), self.input: images}
        for node in self.nodes:
            a = attributes(node)
            x = [values[name] if name else None for name in node.input]
            if formats and node.op_type in ("Conv", "Gemm"):
                x[0] = activation(formats[node.output[0]], x[0], a.get("group", 1))
            values[node.output[0]] = self.step(node.op_type, a, x)
        return values[self.output]

    @staticmethod
    def step(op, a, x):
        if op == "Conv":
            y = pad(x[0], a.get("pads", [0] * 4))
            return F.conv2d(y, x[1], x[2] if len(x) > 2 else None, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))
        if op == "Gemm":
            return F.linear(x[0], x[1], x[2] if len(x) > 2 else None)
        if op == "Relu":
            return F.relu(x[0])
        if op == "Clip":
            return x[0].clamp(*x[1:])
        if op == "Add":
            return x[0] + x[1]
        if op == "Mul":
            return x[0] * x[1]
        if op == "Concat":
            return torch.cat(x, a["axis"])
        if op in ("Flatten", "Identity", "Dropout"):
            return x[0].flatten(1) if op == "Flatten" else x[0]
        if op == "Reshape":
            return x[0].reshape([x[0].shape[i] if d == 0 else d for i, d in enumerate(x[1].tolist())])
        if op == "Pad":
            half = len(x[1]) // 2
            pads = [p for i in reversed(range(half)) for p in (int(x[1][i]), int(x[1][half + i]))]
            return F.pad(x[0], pads)
        if op == "Slice":
            y = x[0]
            for start, end, axis, step in zip(*(v.tolist() for v in x[1:5])):
                y = y[(slice(None),) * axis + (slice(start, min(end, y.shape[axis]), step),)]
            return y
        if op == "GlobalAveragePool":
            return x[0].mean((2, 3), keepdim=True)
        if op == "ReduceMean":
            axes = a.get("axes") or x[1].tolist()
            return x[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))
        if op == "LRN":
            return F.local_response_norm(x[0], a["size"], a["alpha"], a["beta"], a["bias"])
        if op in ("MaxPool", "AveragePool"):
            pads = a.get("pads", [0] * 4)
            if op == "MaxPool":
                return F.max_pool2d(pad(x[0], pads, -torch.inf), a["kernel_shape"], a["strides"], ceil_mode=bool(a.get("ceil_mode")))
            assert not any(pads) and not a.get("ceil_mode"), "average pools with a border"
            return F.avg_pool2d(x[0], a["kernel_shape"], a["strides"])
        raise SystemExit(f"{op} is not run here")


def images(data, limit, preprocess):
    """Reads the images that `dsconv eval --data DATA --limit N` reads, and their labels."""
    data = pathlib.Path(data)
    mean, std = (torch.tensor(preprocess[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if data.suffix == ".bin":
        rows = np.fromfile(data, np.uint8).reshape(-1, 3073)
        rows = rows[np.arange(limit) * len(rows) // limit] if limit else rows
        pixels, labels = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(rows[:, 0]).long()
    else:
        from PIL import Image
        import torchvision.transforms.functional as T

        files = sorted(data.glob("*.jpg"))
        files = [files[i * len(files) // limit] for i in range(limit)] if limit else files
        fit = lambda file: T.center_crop(T.resize(Image.open(file).convert("RGB"), preprocess["resize"]), preprocess["crop"])
        pixels = torch.stack([T.pil_to_tensor(fit(file)) for file in files])
        found = dict(line.split() for line in (data / "labels.txt").read_text().splitlines() if line.strip())
        labels = torch.tensor([int(found[file.name]) for file in files])
    if preprocess["order"] == "bgr":
        pixels = pixels.flip(1)
    return (pixels.float() / preprocess["divide"] - mean) / std, labels


def show(name, bits, top1, same, sqnr, seconds):
    sqnr = "" if sqnr is None else f"{sqnr:.1f}"
    print(f"| {name} | {bits:.2f} | {top1:.2f} | {same:.2f} | {sqnr} | {seconds:.0f} |", flush=True)


def sqnr(logits, reference):
    """The SQNR of the logits in dB, the mean of each image's taken off, as dsconv measures it."""
    centred = lambda x: x - x.mean(1, keepdim=True)
    noise = (centred(logits) - centred(reference)).square().sum()
    return 10 * torch.log10(centred(reference).square().sum() / noise).item() if noise else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dsconv"), parser.add_argument("net"), parser.add_argument("data")
    parser.add_argument("unlabelled", nargs="?")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--schemes", nargs="*", default=["4,4,64", "4,4,32", "6,6,64", "8,8,64"], help="weight bits, input bits, block")
    args = parser.parse_args()
    torch.set_num_threads(1)
    limit = ["--limit", str(args.limit)] if args.limit else []

    def dsconv(*options):
        return json.loads(subprocess.run([args.dsconv, *options, "--json"], check=True, capture_output=True, text=True).stdout)

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/float.onnx"
        dsconv("export", args.net, "--profile", "fp32", "-o", file)
        metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        preprocess = json.loads(metadata["preprocess"])
        net = Network(file)
        pictures, labels = images(args.data, args.limit, preprocess)

        def score(name, weights=None, formats=None, bits=32.0, reference=None):
            start = time.time()
            with torch.no_grad():
                logits = torch.cat([net.run(part, weights, formats) for part in pictures.split(BATCH)])
            if reference is None:
                reference = logits
            top1, same = ((logits.argmax(1) == other).float().mean().item() * 100 for other in (labels, reference.argmax(1)))
            show(name, bits, top1, same, sqnr(logits, reference), time.time() - start)
            return logits

        print("| format | bits a weight | top-1 | same class as FP32 | SQNR, dB | s |\n|---|---|---|---|---|---|")
        reference = score("FP32, here")
        base = dsconv("eval", args.net, "--data", args.data, *limit)
        show("FP32, `dsconv eval`", 32, base["top1"], 100, None, 0)
        for name in args.formats:
            weights, formats, bits = net.cast(FORMATS[name])
            score(name, weights, formats, bits, reference)
            if bits < 6:
                weights, formats, bits = net.cast(FORMATS[name], FORMATS["MXINT8"])
                score(f"{name}, image in 8 bits", weights, formats, bits, reference)
        for scheme in args.schemes:
            w, a, block = scheme.split(",")
            for images_of, label in [("none", "cast by the scale rule"), ("drawn", "drawn pictures"), (args.unlabelled, "128 images")]:
                if not images_of or (int(w) > 4 and images_of != "none"):
                    continue
                for image_bits in ("8", "4") if images_of == "none" and a == "4" else ("8",):
                    start, quantized = time.time(), f"{folder}/q.dsc"
                    dsconv("quantize", args.net, "--bits", w, "--activation-bits", a, "--block", block, "--images", images_of,
                           "--image-bits", image_bits, "-o", quantized, "--force")
                    bits = sum(layer["bytes"] for layer in dsconv("inspect", quantized)["layers"])
                    count = sum(net.constants[node.input[1]].numel() for node in net.layers)
                    found = dsconv("eval", quantized, "--data", args.data, *limit, "--against", args.net)
                    note = ", image in 4 bits" if image_bits == "4" else ""
                    show(f"dsconv W{w}A{a} B={block}, {label}{note}", 8 * bits / count, found["top1"], found["agreement"],
                         found["sqnr_db"], time.time() - start)


if __name__ == "__main__":
    main()
