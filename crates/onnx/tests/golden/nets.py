"""torchvision's networks with seeded random weights, exported by both of PyTorch's exporters, and ONNX Runtime's logits.

python nets.py FOLDER [NETWORK ...]   writes FOLDER/<network>_<exporter>.onnx and .safetensors (input, logits)
Needs torch, torchvision, onnx, onnxscript, onnxruntime, safetensors. The files are too large to commit: a test runs this.
"""
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from safetensors.numpy import save_file

SIDE = 64
NETWORKS = [
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x0_5",
    "regnet_y_400mf", "mnasnet0_5", "googlenet", "densenet121", "convnext_tiny",
]


def build(name):
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=20, **extra)
    if name == "googlenet":
        model.aux_logits, model.aux1, model.aux2 = False, None, None
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def export(model, path, dynamo):
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if dynamo:
        batch = torch.export.Dim("n", min=1, max=64)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        # In one file, whatever its size.
        onnx.save(program.model_proto, str(path), save_as_external_data=False)
    else:
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(model, (x,), str(path), dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes, opset_version=13)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    save_file({"input": x.numpy(), "logits": np.ascontiguousarray(logits)}, path.with_suffix(".safetensors"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder, names = Path(sys.argv[1]), sys.argv[2:] or NETWORKS
    for name in names:
        for exporter in ["torchscript", "dynamo"]:
            export(build(name), folder / f"{name}_{exporter}.onnx", exporter == "dynamo")
            print(name, exporter, flush=True)
