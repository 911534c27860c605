"""Images a second of one step of adaptation in PyTorch: teacher forward, student forward and backward, Adam.

    python3 experiments/devices/torch_step.py --device cuda --batch 64 --steps 20 [--tf32] [--leave-out activations ...]
    python3 experiments/devices/torch_step.py --device cpu --batch 16 --lines     # a line after each step, until it is stopped

The student is what `dsconv distill` trains: convolutions and fully connected layers with 4-bit codes, scales of blocks of 32
input channels with a trained gain, inputs rounded to 4-bit block floating point, all in plain tensor operations with
straight-through gradients, batch normalisation folded. Weights and images are random: they do not change the time.
"""
import argparse
import itertools
import time

import torch
import torch.nn.functional as F
import torchvision

BLOCK = 32


def blocks(x, dim, groups=1):
    """Cuts a dimension into blocks of 32 elements, or of a whole group where that is shorter: [..., C, ...] becomes
    [..., C / 32, 32, ...]. The last block is padded with zeros."""
    block = min(BLOCK, x.shape[dim] // groups)
    ragged = -x.shape[dim] % block
    if ragged:
        x = torch.cat([x, x.new_zeros(*x.shape[:dim], ragged, *x.shape[dim + 1:])], dim)
    return x.unflatten(dim, (-1, block))


def block_float(x, signed, groups):
    """Rounds [N, C, ...] to block floating point of 4 bits, with the gradient of the identity."""
    low, high = (-7, 7) if signed else (0, 15)
    with torch.no_grad():
        split = blocks(x, 1, groups)
        scale = (split.abs().amax(2, keepdim=True) / high).clamp_min(torch.finfo(torch.float32).tiny)
        value = ((split * scale.reciprocal()).round().clamp(low, high) * scale).flatten(1, 2)[:, : x.shape[1]]
    return value + (x - x.detach())


class Quantized(torch.nn.Module):
    """A convolution or fully connected layer as `dsconv` trains it."""

    def __init__(self, layer, signed, leave_out):
        super().__init__()
        self.layer, self.signed, self.leave_out = layer, signed, leave_out
        weight = layer.weight.data
        del layer.weight
        self.inputs = weight.shape[1]
        self.scales = torch.nn.Parameter(blocks(weight, 1).abs().amax(2).clamp_min(1e-8) / 7, requires_grad=False)
        self.gain = torch.nn.Parameter(torch.ones_like(self.scales))
        self.latent = torch.nn.Parameter(weight / self.spread(self.scales))

    def spread(self, x):
        return x.repeat_interleave(min(BLOCK, self.inputs), 1)[:, : self.inputs]

    def forward(self, x):
        if "activations" not in self.leave_out:
            x = block_float(x, self.signed, getattr(self.layer, "groups", 1))
        if "weights" in self.leave_out:
            weight = self.latent
        else:
            scales, gain = self.spread(self.scales), self.spread(self.gain)
            codes = (self.latent.detach() / gain.detach()).round().clamp(-8, 7)
            weight = scales * gain * codes + (self.latent - self.latent.detach()) * scales
        if isinstance(self.layer, torch.nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def folded(arch):
    """A network of torchvision without batch normalisation: every convolution gets a bias instead."""
    net = getattr(torchvision.models, arch)(weights=None).eval()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
            elif isinstance(child, torch.nn.Conv2d) and child.bias is None:
                child.bias = torch.nn.Parameter(torch.zeros(child.out_channels))
    return net


def quantize(net, leave_out):
    first = True
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (torch.nn.Conv2d, torch.nn.Linear)):
                setattr(module, name, Quantized(child, first, leave_out))
                first = False
    return net


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tf32", action="store_true", help="let matrix products and convolutions round their inputs to TF32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--lines", action="store_true", help="print a line after each step, without end")
    parser.add_argument("--leave-out", nargs="*", default=[], choices=["activations", "weights", "teacher", "optimizer"])
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True

    torch.manual_seed(0)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    teacher = folded(options.arch).to(options.device, memory_format=layout)
    student = quantize(folded(options.arch), options.leave_out).to(options.device, memory_format=layout)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=1e-4)
    shape = (options.batch, 3, options.size, options.size)
    images = [torch.randn(shape, device=options.device).to(memory_format=layout) for _ in range(4)]

    def step(x):
        with torch.no_grad():
            target = teacher(x if "teacher" not in options.leave_out else x[:1]).expand(options.batch, -1).softmax(1)
        optimizer.zero_grad(set_to_none=True)
        F.kl_div(student(x).log_softmax(1), target, reduction="batchmean").backward()
        if "optimizer" not in options.leave_out:
            torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()

    def wait():
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()

    for i in itertools.count() if options.lines else ():
        step(images[i % 4])
        wait()
        print(i + 1, flush=True)
    for i in range(min(5, options.steps)):
        step(images[i % 4])
    wait()
    times = []
    for i in range(options.steps):
        began = time.perf_counter()
        step(images[i % 4])
        wait()
        times.append(time.perf_counter() - began)
    times.sort()
    median = times[len(times) // 2]
    what = f"{options.arch}, batch {options.batch}, {'TF32' if options.tf32 else 'FP32'}, {'NHWC' if options.channels_last else 'NCHW'}"
    without = f", without {' '.join(options.leave_out)}" if options.leave_out else ""
    print(f"PyTorch {torch.__version__}, {options.device}, {what}{without}: {options.batch / median:.1f} images a second "
          f"(median step {1e3 * median:.1f} ms, {1e3 * times[0]:.1f} to {1e3 * times[-1]:.1f})")


main()
