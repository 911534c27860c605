"""Times ONNX files in ONNX Runtime and OpenVINO, batch 1, one thread, in turns.

    latency.py [--rounds 20] FILE...

Prints one Markdown row a file and way to run it: milliseconds (median over rounds of the best of three runs), and the
ratio to the first row, which is the median of the ratios of each round: other work on the machine weighs on both.
"""

import argparse
import pathlib
import statistics
import time

import numpy as np
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
    model = core.read_model(str(path))
    shape = [1] + [d.get_length() for d in list(model.inputs[0].partial_shape)[1:]]
    model.reshape(shape)
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return lambda: request.infer({0: x})[0].copy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
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
    times = {key: [] for key in runs}
    for _ in range(args.rounds):
        for key, run in runs.items():
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                run()
                best = min(best, time.perf_counter() - start)
            times[key].append(1e3 * best)
    base = next(iter(times.values()))
    print("| file | run by | ms | ratio |\n|---|---|---|---|")
    for (file, by), found in times.items():
        ratio = statistics.median(t / b for t, b in zip(found, base))
        print(f"| {file} | {by} | {statistics.median(found):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
