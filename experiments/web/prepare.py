"""Makes the networks that `time.mjs` runs: FP32 ONNX, QDQ INT8 ONNX by ONNX Runtime's own tool, and files of `dsconv`.

    python experiments/web/prepare.py FOLDER [NETWORK...]

Embedded networks (`resnet50-embedded`) come from `dsconv export`; others are torchvision's with seeded random weights, since speed
does not depend on values. Needs a built `dsconv`, onnx, onnxruntime, numpy; torch and torchvision for the others.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

ROOT = Path(__file__).resolve().parents[2]
DSCONV = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dsconv"
# What `dsconv quantize` gets, by the ending of the file's name.
SCHEMES = {
    "w4a4": ["--images", "none"],
    "w4a8": ["--images", "none", "--activation-bits", "8", "--block", "64"],
    "two-level": ["--images", "none", "--activation-bits", "8", "--block", "64", "--activation-block", "pixel", "--scales", "two-level"],
}


def run(*command):
    subprocess.run([DSCONV, *command, "--force", "--quiet"], check=True)


def from_torchvision(name, path):
    import torch
    import torchvision

    torch.manual_seed(1)
    network = getattr(torchvision.models, name)(weights=None).eval()
    torch.onnx.export(network, torch.randn(1, 3, 224, 224), str(path), input_names=["image"], output_names=["logits"],
                      dynamo=False, opset_version=17)


class Calibration(CalibrationDataReader):
    def __init__(self, path):
        value = onnx.load(path).graph.input[0]
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        rng = np.random.default_rng(1)
        self.images = iter([{value.name: rng.standard_normal(shape, dtype=np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.images, None)


def main():
    folder, *networks = sys.argv[1:]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in networks or ["resnet50-embedded", "resnet18", "mobilenet_v2"]:
        fp32, int8 = folder / f"{name}.onnx", folder / f"{name}_int8.onnx"
        if name.endswith("-embedded"):
            run("export", name, "-o", str(fp32))
            source = name
        else:
            from_torchvision(name, fp32)
            source = str(fp32)
        prepared = folder / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(int8), Calibration(prepared), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        prepared.unlink()
        run("export", source, "-o", str(folder / f"{name}_fp32.safetensors"))
        for scheme, arguments in SCHEMES.items():
            run("quantize", source, *arguments, "-o", str(folder / f"{name}_{scheme}.dsc"))


main()
