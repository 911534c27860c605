"""Times ONNX files in ONNX Runtime and OpenVINO, batch 1, one thread, in turns.

    latency.py [--rounds 20] [--burst 10] FILE...

Prints one Markdown row a file and way to run it: milliseconds of the fastest run, and their ratio to the first row.
"""

import argparse
import pathlib
import time

import numpy as np
import onnx.inliner
import onnxruntime as ort


def onnxruntime(path, fold):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if fold:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shape = [1] + session.get_inputs()[0].shape[1:]
    name = session.get_inputs()[0].name
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return lambda: session.run(None, {name: x})[0]


def openvino(path):
    import openvino as ov

    core = ov.Core()
    model = onnx.load(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    model = core.read_model(model.SerializeToString())
    shape = [1] + [d.get_length() for d in list(model.inputs[0].partial_shape)[1:]]
    model.reshape(shape)
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return lambda: request.infer({0: x})[0].copy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--burst", type=int, default=10)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    runs = {}
    for path in args.files:
        runs[path.name, "ONNX Runtime"] = onnxruntime(path, fold=False)
        if "int4" in path.name:
            runs[path.name, "ONNX Runtime, disable_quant_qdq"] = onnxruntime(path, fold=True)
        runs[path.name, "OpenVINO"] = openvino(path)
    for run in runs.values():
        run()
    fastest = dict.fromkeys(runs, float("inf"))
    for _ in range(args.rounds):
        for key, run in runs.items():
            for _ in range(args.burst):
                start = time.perf_counter()
                run()
                fastest[key] = min(fastest[key], 1e3 * (time.perf_counter() - start))
    base = next(iter(fastest.values()))
    print("| file | run by | ms | ratio |\n|---|---|---|---|")
    for (file, by), found in fastest.items():
        print(f"| {file} | {by} | {found:.2f} | {found / base:.2f} |")


if __name__ == "__main__":
    main()
