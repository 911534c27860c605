"""divergence.py NET DATA FILE...: how far networks that `dsconv quantize` wrote (.dsc) are from the float one, by the mean divergence
KL(softmax(float) || softmax(quantized)) in nats, which fewer images resolve than they resolve top-1.

NET: `sq` or `gn` (DATA/weights holds squeezenet1_0.onnx and googlenet_bvlc.onnx), `lite0` or `lite1` (an ONNX file of that name in the
working folder), with the 400 validation images of DATA/imagenet and those of DATA/imagenet/unlabelled that are not among every third,
the 128 first of which are for fitting; or `resnet20`, `resnet56` (an ONNX file in the working folder) with DATA/cifar10/test_batch.bin.
Needs numpy, pillow, onnxruntime and target/release/libdsconv_c.so (`cargo build --release -p dsconv-capi`)."""
import ctypes
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image

BATCH = 8


def photos(folder, size, prepared):
    val, others = (sorted((folder / name).glob("*.jpg")) for name in ("val", "unlabelled"))
    fitted = set(others[::3][:128])
    labels = dict(line.split() for line in (folder / "val_labels.txt").read_text().splitlines() if line.strip())

    def crop(file):
        image = Image.open(file).convert("RGB")
        left, top = ((side - size) // 2 for side in image.size)
        return prepared(np.asarray(image.crop((left, top, left + size, top + size)), np.float32).transpose(2, 0, 1))

    images = [crop(file) for file in val + [file for file in others if file not in fitted]]
    return np.ascontiguousarray(np.stack(images)), np.array([int(labels[file.name]) for file in val])


def cifar(file):
    records = np.fromfile(file, np.uint8).reshape(-1, 3073)
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    return np.ascontiguousarray((pixels - mean) / deviation), records[:, 0].astype(int)


def load(net, data):
    if net.startswith("resnet"):
        return f"{net}.onnx", *cifar(data / "cifar10/test_batch.bin")
    if net.startswith("lite"):
        return f"{net}.onnx", *photos(data / "imagenet", {"0": 224, "1": 240}[net[4]], lambda x: (x - 127) / 128)
    file = {"sq": "squeezenet1_0.onnx", "gn": "googlenet_bvlc.onnx"}[net]
    mean = np.array([104, 117, 123], np.float32)[:, None, None]
    return data / "weights" / file, *photos(data / "imagenet", 224, lambda x: x[::-1] - mean)


def of_onnx(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    logits = np.concatenate([session.run(None, {name: part})[0].reshape(len(part), -1) for part in parts])
    # A softmax at the end, which `.dsc` files do not have.
    return np.log(np.maximum(logits, 1e-30)) if np.allclose(logits.sum(1), 1, atol=1e-3) else logits


def of_engine(file, images):
    lib = ctypes.CDLL(str(pathlib.Path(__file__).parents[2] / "target/release/libdsconv_c.so"))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    lib.dsconv_model_load.restype, lib.dsconv_model_load.argtypes = pointer, [ctypes.c_char_p]
    lib.dsconv_model_outputs.restype, lib.dsconv_model_outputs.argtypes = size, [pointer]
    lib.dsconv_session_new.restype, lib.dsconv_session_new.argtypes = pointer, [pointer, size]
    lib.dsconv_session_run.argtypes = [pointer, pointer, size, pointer]
    lib.dsconv_last_error.restype = ctypes.c_char_p
    model = lib.dsconv_model_load(file.encode())
    if not model:
        sys.exit(lib.dsconv_last_error().decode())
    logits = np.empty((len(images), lib.dsconv_model_outputs(model)), np.float32)
    if lib.dsconv_session_run(lib.dsconv_session_new(model, 2), images.ctypes.data, len(images), logits.ctypes.data):
        sys.exit(lib.dsconv_last_error().decode())
    return logits


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


net, data, files = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
file, images, labels = load(net, data)
teacher = log_softmax(of_onnx(file, images))
for file in files:
    student = log_softmax(of_engine(file, images))
    divergence = (np.exp(teacher) * (teacher - student)).sum(1)
    top1 = (student[: len(labels)].argmax(1) == labels).mean()
    same = (student.argmax(1) == teacher.argmax(1)).mean()
    centred, noise = teacher - teacher.mean(1, keepdims=True), (student - teacher)
    noise -= noise.mean(1, keepdims=True)
    sqnr = 10 * np.log10((centred**2).sum() / (noise**2).sum())
    error = divergence.std() / len(divergence) ** 0.5
    print(f"| {pathlib.Path(file).name} | {100 * top1:.2f} | {100 * same:.1f} | {sqnr:.1f} | {divergence.mean():.4f} +- {error:.4f} |")
