"""Scores ONNX files that `dsconv export` wrote with ONNX Runtime, on labelled images.

    score.py IMAGES FILE...

IMAGES is a folder with `<folder>_labels.txt` beside it, lines of `name.jpg index`. Images are made as the file's own
metadata says; a file without (the float network that it came from) is read as the first one that has them. Prints one
Markdown row a file: bytes on disk, top-1, top-5, and how often it names the class that the first file names.
"""

import argparse
import json
import pathlib

import numpy as np
import onnxruntime as ort
from PIL import Image


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # Weights become floats once, when the file is loaded. Does nothing good to a file of 8-bit operations.
    if "int4" in path.name:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def pixels(path, preprocess):
    """[3, H, W]: shorter side, centre crop, order of channels, (pixel / divide - mean) / std."""
    image = Image.open(path).convert("RGB")
    if preprocess["resize"]:
        width, height = image.size
        scale = preprocess["resize"] / min(width, height)
        if scale != 1:
            sides = [max(preprocess["resize"], int(side * scale)) for side in (width, height)]
            image = image.resize(sides, Image.BILINEAR)
    if preprocess["crop"]:
        crop = preprocess["crop"]
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    x = np.asarray(image, np.float32).transpose(2, 0, 1)
    if preprocess["order"] == "bgr":
        x = x[::-1]
    column = lambda key: np.float32(preprocess[key])[:, None, None]
    return (x / np.float32(preprocess["divide"]) - column("mean")) / column("std")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    lines = args.images.with_name(args.images.name + "_labels.txt").read_text().split("\n")
    names, labels = zip(*(line.split() for line in lines if line.strip()))
    labels = np.array([int(label) for label in labels])

    sessions = [session(path) for path in args.files]
    metadata = [s.get_modelmeta().custom_metadata_map for s in sessions]
    preprocess = json.loads(next(m["preprocess"] for m in metadata if "preprocess" in m))
    found = [[] for _ in sessions]
    for start in range(0, len(names), 20):
        batch = np.stack([pixels(args.images / name, preprocess) for name in names[start : start + 20]])
        for s, logits in zip(sessions, found):
            logits.append(s.run(None, {s.get_inputs()[0].name: np.ascontiguousarray(batch)})[0])
    first = None
    print("| file | bytes | top-1 | top-5 | agrees |\n|---|---|---|---|---|")
    for path, logits in zip(args.files, found):
        logits = np.concatenate(logits).reshape(len(labels), -1)
        order = np.argsort(-logits, axis=1, kind="stable")
        first = order[:, 0] if first is None else first
        percent = lambda hits: f"{100 * hits.mean():.2f}"
        top5 = (order[:, :5] == labels[:, None]).any(axis=1)
        cells = [percent(order[:, 0] == labels), percent(top5), percent(order[:, 0] == first)]
        print(f"| {path.name} | {path.stat().st_size} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
