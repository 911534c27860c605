"""Writes what torchvision says about every variant of the zoo:

    parameters.json   number of tensors, of elements and of multiply-accumulates, hash of all names and shapes
    logits.json       logits from weights and images made by a formula (src/testing.rs has the same one)
    checkpoints/      small files as people have them (checkpoints.py)

Run with torch, torchvision, numpy and safetensors:

    python make.py                  # everything
    python make.py --list resnet50  # the names and shapes behind a hash
    python make.py --only alexnet   # print one variant's logits entry
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import densenet, resnet, vgg
from torchvision.models.alexnet import AlexNet
from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception

from checkpoints import checkpoints
from formula import formula_input, formula_state, noise

HERE = Path(__file__).parent
EMBEDDED_CLASSES = 16
PROJECTIONS = 4
FIRST_LOGITS = 16
TAPS = 6


# The networks: torchvision's own, and edits of them for the small stems and widths ----------------


class CifarBlock(nn.Module):
    """He et al. 4.2, option A, as in github.com/akamaster/pytorch_resnet_cifar10."""

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = planes // 4 if stride != 1 or inputs != planes else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad is not None:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, planes in enumerate([16, 32, 64], 1):
            blocks = []
            for block in range(n):
                blocks.append(CifarBlock(inputs, planes, 2 if stage > 1 and block == 0 else 1))
                inputs = planes
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def densenet100_bc():
    model = densenet.DenseNet(12, (16, 16, 16), 24, num_classes=10)
    model.features.conv0 = nn.Conv2d(3, 24, 3, 1, 1, bias=False)
    for name in ["norm0", "relu0", "pool0"]:
        delattr(model.features, name)
    return model


def alexnet_embedded():
    model = AlexNet(num_classes=EMBEDDED_CLASSES)
    for index, (inputs, outputs, kernel) in {
        0: (3, 16, 5),
        3: (16, 48, 5),
        6: (48, 96, 3),
        8: (96, 64, 3),
        10: (64, 64, 3),
    }.items():
        model.features[index] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    model.avgpool = nn.AdaptiveAvgPool2d(3)
    model.classifier[1] = nn.Linear(64 * 9, 512)
    model.classifier[4] = nn.Linear(512, 512)
    model.classifier[6] = nn.Linear(512, EMBEDDED_CLASSES)
    return model


def vgg_embedded():
    cfg = [c if c == "M" else c // 4 for c in vgg.cfgs["A"][:-1]]
    model = vgg.VGG(vgg.make_layers(cfg, batch_norm=True), init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier[0] = nn.Linear(128 * 4, 512)
    model.classifier[3] = nn.Linear(512, 512)
    model.classifier[6] = nn.Linear(512, EMBEDDED_CLASSES)
    return model


def googlenet_embedded():
    def conv(inputs, outputs, **kwargs):
        return BasicConv2d(inputs if inputs == 3 else inputs // 4, outputs // 4, **kwargs)

    def inception(*channels):
        return Inception(*channels, conv_block=conv)

    model = GoogLeNet(aux_logits=False, init_weights=False, blocks=[conv, inception, None])
    model.conv1 = conv(3, 64, kernel_size=3, stride=2, padding=1)
    model.maxpool1 = nn.Identity()
    model.maxpool2 = nn.Identity()
    model.fc = nn.Linear(256, EMBEDDED_CLASSES)
    return model


def resnet50_embedded():
    model = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3])
    model.inplanes = 16
    model.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
    model.bn1 = nn.BatchNorm2d(16)
    model.maxpool = nn.Identity()
    for stage, blocks in enumerate([3, 4, 6, 3]):
        layer = model._make_layer(resnet.Bottleneck, 16 << stage, blocks, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(512, EMBEDDED_CLASSES)
    return model


def densenet_embedded():
    model = densenet.DenseNet(16, (3, 6, 12), 32, num_classes=EMBEDDED_CLASSES)
    model.features.conv0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
    model.features.pool0 = nn.Identity()
    return model


def torchvision_googlenet(**kwargs):
    return GoogLeNet(aux_logits=False, init_weights=False, **kwargs)


# name: (network, its own input side, side and batch of the logits test)
VARIANTS = {
    "alexnet": (AlexNet, 224, 127, 1),
    **{name: (getattr(vgg, name), 224, 64, 1) for name in ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn"]},
    **{name: (getattr(vgg, name), 224, 64, 1) for name in ["vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]},
    "googlenet": (torchvision_googlenet, 224, 75, 2),
    **{f"resnet{depth}": (getattr(resnet, f"resnet{depth}"), 224, 64, 2) for depth in [18, 34, 50, 101, 152]},
    **{f"densenet{depth}": (getattr(densenet, f"densenet{depth}"), 224, 64, 2) for depth in [121, 161, 169, 201]},
    **{f"resnet{6 * n + 2}": (lambda n=n: CifarResNet(n), 32, 32, 2) for n in [3, 5, 7, 9]},
    "densenet100_bc": (densenet100_bc, 32, 32, 2),
    "alexnet-embedded": (alexnet_embedded, 32, 32, 2),
    "vgg-embedded": (vgg_embedded, 32, 32, 2),
    "googlenet-embedded": (googlenet_embedded, 32, 32, 2),
    "resnet50-embedded": (resnet50_embedded, 32, 32, 2),
    "densenet-embedded": (densenet_embedded, 32, 32, 2),
}


def build(make):
    """Without storage, so that no time goes into random weights."""
    with torch.device("meta"):
        return make().eval()


# What is written ---------------------------------------------------------------------------------


def parameter_lines(model):
    return sorted(
        f"{name} {'x'.join(map(str, tensor.shape))}"
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


def fnv64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def macs(model, side):
    total = 0

    def count(module, _inputs, output):
        nonlocal total
        positions = math.prod(output.shape[2:])
        total += module.weight.numel() * positions

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    model(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return total


def parameters(name):
    make, side, _, _ = VARIANTS[name]
    model = build(make)
    lines = parameter_lines(model)
    return {
        "name": name,
        "tensors": len(lines),
        "elements": sum(p.numel() for p in model.parameters()),
        "macs": macs(model, side),
        "hash": fnv64("\n".join(lines)),
    }


def rounded(value):
    return float(f"{float(value):.8g}")


@torch.no_grad()
def logits(name, make, side, batch, **extra):
    model = build(make)
    state = formula_state(model)
    model = model.to_empty(device="cpu")
    model.load_state_dict(state)
    taps = []

    def tap(path):
        # At once: a ReLU in place may follow.
        def hook(_module, _inputs, output):
            x = output.double()
            rms = x.square().mean().sqrt()
            taps.append({"name": path, "mean": rounded(x.mean()), "rms": rounded(rms)})

        return hook

    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(tap(path))
    out = model(formula_input((batch, 3, side, side))).double()
    classes = out.shape[1]
    probes = [torch.from_numpy(noise(f"projection{k}", classes)).double() for k in range(PROJECTIONS)]
    chosen = sorted({round(i * (len(taps) - 1) / (TAPS - 1)) for i in range(TAPS)})
    return {
        "name": name,
        "input": side,
        "batch": batch,
        **extra,
        "logits": [[rounded(v) for v in row[:FIRST_LOGITS]] for row in out],
        "projections": [[rounded(row @ probe) for probe in probes] for row in out],
        "taps": [taps[i] for i in chosen],
    }


def all_logits():
    for name, (make, _, side, batch) in VARIANTS.items():
        print(name, file=sys.stderr)
        yield logits(name, make, side, batch)
        if name == "googlenet":
            yield logits(name, lambda: torchvision_googlenet(transform_input=True), side, batch, transform_input=True)


def write_lines(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    match sys.argv[1:]:
        case ["--list", name]:
            print("\n".join(parameter_lines(build(VARIANTS[name][0]))))
        case ["--only", name]:
            make, _, side, batch = VARIANTS[name]
            print(json.dumps(logits(name, make, side, batch)))
        case []:
            checkpoints(HERE / "checkpoints")
            write_lines(HERE / "parameters.json", [parameters(name) for name in VARIANTS])
            write_lines(HERE / "logits.json", list(all_logits()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
