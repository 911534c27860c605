"""Fits networks in the format that exact Winograd needs, and in the usual one.

    python experiments/winograd/accuracy.py DATA [--networks resnet20] [--images 128] [--score 3000]

A network is a CIFAR-10 ResNet, DATA/weights/NET_cifar10.th (github.com/akamaster/pytorch_resnet_cifar10), or an ImageNet one,
DATA/weights/NET.onnx: convolutions, ReLU, pooling, concatenation, LRN, and a classifier, with Caffe's preprocessing (BGR, means 104,
117, 123). Images: DATA/cifar10/data_batch_1.bin, test_batch.bin; DATA/imagenet/unlabelled, val and val_labels.txt, 256x256.

Every 3x3 layer of stride 1, but for the one that reads the image, has weights with one scale for each tap or for all nine, and
inputs with one scale for a block of channels of a pixel, of a 4x4 patch of each 2x2 outputs ("tile"), of the four rows that two
rows of outputs read ("strip"), or of an image, or one for all channels of an image ("all"): `--formats "each pixel 4 32,all tile 5 64"` are taps, inputs, bits of inputs, and
block. All other layers are as usual: blocks of the same length, a scale a block and tap, a scale a block and pixel, 4-bit inputs,
8 bits for the layer that reads the image. The fit is that of `dsconv quantize` (crates/distill/src/fit): error feedback, then
coordinate descent, from the products of the inputs that the quantized network has, at a sample of pixels; 0.4 of the aim is the
float network's output. Needs numpy and torch, for ONNX also onnx and pillow.
"""

import argparse
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

RIDGE = 0.2
PART = 0.4
SWEEPS = 12
LEAST_ROWS = 16384
# The images that are scored at once, those whose values a layer computes at once, and the columns of a block between two products of matrices.
BATCH = 100
CHUNK = 16
PANEL = 16


@dataclass(frozen=True)
class Format:
    """`taps`: "each" or "all" share a scale; `inputs`: "pixel", "tile", "strip" or "image"; both for blocks of `block` channels."""

    taps: str
    inputs: str
    bits: int
    block: int


@dataclass
class Conv:
    weight: torch.Tensor
    bias: torch.Tensor
    stride: int
    padding: int
    format: Format
    signed: bool = False


