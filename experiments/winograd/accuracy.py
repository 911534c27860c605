"""Fits ResNet-20 (CIFAR-10) in the format that exact Winograd needs, and in the usual one.

    python experiments/winograd/accuracy.py DATA [--networks resnet20] [--images 128] [--score 3000]

DATA holds `weights/NET_cifar10.th` (github.com/akamaster/pytorch_resnet_cifar10) and `cifar10/data_batch_1.bin`,
`test_batch.bin`. Every 3x3 layer of stride 1, but for the one that reads the image, has weights with one scale for `taps` taps
and inputs with one scale for a block of channels of a pixel, of a 4x4 patch of each 2x2 outputs ("tile"), of the four rows that
two rows of outputs read ("strip"), or of an image. All other layers are as usual: a scale a block and tap, a scale a block and
pixel; 8-bit inputs for the layer that reads the image. The fit is that of `dsconv quantize` (crates/distill/src/fit): error
feedback, then coordinate descent, from the products of the inputs that the quantized network has; 0.4 of the aim is the float
network's output. Needs numpy and torch.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

RIDGE = 0.2
PART = 0.4
SWEEPS = 12
LEAST_ROWS = 16384


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


def patches(x, kind):
    """Cuts padded inputs [N, C, H, W] into what one scale each serves: [N * patches, C, h, w]."""
    n, c, height, width = x.shape
    if kind == "image":
        return F.pad(x, (1, 1, 1, 1))
    x = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2)
    if kind == "strip":
        return x.permute(0, 2, 1, 4, 3).reshape(-1, c, 4, width + 2)
    return x.unfold(3, 4, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, c, 4, 4)


def together(y, kind, n, height):
    """Puts the outputs of patches together."""
    if kind == "image":
        return y
    c = y.shape[1]
    if kind == "strip":
        return y.reshape(n, height // 2, c, 2, height).permute(0, 2, 1, 3, 4).reshape(n, c, height, height)
    half = height // 2
    return y.reshape(n, half, half, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, height, height)


def rounded(x, format, signed):
    """Rounds [N, C, H, W] with one scale for a block of channels, of each pixel or of all."""
    largest = 2 ** (format.bits - 1) - 1 if signed else 2**format.bits - 1
    low = -largest if signed else 0
    parts = []
    for part in x.split(format.block, 1):
        scale = part.abs().amax(1 if format.inputs == "pixel" else (1, 2, 3), keepdim=True) / largest
        scale = torch.where(scale > 0, scale, 1.0)
        parts.append((part / scale).round().clamp(low, largest) * scale)
    return torch.cat(parts, 1)


def operands(x, conv):
    """Returns the rounded inputs as they meet the weights, and the padding that is left."""
    kind = conv.format.inputs
    if kind != "pixel":
        return rounded(patches(x, kind), conv.format, conv.signed), 0
    return rounded(x, conv.format, conv.signed), conv.padding


def forward(x, conv, weight):
    a, padding = operands(x, conv)
    y = F.conv2d(a, weight, None, conv.stride, padding)
    return y if conv.format.inputs == "pixel" else together(y, conv.format.inputs, x.shape[0], x.shape[2])


def rows(a, conv, padding):
    """Returns rows of inputs [pixels, K] in the order of the weights, and the positions they belong to."""
    kernel = conv.weight.shape[-1]
    return F.unfold(a, kernel, padding=padding, stride=conv.stride).transpose(1, 2).reshape(-1, conv.weight[0].numel())


def blocks(conv):
    """Returns the columns [Ci, taps] that share a scale."""
    _, ci, height, width = conv.weight.shape
    columns = torch.arange(ci * height * width).reshape(ci, height * width)
    if conv.format.taps == "all":
        return [part.T.reshape(-1) for part in columns.split(conv.format.block)]
    return [part[:, tap] for tap in range(height * width) for part in columns.split(conv.format.block)]


def search(w):
    """Returns the scales of rows [F, n] for codes -8..7 of least squared error, from both signs and several clippings."""
    best, scale = torch.full((len(w),), torch.inf, dtype=w.dtype), torch.zeros(len(w), dtype=w.dtype)
    most = w.abs().amax(1)
    for ratio in np.linspace(0.4, 1.1, 15):
        for sign in (1, -1):
            alpha = sign * ratio * most / 8
            for _ in range(4):
                safe = torch.where(alpha != 0, alpha, 1.0)
                q = (w / safe[:, None]).round().clamp(-8, 7)
                alpha = (w * q).sum(1) / (q * q).sum(1).clamp(min=1e-30)
            error = ((w - alpha[:, None] * q) ** 2).sum(1)
            better = error < best
            best, scale = torch.where(better, error, best), torch.where(better, alpha, scale)
    return scale


def to_codes(w, alpha):
    return (w / torch.where(alpha != 0, alpha, 1.0)).round().clamp(-8, 7)


def by_rule(conv):
    """Returns the weights rounded by the scale rule alone."""
    w = conv.weight.flatten(1).double()
    values = torch.zeros_like(w)
    for block in blocks(conv):
        alpha = search(w[:, block])
        values[:, block] = alpha[:, None] * to_codes(w[:, block], alpha[:, None])
    return values


def descend(values, codes, scales, gram, cross, parts):
    """Sets each code, then each scale, to its best while all others stay. Returns each filter's error."""
    # A column of all filters lies together; NumPy has less to do than torch for so few numbers.
    v, q, scales, gram, cross = values.numpy().T.copy(), codes.numpy().T.copy(), scales.numpy(), gram.numpy(), cross.numpy().T
    parts = [part.numpy() for part in parts]
    diagonal = gram.diagonal()
    inners = [gram[np.ix_(part, part)].copy() for part in parts]
    for _ in range(SWEEPS):
        gradient = cross - gram @ v
        changed = 0
        for at, (block, inner) in enumerate(zip(parts, inners)):
            alpha = scales[:, at]
            inverse = 1 / np.where(alpha != 0, alpha, 1)
            local, before = gradient[block], v[block]
            new, old = before.copy(), q[block]
            codes = old.copy()
            for i in range(len(block)):
                code = np.clip(np.rint((new[i] + local[i] / diagonal[block[i]]) * inverse), -8, 7)
                step = alpha * code - new[i]
                if step.any():
                    local -= inner[i][:, None] * step
                    codes[i], new[i] = code, alpha * code
            changed += (codes != old).sum()
            # The scale: least squares along the block's codes.
            slope, curve = (codes * local).sum(0), (codes * (inner @ codes)).sum(0)
            scales[:, at] += np.where(curve > 0, slope / np.maximum(curve, 1e-30), 0)
            q[block], v[block] = codes, scales[:, at] * codes
            gradient -= gram[:, block] @ (v[block] - before)
        if changed < 2e-4 * q.size:
            break
    values[:] = torch.from_numpy(v.T)
    return torch.from_numpy(((gram @ v - 2 * cross) * v).sum(0))


