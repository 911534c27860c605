"""Runs exported files in ONNX Runtime and compares them with what the simulation gave.

    check.py CASES.json

CASES.json: {"cases": [{"file": "x.onnx", "profile": "int8", "images": "x.npy", "logits": "y.npy"}]}, the paths beside it;
images are [N, C, H, W] and logits [N, classes], 32-bit floats. Prints one JSON document: for each case what
ONNX Runtime made of it, with and without its optimisations.
"""

import collections
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(path, level, optimized=None, fold=False):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    # One thread: sums have one order.
    options.intra_op_num_threads = 1
    if fold:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(session, images, logits):
    (name,) = [value.name for value in session.get_inputs()]
    (output,) = [value.name for value in session.get_outputs()]
    assert (name, output) == ("image", "logits"), (name, output)
    # Batches of two sizes: the batch is a free dimension.
    parts = np.split(images, [1]) if len(images) > 1 else [images]
    found = np.concatenate([session.run(None, {name: part})[0] for part in parts])
    assert found.shape == logits.shape, (found.shape, logits.shape)
    # Of every image, relative to its largest logit.
    error = np.abs(found - logits).max(axis=1) / np.abs(logits).max(axis=1)
    same = found.argmax(axis=1) == logits.argmax(axis=1)
    return {
        "images": len(images),
        "agreement": 100 * float(same.mean()),
        "within_1e-3": 100 * float((error <= 1e-3).mean()),
        "median_error": float(np.median(error)),
        "largest_error": float(error.max()),
    }


def check(case, folder):
    path = folder / case["file"]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    images = np.load(folder / case["images"])
    logits = np.load(folder / case["logits"])
    result = {
        "file": case["file"],
        "profile": case["profile"],
        "bytes": path.stat().st_size,
        "ir_version": model.ir_version,
        "opset": {entry.domain: entry.version for entry in model.opset_import},
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }
    optimized = folder / (case["file"] + ".optimized")
    for name, level in LEVELS.items():
        saved = optimized if name == "all" else None
        result[name] = compare(session(path, level, saved), images, logits)
    folded = session(path, LEVELS["all"], fold=True)
    result["folded"] = compare(folded, images, logits)
    counts = collections.Counter(node.op_type for node in onnx.load(optimized).graph.node)
    result["operators"] = dict(sorted(counts.items()))
    return result


def main():
    cases = pathlib.Path(sys.argv[1])
    results = [check(case, cases.parent) for case in json.loads(cases.read_text())["cases"]]
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