def load(path):
    """Returns the layers of a CIFAR ResNet in order, batch normalisation folded: {name: (weight, bias, stride, padding)}."""
    state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    state = {name.removeprefix("module."): value.double() for name, value in state.items()}
    layers = {}
    for name in [key.removesuffix(".weight") for key in state if key.endswith("weight") and state[key].dim() == 4]:
        norm = name.replace("conv", "bn")
        factor = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-5)
        weight = state[f"{name}.weight"] * factor[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
        stride = 2 if name in ("layer2.0.conv1", "layer3.0.conv1") else 1
        layers[name] = (weight.float(), bias.float(), stride, 1)
    weight = state["linear.weight"][:, :, None, None]
    layers["linear"] = (weight.float(), state["linear.bias"].float(), 1, 0)
    return layers


def images(path, n, every=None):
    data = np.fromfile(path, np.uint8).reshape(-1, 3073)
    data = data[np.arange(n) * len(data) // n] if every else data[:n]
    x = torch.from_numpy(data[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None], torch.from_numpy(data[:, 0].astype(np.int64))


def photographs(files):
    """Reads 256x256 images as Caffe does: their centre, BGR less its means."""
    from PIL import Image

    means = torch.tensor([104.0, 117.0, 123.0])[:, None, None]
    x = np.stack([np.asarray(Image.open(file).convert("RGB"))[16:240, 16:240, ::-1] for file in files])
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() - means


def spread(values, n):
    return [values[i * len(values) // n] for i in range(n)]


def largest(x, format):
    """Returns the largest magnitudes that share a scale: of the blocks of a pixel, or for each 4x4 patch [N, blocks, h, w]."""
    most = torch.cat([part.abs().amax(1, keepdim=True) for part in x.split(format.block, 1)], 1)
    if format.inputs == "pixel":
        return most
    height, width = most.shape[2:]
    most = F.max_pool2d(F.pad(most, (1, 1 + width % 2, 1, 1 + height % 2)), 4, 2)
    over = {"tile": (), "strip": (3,), "image": (2, 3), "all": (1, 2, 3)}[format.inputs]
    return most.amax(over, keepdim=True).expand_as(most) if over else most


def rounded(x, most, conv):
    """Rounds [N, C, ...] with scales by the largest magnitudes [N, blocks, ...] of blocks of channels."""
    top = 2 ** (conv.format.bits - 1) - 1 if conv.signed else 2**conv.format.bits - 1
    parts = []
    for i, part in enumerate(x.split(conv.format.block, 1)):
        scale = most[:, i : i + 1] / top
        scale = torch.where(scale > 0, scale, 1.0)
        parts.append((part / scale).round_().clamp_(-top if conv.signed else 0, top).mul_(scale))
    return torch.cat(parts, 1)


def winograd(x, conv, weight):
    """Computes F(2x2, 3x3) on patches that are each rounded with their own scales."""
    n, c, height, width = x.shape
    most = largest(x, conv.format)
    x = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2)).transpose(0, 1).contiguous()
    h, w = most.shape[2:]
    most = most.transpose(0, 1).contiguous()[None]
    d = [[x[:, :, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for j in range(4)] for i in range(4)]
    d = [[rounded(part[None], most, conv)[0] for part in row] for row in d]
    half = lambda a, b, c, d: (a - c, b + c, c - b, b - d)
    columns = [half(*column) for column in zip(*d)]
    v = torch.stack([part for row in zip(*columns) for part in half(*row)]).reshape(16, c, -1)
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    u = torch.einsum("ip,ocpq,jq->ijoc", g, weight, g).reshape(16, len(weight), c)
    m = torch.bmm(u, v).reshape(4, 4, len(weight), n, h, w)
    rows = (m[0] + m[1] + m[2], m[1] - m[2] - m[3])
    y = torch.stack([torch.stack((row[0] + row[1] + row[2], row[1] - row[2] - row[3]), -1) for row in rows], -2)
    return y.permute(1, 0, 2, 4, 3, 5).reshape(n, len(weight), 2 * h, 2 * w)[:, :, :height, :width]


def forward(x, conv, weight, bias):
    def part(x):
        if conv.format.inputs == "pixel":
            return F.conv2d(rounded(x, largest(x, conv.format), conv), weight, bias, conv.stride, conv.padding)
        return winograd(x, conv, weight) + bias[:, None, None]

    return torch.cat([part(some) for some in x.split(CHUNK)])


def sample(conv, shape):
    """Returns the images and places (n, y, x) of the outputs that a layer is fitted on."""
    n, _, height, width = shape
    least = max(LEAST_ROWS, 8 * conv.weight[0].numel())
    some = torch.randperm(n * height * width, generator=torch.Generator().manual_seed(0))[:least]
    return some // (height * width), some // width % height, some % width


def windows(x, conv, at):
    """Returns what the outputs `at` read, as it is and rounded: rows [pixels, K] in the order of the weights."""
    n, y, left = (index[:, None, None] for index in at)
    kernel = torch.arange(conv.weight.shape[-1])
    padded = F.pad(x, (conv.padding,) * 4).permute(0, 2, 3, 1)
    read = padded[n, y * conv.stride + kernel[:, None], left * conv.stride + kernel].permute(0, 3, 1, 2)
    if conv.format.inputs == "pixel":
        most = largest(read, conv.format)
    else:
        most = largest(x, conv.format)[at[0], :, at[1] // 2, at[2] // 2][:, :, None, None]
    return read.flatten(1), rounded(read, most, conv).flatten(1)


def blocks(conv):
    """Returns the columns [Ci, taps] that share a scale."""
    _, ci, height, width = conv.weight.shape
    columns = torch.arange(ci * height * width).reshape(ci, height * width)
    if conv.format.taps == "all":
        return [part.T.reshape(-1) for part in columns.split(conv.format.block)]
    return [part[:, tap] for tap in range(height * width) for part in columns.split(conv.format.block)]


def search(w):
    """Returns the scales of rows [F, n] for codes -8..7 of least squared error, from both signs and several clippings."""
    ratios = torch.linspace(0.4, 1.1, 15, dtype=w.dtype)
    starts = torch.cat((ratios, -ratios))[:, None] * w.abs().amax(1) / 8

    def solve(alpha):
        """Rounds with each scale; returns the best scale for those codes, and how much of the square of `w` it explains."""
        q = (w / torch.where(alpha != 0, alpha, 1.0)[..., None]).round_().clamp_(-8, 7)
        along, square = torch.einsum("fn,...fn->...f", w, q), torch.einsum("...fn,...fn->...f", q, q).clamp_(min=1e-30)
        return along / square, along * along / square

    alpha, explained = solve(starts)
    best = explained.topk(2, 0).indices
    alpha = alpha.gather(0, best)
    for _ in range(4):
        alpha, explained = solve(alpha)
    return alpha.gather(0, explained.argmax(0, keepdim=True))[0]


def to_codes(w, alpha):
    return (w / torch.where(alpha != 0, alpha, 1.0)).round().clamp(-8, 7)


def by_rule(conv):
    """Returns the weights rounded by the scale rule alone, as values and codes [F, K] and scales [F, blocks]."""
    w = conv.weight.flatten(1)
    values, codes, scales = torch.zeros_like(w), torch.zeros_like(w), []
    for block in blocks(conv):
        scales.append(search(w[:, block]))
        codes[:, block] = to_codes(w[:, block], scales[-1][:, None])
        values[:, block] = scales[-1][:, None] * codes[:, block]
    return values, codes, torch.stack(scales, 1)


def feed_back(aim, gram, sizes):
    """Rounds block by block, and has the columns that follow make up for each error."""
    # H = U D U^T with a unit upper triangle, by the Cholesky factor of the reversed matrix.
    lower = torch.linalg.cholesky(gram.flip(0, 1)).flip(0, 1)
    upper, aim = (lower / lower.diagonal()).float(), aim.float()
    values, codes, scales = torch.zeros_like(aim), torch.zeros_like(aim), []
    errors, at = torch.zeros_like(aim), 0
    for size in sizes:
        base = aim[:, at : at + size] + errors[:, :at] @ upper[:at, at : at + size]
        alpha = search(base)
        scales.append(alpha)
        for j in range(size):
            codes[:, at + j] = to_codes(base[:, j], alpha)
            values[:, at + j] = alpha * codes[:, at + j]
            errors[:, at + j] = error = aim[:, at + j] - values[:, at + j]
            base[:, j + 1 :] += error[:, None] * upper[at + j, at + j + 1 : at + size]
        at += size
    return values, codes, torch.stack(scales, 1)


def descend(start, gram, cross, sizes):
    """Sets each code, then each scale, to its best while all others stay. Returns the values, and each filter's error."""
    # A column of all filters lies together; NumPy has less to do than torch for so few numbers.
    v, q, scales = (np.ascontiguousarray(part.numpy().T, np.float32) for part in start)
    gram, cross = gram.numpy().astype(np.float32), np.ascontiguousarray(cross.numpy().T, np.float32)
    diagonal = gram.diagonal()
    ends = np.cumsum(sizes)
    for _ in range(SWEEPS):
        gradient = cross - gram @ v
        changed = 0
        for at, (low, high) in enumerate(zip(ends - sizes, ends)):
            alpha = scales[at]
            inverse = 1 / np.where(alpha != 0, alpha, 1)
            local, before, old = gradient[low:high].copy(), v[low:high].copy(), q[low:high].copy()
            for first in range(low, high, PANEL):
                last = min(first + PANEL, high)
                own, was = local[first - low : last - low], v[first:last].copy()
                for i in range(first, last):
                    code = own[i - first] / diagonal[i]
                    code += v[i]
                    code *= inverse
                    np.rint(code, out=code)
                    np.minimum(code, 7, out=code)
                    np.maximum(code, -8, out=code)
                    q[i] = code
                    code *= alpha
                    own -= gram[i, first:last, None] * (code - v[i])
                    v[i] = code
                moved = v[first:last] - was
                local[: first - low] -= gram[low:first, first:last] @ moved
                local[last - low :] -= gram[last:high, first:last] @ moved
            codes = q[low:high]
            changed += (codes != old).sum()
            # The scale: least squares along the block's codes.
            slope, curve = (codes * local).sum(0), (codes * (gram[low:high, low:high] @ codes)).sum(0)
            scales[at] += np.where(curve > 0, slope / np.maximum(curve, 1e-30), 0)
            v[low:high] = scales[at] * codes
            gradient -= gram[:, low:high] @ (v[low:high] - before)
        if changed < 2e-4 * q.size:
            break
    return torch.from_numpy(v.T), torch.from_numpy(((gram @ v - 2 * cross) * v).sum(0, dtype=np.float64))


def fit(conv, rule, a, target):
    """Returns weights and bias of least squared error between `a @ weight + bias` and `target` [pixels, Co]."""
    w = conv.weight.flatten(1).double()
    mean, wanted = a.mean(0), target.mean(0)
    centred = a - mean
    gram, cross = (centred.T @ centred / len(a)).double(), ((target - wanted).T @ centred / len(a)).double()
    k = len(gram)
    ridge = RIDGE * (1 + k / len(a)) * gram.diagonal().mean() + 1e-12
    cross += ridge * w
    gram += ridge * torch.eye(k)
    aim = torch.linalg.solve(gram, cross.T).T
    parts = blocks(conv)
    order, sizes = torch.cat(parts), np.array([len(part) for part in parts])
    gram, cross = gram[order][:, order].contiguous(), cross[:, order]
    fed = feed_back(aim[:, order], gram, sizes)
    starts = [torch.cat(both) for both in zip(fed, (rule[0][:, order], rule[1][:, order], rule[2]))]
    found, errors = descend(starts, gram, torch.cat((cross, cross)), sizes)
    (fed, rule), (fed_error, rule_error) = found.chunk(2), errors.chunk(2)
    values = torch.zeros_like(conv.weight).flatten(1)
    values[:, order] = torch.where((fed_error <= rule_error)[:, None], fed, rule)
    return values.reshape(conv.weight.shape), wanted - values @ mean


class Network:
    """A CIFAR ResNet whose layers are functions of their names and inputs."""

    def __init__(self, layers):
        self.blocks = sorted({name.rsplit(".", 1)[0] for name in layers if name.startswith("layer")})

    def run(self, x, layer):
        """`layer(name, x, shortcut)` returns what a layer gives, with the shortcut added where there is one."""
        x = F.relu(layer("conv1", x, None))
        for block in self.blocks:
            y = F.relu(layer(f"{block}.conv1", x, None))
            shortcut = x
            if y.shape[1] != x.shape[1]:
                pad = (y.shape[1] - x.shape[1]) // 2
                shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            x = F.relu(layer(f"{block}.conv2", y, shortcut))
        return layer("linear", x.mean((2, 3), keepdim=True), None).flatten(1)


class Graph:
    """An ONNX network of few kinds of nodes, whose layers are functions of their names and inputs."""

    def __init__(self, path):
        import onnx

        graph = onnx.load(path).graph
        self.input, self.output = graph.input[0].name, graph.output[0].name
        tensors = {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.nodes, self.layers = [], {}
        self.attributes = lambda node: {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        seen = set()

        def visit(name):
            if name == self.input or name in seen:
                return
            seen.add(name)
            node = self.makers[name]
            inputs = list(node.input) if node.op_type == "Concat" else [node.input[0]]
            for value in inputs:
                visit(value)
            about = self.attributes(node)
            if node.op_type in ("Conv", "Gemm"):
                weight, bias = tensors[node.input[1]], tensors[node.input[2]]
                weight = weight if weight.dim() == 4 else weight[:, :, None, None]
                stride, padding = about.get("strides", [1])[0], about.get("pads", [0])[0]
                self.layers[name] = (weight, bias, stride, padding)
            elif node.op_type == "Div":
                about = self.normalisation(node)
            self.nodes.append((node.op_type, name, inputs, about))

        visit(self.output)
        self.last = {value: name for _, name, inputs, _ in self.nodes for value in inputs}

    def normalisation(self, node):
        """Reads `x / (k + alpha * mean of squares)^beta` over `size` channels, as torch exports LRN."""
        constants = {}
        while node.op_type != "AveragePool":
            if node.op_type in ("Pow", "Add", "Mul"):
                value = self.attributes(self.makers[node.input[1]])["value"].raw_data
                constants[node.op_type] = float(np.frombuffer(value, np.float32)[0])
            node = self.makers[node.input[1 if node.op_type == "Div" else 0]]
        size = self.attributes(node)["kernel_shape"][0]
        return {"size": size, "alpha": constants["Mul"], "beta": constants["Pow"], "k": constants["Add"]}

    def run(self, x, layer):
        """`layer(name, x, shortcut)` returns what a layer gives; there is no shortcut here."""
        values = {self.input: x}
        for kind, name, inputs, about in self.nodes:
            taken = [values.pop(value) if self.last[value] == name else values[value] for value in inputs]
            if kind in ("Conv", "Gemm"):
                x = layer(name, taken[0], None)
            else:
                parts = zip(*(value.split(CHUNK) for value in taken))
                del taken
                x = torch.cat([self.compute(kind, about, part) for part in parts])
            values[name] = x
        return values[self.output].flatten(1)

    def compute(self, kind, about, taken):
        x = taken[0]
        match kind:
            case "Relu":
                return F.relu(x)
            case "Concat":
                return torch.cat(taken, 1)
            case "MaxPool":
                kernel, stride, padding = about["kernel_shape"], about["strides"], about["pads"][:2]
                return F.max_pool2d(x, kernel, stride, padding, ceil_mode=bool(about.get("ceil_mode", 0)))
            case "Div":
                return F.local_response_norm(x, **about)
            case "GlobalAveragePool":
                return x.mean((2, 3), keepdim=True)
            case "Flatten":
                return x.flatten(1)[:, :, None, None]
        raise ValueError(f"a node {kind} is not read")


def plain(layers):
    def layer(name, x, shortcut):
        weight, bias, stride, padding = layers[name]
        y = torch.cat([F.conv2d(part, weight, bias, stride, padding) for part in x.split(CHUNK)])
        return y if shortcut is None else y + shortcut

    return layer


def quantize(network, convs, rules, x, wanted):
    """Quantizes layer by layer: by the scale rule `rules`, or fitted to the images `x` where there are any."""
    if x is None:
        return {name: (rules[name][0].reshape(conv.weight.shape), conv.bias) for name, conv in convs.items()}
    solved = {}

    def solve(name, x, shortcut):
        conv = convs[name]
        at, aim = wanted[name]
        read, a = windows(x, conv, at)
        own = read @ conv.weight.flatten(1).T + conv.bias
        aim = aim - (0 if shortcut is None else shortcut[at[0], :, at[1], at[2]])
        solved[name] = fit(conv, rules[name], a, (1 - PART) * own + PART * aim)
        y = forward(x, conv, *solved[name])
        return y if shortcut is None else y + shortcut

    network.run(x, solve)
    return solved


def float_samples(network, layers, x):
    """Returns, for each layer, the outputs that it is fitted on and the float network's values there."""
    wanted, float_layer = {}, plain(layers)

    def note(name, x, shortcut):
        y = float_layer(name, x, shortcut)
        at = sample(Conv(*layers[name], None), y.shape)
        wanted[name] = (at, y[at[0], :, at[1], at[2]])
        return y

    network.run(x, note)
    return wanted


def score(network, convs, solved, x, labels, reference):
    def layer(name, x, shortcut):
        y = forward(x, convs[name], *solved[name])
        return y if shortcut is None else y + shortcut

    logits = torch.cat([network.run(part, layer) for part in x.split(BATCH)])
    centred = lambda y: y - y.mean(1, keepdim=True)
    noise = ((centred(logits) - centred(reference)) ** 2).sum()
    same = (logits.argmax(1) == reference.argmax(1)).float().mean()
    right, before = logits.argmax(1) == labels, reference.argmax(1) == labels
    won, lost = int((right & ~before).sum()), int((before & ~right).sum())
    top1, sqnr = right.float().mean(), 10 * torch.log10((centred(reference) ** 2).sum() / noise)
    return f"{100 * top1:.2f} / {100 * same:.1f} % / {sqnr:.1f} dB ({won}/{lost})"


def read(data, net, count, scored):
    """Returns a network, its layers, the images to fit on, and those to score on with their labels."""
    if (data / f"weights/{net}_cifar10.th").exists():
        layers = load(data / f"weights/{net}_cifar10.th")
        given, _ = images(data / "cifar10/data_batch_1.bin", count, every=True)
        return Network(layers), layers, given, *images(data / "cifar10/test_batch.bin", scored)
    network = Graph(data / f"weights/{net}.onnx")
    given = photographs(spread(sorted((data / "imagenet/unlabelled").glob("*.jpg")), count))
    lines = (data / "imagenet/val_labels.txt").read_text().split()
    files, labels = zip(*spread(list(zip(lines[::2], lines[1::2])), scored))
    x = photographs([data / "imagenet/val" / file for file in files])
    return network, network.layers, given, x, torch.tensor(list(map(int, labels)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--score", type=int, default=3000)
    parser.add_argument("--formats", default="each pixel 4 32,all tile 4 32,all image 4 32")
    parser.add_argument("--fitted-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for net in args.networks.split(","):
        network, layers, given, x, labels = read(args.data, net, args.images, args.score)
        first = next(iter(layers))
        reference = torch.cat([network.run(part, plain(layers)) for part in x.split(BATCH)])
        print(f"{net}: FP32 {100 * (reference.argmax(1) == labels).float().mean():.2f}", flush=True)
        wanted = float_samples(network, layers, given)

        @cache
        def rule(name, taps, block):
            return by_rule(Conv(*layers[name], Format(taps, "pixel", 4, block)))

        for text in args.formats.split(","):
            start = time.time()
            taps, inputs, bits, block = text.split()
            wide, convs = Format(taps, inputs, int(bits), int(block)), {}
            for name, layer in layers.items():
                eligible = layer[0].shape[-1] == 3 and layer[2] == 1 and name != first
                usual = Format("each", "pixel", 8 if name == first else 4, wide.block)
                convs[name] = Conv(*layer, wide if eligible else usual, name == first)
            rules = {name: rule(name, conv.format.taps, conv.format.block) for name, conv in convs.items()}
            cells = []
            for some in [given] if args.fitted_only else [None, given]:
                solved = quantize(network, convs, rules, some, wanted)
                cells.append(score(network, convs, solved, x, labels, reference))
            print(f"| W4A{bits} B={block} | {taps} | {inputs} | {' | '.join(cells)} | {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