def fit(conv, a, target):
    """Returns weights and bias of least squared error between `a @ weight + bias` and `target` [pixels, Co]."""
    w = conv.weight.flatten(1).double()
    some = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[: max(LEAST_ROWS, 8 * a.shape[1])]
    a, target = a[some].double(), target[some].double()
    mean, wanted = a.mean(0), target.mean(0)
    gram = a.T @ a / len(a) - torch.outer(mean, mean)
    k = len(gram)
    ridge = RIDGE * (1 + k / len(a)) * gram.diagonal().mean() + 1e-12
    cross = (target.T @ a / len(a) - torch.outer(wanted, mean)) + ridge * w
    gram += ridge * torch.eye(k)
    aim = torch.linalg.solve(gram, cross.T).T
    parts = blocks(conv)
    order = torch.cat(parts)
    # H = U D U^T with a unit upper triangle, by the Cholesky factor of the reversed matrix.
    lower = torch.linalg.cholesky(gram[order][:, order].flip(0, 1)).flip(0, 1)
    upper = lower / lower.diagonal()
    fed = (torch.zeros_like(w), torch.zeros_like(w), torch.zeros(len(w), len(parts), dtype=w.dtype))
    errors, at = torch.zeros_like(w), 0
    for i, block in enumerate(parts):
        base = aim[:, block] + errors[:, :at] @ upper[:at, at : at + len(block)]
        fed[2][:, i] = alpha = search(base)
        for j, column in enumerate(block):
            fed[1][:, column] = to_codes(base[:, j], alpha)
            fed[0][:, column] = alpha * fed[1][:, column]
            errors[:, at + j] = error = aim[:, column] - fed[0][:, column]
            base[:, j + 1 :] += error[:, None] * upper[at + j, at + j + 1 : at + len(block)]
        at += len(block)
    rule = (by_rule(conv), torch.zeros_like(w), torch.zeros_like(fed[2]))
    for i, block in enumerate(parts):
        rule[2][:, i] = alpha = search(w[:, block])
        rule[1][:, block] = to_codes(w[:, block], alpha[:, None])
    errors = [descend(*start, gram, cross, parts) for start in (fed, rule)]
    values = torch.where((errors[0] <= errors[1])[:, None], fed[0], rule[0])
    return values, wanted - values @ mean


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


