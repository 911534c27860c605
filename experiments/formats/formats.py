"""Number formats by direct cast: block formats of others, applied to the weights and inputs of every convolution and linear layer.

The formats are those of the OCP Microscaling specification 1.0 (MXFP4 E2M1, MXFP6 E2M3 and E3M2, MXINT8: blocks of 32 with a
power of two as scale) and the shared microexponents of "With Shared Microexponents, A Little Shifting Goes a Long Way" (Darvish
Rouhani et al., ISCA 2023): MX4, MX6 and MX9, blocks of 16 with an exponent, of which pairs may be halved once more. A block is a
run of input channels of one filter and tap, or of channels at one pixel; values round to nearest, ties to even.
"""

import torch

EXPONENTS = (-127, 127)  # of E8M0


def exponent(x):
    """Returns floor(log2(|x|)) by the bits of float32; 0 and subnormal numbers have the smallest exponent."""
    return (x.view(torch.int32) >> 23 & 255) - 127


def power(e):
    """Returns 2^e, and 2^-126 below that, which is the smallest normal float32."""
    return (e.clamp(-126, 127) + 127 << 23).view(torch.float32)


def blocks(x, length):
    """Cuts the last axis into blocks, with zeros up to a whole one."""
    count = -(-x.shape[-1] // length)
    x = torch.nn.functional.pad(x, (0, count * length - x.shape[-1]))
    return x.unflatten(-1, (count, length))


def minifloat(x, exponent_bits, mantissa_bits):
    """Rounds to a float without infinities, as FP4 and FP6 of the specification are: beyond the largest value it saturates."""
    bias = 2 ** (exponent_bits - 1) - 1
    step = power(exponent(x).clamp(min=1 - bias) - mantissa_bits)
    largest = 2.0 ** (2**exponent_bits - 1 - bias) * (2 - 2.0**-mantissa_bits)
    return (torch.round(x / step) * step).clamp(-largest, largest)


class Microscaling:
    """A format of the specification. `scale`: `floor` as it suggests, or `even` as AMD Quark does: the largest magnitude is rounded
    to the element's mantissa first."""

    length = 32

    def __init__(self, name, exponent_bits, mantissa_bits, scale="floor"):
        self.name, self.exponent_bits, self.mantissa_bits, self.scale = name, exponent_bits, mantissa_bits, scale

    def __call__(self, x):
        cut = blocks(x, self.length)
        largest = cut.abs().amax(-1, keepdim=True)
        if self.scale == "even":
            half = power(exponent(largest) - self.mantissa_bits - 1)
            largest = largest + half
        if self.exponent_bits:
            bias = 2 ** (self.exponent_bits - 1) - 1
            shared = exponent(largest) - (2**self.exponent_bits - 1 - bias)
        else:
            shared = exponent(largest)
        scale = power(shared.clamp(*EXPONENTS))
        if self.exponent_bits:
            y = minifloat(cut / scale, self.exponent_bits, self.mantissa_bits)
        else:  # INT8 is a fixed point number with 6 bits after the point
            y = (torch.round(cut / scale * 64)).clamp(-127, 127) / 64
        return (y * scale).flatten(-2)[..., : x.shape[-1]]

    def bits(self, channels):
        """Returns the bits that a row of so many channels takes."""
        element = 1 + self.exponent_bits + self.mantissa_bits
        return element * channels + 8 * -(-channels // self.length)


class Microexponents:
    """A format of shared microexponents, with so many bits an element, its sign included."""

    length = 16

    def __init__(self, name, element_bits):
        self.name, self.element_bits = name, element_bits

    def __call__(self, x):
        cut = blocks(x, self.length)
        shared = exponent(cut.abs().amax(-1, keepdim=True))
        pairs = cut.unflatten(-1, (-1, 2))
        halved = (exponent(pairs.abs().amax(-1, keepdim=True)) < shared.unsqueeze(-1)).int()
        step = power((shared.unsqueeze(-1) - halved - self.element_bits + 2).clamp(-149, 127))
        largest = 2 ** (self.element_bits - 1) - 1
        y = torch.round(pairs / step).clamp(-largest, largest) * step
        return y.flatten(-3)[..., : x.shape[-1]]

    def bits(self, channels):
        return self.element_bits * channels + 8 * -(-channels // self.length) + -(-channels // 2)


FORMATS = {
    format.name: format
    for format in (
        Microexponents("MX4", 3),
        Microexponents("MX6", 5),
        Microexponents("MX9", 8),
        Microscaling("MXFP4 E2M1", 2, 1),
        Microscaling("MXFP4 E2M1, even", 2, 1, scale="even"),
        Microscaling("MXFP6 E2M3", 2, 3),
        Microscaling("MXFP6 E3M2", 3, 2),
        Microscaling("MXINT8", 0, 7),
    )
}


def weight(format, w, groups=None):
    """Casts a weight [Co, Ci/G, ...] along its input channels."""
    return format(w.movedim(1, -1)).movedim(-1, 1)


def activation(format, x, groups):
    """Casts an input [N, C, ...] along the channels of each group."""
    cut = x.unflatten(1, (groups, -1))
    return format(cut.movedim(2, -1)).movedim(-1, 2).flatten(1, 2)
