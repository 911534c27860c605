"""Compares `int4` files in ONNX Runtime with the integer engine, and finds the layer where they part.

    divergence.py IMAGES MODEL.dsc FILE.onnx [--limit 40]

FILE.onnx is what `dsconv export MODEL.dsc` writes. Prints how near the logits are: to the engine's (`dsconv predict`; DSCONV
names the command), and those of ONNX Runtime without optimisations to those with. Then, for the first image, the elements of
each rounded input that differ between these two: the sums before it have another order, everything else is the same.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image
from score import pixels


def session(model, level):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


LEVELS = [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]


def show(what, found, of):
    error = np.abs(found - of).max(1) / np.abs(of).max(1)
    noise, signal = ((x - x.mean(1, keepdims=True)).astype(np.float64) for x in (found - of, of))
    cells = [
        f"{10 * np.log10((signal**2).sum() / (noise**2).sum()):.1f} dB",
        f"same class {100 * (found.argmax(1) == of.argmax(1)).mean():.1f} %",
        f"median error {np.median(error):.1e}, largest {error.max():.1e}",
    ]
    print(f"{what}: " + ", ".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("dsc", type=pathlib.Path)
    parser.add_argument("onnx", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=40)
    args = parser.parse_args()
    model = onnx.load(args.onnx)
    name = model.graph.input[0].name
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        images = []
        for path in sorted(path for path in args.images.iterdir() if path.is_file())[: args.limit]:
            # PNG: decoders of JPEG differ in single pixels, which would be differences of the input.
            images.append(pathlib.Path(folder) / f"{path.stem}.png")
            Image.open(path).convert("RGB").save(images[-1])
        said = [os.environ.get("DSCONV", "dsconv"), "predict", args.dsc, "--logits", "--json", *images]
        said = json.loads(subprocess.run(said, check=True, stdout=subprocess.PIPE).stdout)
        inputs = [np.ascontiguousarray(pixels(path, json.loads(metadata["preprocess"]))[None]) for path in images]
    engine = np.array([image["logits"] for image in said], np.float32)
    run = lambda s: np.concatenate([s.run(None, {name: x})[0].reshape(1, -1) for x in inputs])
    plain, optimised = (run(session(str(args.onnx), level)) for level in LEVELS)
    show("ONNX Runtime and the engine", optimised, engine)
    show("ONNX Runtime without optimisations and with", plain, optimised)

    rounded = [node.output[0] for node in model.graph.node if node.domain == "dsconv"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in rounded)
    plain, optimised = (session(model.SerializeToString(), level).run(rounded, {name: inputs[0]}) for level in LEVELS)
    print("| rounded input | elements | other codes | share |\n|---|---|---|---|")
    for value, a, b in zip(rounded, plain, optimised):
        # A last bit of the scale is no other code.
        other = (np.abs(a - b) > 1e-4 * np.abs(b).max()).sum()
        print(f"| {value} | {a.size} | {other} | {100 * other / a.size:.3f} % |")


if __name__ == "__main__":
    main()