def plain(layers):
    def layer(name, x, shortcut):
        weight, bias, stride, padding = layers[name]
        y = F.conv2d(x, weight, bias, stride, padding)
        return y if shortcut is None else y + shortcut

    return layer


def quantize(layers, convs, x):
    """Quantizes layer by layer: by the scale rule, or fitted to the images `x` where there are any."""
    solved = {}
    if x is None:
        return {name: (by_rule(conv).reshape(conv.weight.shape).float(), conv.bias) for name, conv in convs.items()}
    float_sums, float_layer = {}, plain(layers)

    def note(name, x, shortcut):
        float_sums[name] = float_layer(name, x, shortcut)
        return float_sums[name]

    network = Network(layers)
    network.run(x, note)

    def solve(name, x, shortcut):
        conv = convs[name]
        own = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        aim = float_sums[name] - (0 if shortcut is None else shortcut)
        target = (1 - PART) * own + PART * aim
        a, padding = operands(x, conv)
        kind = conv.format.inputs
        # Rows of patches come patch by patch; so do their targets.
        if kind in ("tile", "strip"):
            n, c, height, width = target.shape
            if kind == "strip":
                t = target.reshape(n, c, height // 2, 2, width).permute(0, 2, 3, 4, 1)
            else:
                t = target.reshape(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
        else:
            t = target.permute(0, 2, 3, 1)
        values, bias = fit(conv, rows(a, conv, padding), t.reshape(-1, target.shape[1]))
        solved[name] = (values.reshape(conv.weight.shape).float(), bias.float())
        y = forward(x, conv, solved[name][0]) + solved[name][1][:, None, None]
        return y if shortcut is None else y + shortcut

    network.run(x, solve)
    return solved


def score(layers, convs, solved, x, labels, reference):
    def layer(name, x, shortcut):
        y = forward(x, convs[name], solved[name][0]) + solved[name][1][:, None, None]
        return y if shortcut is None else y + shortcut

    network = Network(layers)
    logits = torch.cat([network.run(part, layer) for part in x.split(100)])
    centred = lambda y: y - y.mean(1, keepdim=True)
    noise = ((centred(logits) - centred(reference)) ** 2).sum()
    same = (logits.argmax(1) == reference.argmax(1)).float().mean()
    right, before = logits.argmax(1) == labels, reference.argmax(1) == labels
    won, lost = int((right & ~before).sum()), int((before & ~right).sum())
    top1, sqnr = right.float().mean(), 10 * torch.log10((centred(reference) ** 2).sum() / noise)
    return f"{100 * top1:.2f} / {100 * same:.1f} % / {sqnr:.1f} dB ({won}/{lost})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="resnet20")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--score", type=int, default=3000)
    parser.add_argument("--formats", default="each pixel,all image,each image,all pixel,all tile,all strip")
    parser.add_argument("--bits", default="4,5")
    parser.add_argument("--blocks", default="32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    given, _ = images(args.data / "cifar10/data_batch_1.bin", args.images, every=True)
    x, labels = images(args.data / "cifar10/test_batch.bin", args.score)
    for net in args.networks.split(","):
        layers = load(args.data / f"weights/{net}_cifar10.th")
        reference = torch.cat([Network(layers).run(part, plain(layers)) for part in x.split(100)])
        print(f"{net}: FP32 {100 * (reference.argmax(1) == labels).float().mean():.2f}", flush=True)
        for block in map(int, args.blocks.split(",")):
            for bits in map(int, args.bits.split(",")):
                for taps, inputs in map(str.split, args.formats.split(",")):
                    start = time.time()
                    convs = {}
                    for name, (weight, bias, stride, padding) in layers.items():
                        eligible = weight.shape[-1] == 3 and stride == 1 and name != "conv1"
                        wide = Format(taps, inputs, bits, block)
                        usual = Format("each", "pixel", 8 if name == "conv1" else bits, 32)
                        convs[name] = Conv(weight, bias, stride, padding, wide if eligible else usual, name == "conv1")
                    unfitted, fitted = (
                        score(layers, convs, quantize(layers, convs, some), x, labels, reference) for some in (None, given)
                    )
                    row = f"W4A{bits} B={block} | taps {taps} | {inputs} | {unfitted} | {fitted}"
                    print(f"| {row} | {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
