"""Compares the emulated formats with others' code, value by value: elements with ml_dtypes, whole formats with AMD Quark.

    python check.py

Needs torch, ml_dtypes and amd-quark (which compiles a kernel at its first import, with ninja and a C++ compiler). Without
amd-quark its part is skipped, and said so.
"""

import ml_dtypes
import torch

from formats import FORMATS, Microexponents, Microscaling, minifloat


def elements():
    """Every bfloat16 within 8 times the range of FP4 and FP6, cast by ml_dtypes and here."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    x = x[x.isfinite() & (x.abs() <= 8 * 28)]
    for kind, largest, bits in (
        (ml_dtypes.float4_e2m1fn, 6.0, (2, 1)),
        (ml_dtypes.float6_e2m3fn, 7.5, (2, 3)),
        (ml_dtypes.float6_e3m2fn, 28.0, (3, 2)),
    ):
        theirs = torch.from_numpy(x.clamp(-largest, largest).numpy().astype(kind).astype("float32"))
        assert torch.equal(minifloat(x, *bits), theirs), kind
        print(f"{kind.__name__}: equal for {len(x)} inputs, which give {len(theirs.unique())} values")


def whole(rows=4096):
    from quark.torch.kernel.hw_emulation import hw_emulation_interface as quark

    torch.manual_seed(0)
    # Magnitudes over many powers of two, exact halves and zeros among them. Channels are whole blocks of both kinds.
    x = torch.randn(rows, 96) * torch.exp2(torch.randint(-12, 12, (rows, 96)).float())
    x[::3] = torch.randint(-64, 65, x[::3].shape).float() / 8
    x[torch.rand_like(x) < 0.05] = 0
    for name, format in FORMATS.items():
        if isinstance(format, Microexponents):
            # Quark for PyTorch has MX6 and MX9; MX4 is the same function with three bits.
            theirs = quark.fake_quantize_mx6_mx9(x.clone(), -1, 16, quant_bit=format.element_bits, sub_block_size=2)
        else:
            element = {(2, 1): "fp4", (2, 3): "fp6_e2m3", (3, 2): "fp6_e3m2", (0, 7): "int8"}[
                format.exponent_bits, format.mantissa_bits
            ]
            theirs = quark.fake_quantize_mx(x.clone(), -1, 32, scale_calculation_mode=format.scale, mx_element_dtype=element)
        ours = format(x)
        different = (ours != theirs).sum().item()
        print(f"{name}: {x.numel()} values, {different} differ from AMD Quark's")
        if different:
            at = (ours != theirs).nonzero()[0].tolist()
            print("   ", x[tuple(at)].item(), ours[tuple(at)].item(), theirs[tuple(at)].item())
        assert not different, name


elements()
try:
    import quark.torch
except ImportError as error:
    print(f"AMD Quark: skipped, {error}")
else:
    whole()
