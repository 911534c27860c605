"""Times dsconv, ONNX Runtime and OpenVINO on the same networks, interleaved in one process.

    python experiments/runtime/peers.py [--networks resnet50,vgg16] [--batch 1] [--threads 1] [--rounds 15]
        [--formats W4A8,W4A4,W2A4] [--schemes B=64,B=128,pixel,two-level] [--isa avx2]

Networks are torchvision's with seeded random weights (speed does not depend on values), exported to ONNX, quantized to
QDQ (U8 activations, S8 weights per channel) by ONNX Runtime's own tool, for OpenVINO by NNCF, and to `.dsc` by `dsconv`. Every engine gets one
burst of runs in turn, round after round; the table has the median over rounds of each burst's fastest run, in
milliseconds, and ratios to ONNX Runtime. Needs torch, torchvision, onnx, onnxruntime, openvino, nncf and numpy, and a
built `dsconv` and `libdsconv_c.so` (`cargo build --release -p dsconv-cli -p dsconv-capi`).
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ["resnet50", "vgg16", "googlenet", "densenet121", "alexnet", "resnet18", "mobilenet_v2"]
# The scales of dsconv: what `dsconv quantize` gets, beside `--image-sum`.
SCHEMES = {
    "B=64": ["--block", "64"],
    "B=128": ["--block", "128"],
    "pixel": ["--block", "pixel"],
    "two-level": ["--block", "64", "--activation-block", "pixel", "--scales", "two-level"],
    # As those before, but for 3x3 layers of stride 1, which suit Winograd's algorithm with inputs of 5 or 6 bits.
    "B=64-winograd5": ["--block", "64", "--winograd=5"],
    "B=64-winograd6": ["--block", "64", "--winograd=6"],
    "B=128-winograd5": ["--block", "128", "--winograd=5"],
    "two-level-winograd5": ["--block", "64", "--activation-block", "pixel", "--scales", "two-level", "--winograd=5"],
    "two-level-winograd6": ["--block", "64", "--activation-block", "pixel", "--scales", "two-level", "--winograd=6"],
    "pixel-winograd5": ["--block", "pixel", "--winograd=5"],
    "pixel-winograd6": ["--block", "pixel", "--winograd=6"],
}
# What holds dsconv and oneDNN, which OpenVINO runs on, to an instruction set. ONNX Runtime cannot be held.
ISAS = {
    "avx2": {"DSCONV_KERNEL": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avxvnni": {"DSCONV_KERNEL": "avxvnni", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "avx512vnni": {"DSCONV_KERNEL": "avx512vnni", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
}


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


# Files -------------------------------------------------------------------------------------------


def export(name, folder):
    """FP32 ONNX with a dynamic batch, made once."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    import torch
    import torchvision

    torch.manual_seed(1)
    arguments = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(weights=None, **arguments).eval()
    torch.onnx.export(
        network, torch.randn(1, 3, 224, 224), str(path), input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}}, dynamo=False, opset_version=17,
    )
    torch.save(network.state_dict(), folder / f"{name}.pth")
    return path


def calibration():
    rng = np.random.default_rng(1)
    return [rng.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(4)]


def quantize_openvino(source, path):
    """NNCF's post-training quantization with its performance preset: OpenVINO's own tool."""
    if path.exists():
        return
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(source))
    model.reshape([1, 3, 224, 224])
    model = nncf.quantize(model, nncf.Dataset(calibration()), preset=nncf.QuantizationPreset.PERFORMANCE, subset_size=4)
    ov.save_model(model, str(path))


def quantize_onnx(source, path):
    """Static QDQ, unsigned 8-bit activations, signed 8-bit weights per channel: ONNX Runtime's fast form on x86."""
    if path.exists():
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".pre.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.images = iter(calibration())

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"image": image}

    quantize_static(
        str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def quantize_dsc(name, onnx, arguments, path):
    if path.exists():
        return
    weights = onnx.with_suffix(".pth")
    model = [str(onnx)] if name == "mobilenet_v2" else [name, "--weights", str(weights)]
    subprocess.run([target() / "dsconv", "quantize", *model, *arguments, "--image-sum", "--images", "none", "-o", str(path)], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL)


# Engines: a name, and a function that runs one batch ------------------------------------------------


def onnxruntime_engine(path, x, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": x})[0]


def openvino_engine(path, x, threads, float32):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape(list(x.shape))
    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if float32:
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda: request.infer({0: x})[0]


class Dsconv:
    """The C interface, include/dsconv.h."""

    def __init__(self):
        lib = ctypes.CDLL(str(target() / "libdsconv_c.so"))
        lib.dsconv_model_load.restype = ctypes.c_void_p
        lib.dsconv_model_load.argtypes = [ctypes.c_char_p]
        lib.dsconv_model_outputs.restype = ctypes.c_size_t
        lib.dsconv_model_outputs.argtypes = [ctypes.c_void_p]
        lib.dsconv_session_new.restype = ctypes.c_void_p
        lib.dsconv_session_new.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        lib.dsconv_session_run.restype = ctypes.c_int
        lib.dsconv_session_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        lib.dsconv_last_error.restype = ctypes.c_char_p
        self.lib = lib

    def engine(self, path, x, threads):
        lib = self.lib
        model = self.check(lib.dsconv_model_load(str(path).encode()))
        session = self.check(lib.dsconv_session_new(model, threads))
        logits = np.empty((x.shape[0], lib.dsconv_model_outputs(model)), np.float32)

        def run():
            self.check(lib.dsconv_session_run(session, x.ctypes.data, x.shape[0], logits.ctypes.data) == 0)
            return logits

        return run

    def check(self, value):
        if not value:
            raise RuntimeError(self.lib.dsconv_last_error().decode())
        return value


# Timing ------------------------------------------------------------------------------------------


def interleave(engines, rounds, seconds, clock, of_rounds):
    """What `of_rounds` gives of the fastest runs in each round's burst of `seconds` by this clock, milliseconds, by engine."""
    bursts = {name: [] for name in engines}
    for run in engines.values():
        run()
    for i in range(rounds):
        # Another order in each round, so that no engine always follows the same one.
        names = list(engines)
        names = names[i % len(names):] + names[: i % len(names)]
        for name in names:
            run, best, end = engines[name], float("inf"), time.perf_counter() + seconds
            while time.perf_counter() < end or best == float("inf"):
                start = clock()
                run()
                best = min(best, clock() - start)
            bursts[name].append(best * 1e3)
    return {name: of_rounds(times) for name, times in bursts.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formats", default="W4A8", help="bits of weights and activations, such as W4A8,W4A4")
    parser.add_argument("--schemes", default="B=64,B=128,two-level", help=f"any of {', '.join(SCHEMES)}")
    parser.add_argument("--isa", choices=ISAS, help="hold dsconv and OpenVINO to these instructions; ONNX Runtime is not")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a burst")
    parser.add_argument("--folder", type=Path, default=ROOT / "experiments/runs/peers", help="where models are kept")
    parser.add_argument("--json", type=Path, help="also write the times here")
    parser.add_argument("--cpu-time", action="store_true", help="the fastest of all runs by the process's CPU time: for one thread where others use the machine")
    args = parser.parse_args()
    clock, of_rounds = (time.process_time, min) if args.cpu_time else (time.perf_counter, statistics.median)
    args.folder.mkdir(parents=True, exist_ok=True)
    # Before any engine is loaded.
    os.environ.update(ISAS.get(args.isa, {}))
    if args.threads < (os.cpu_count() or 1):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: args.threads]))

    dsconv, table = Dsconv(), {}
    x = np.random.default_rng(2).standard_normal((args.batch, 3, 224, 224), dtype=np.float32)
    for name in args.networks.split(","):
        onnx = export(name, args.folder)
        int8 = args.folder / f"{name}.int8.onnx"
        quantize_onnx(onnx, int8)
        openvino_int8 = args.folder / f"{name}.int8.xml"
        quantize_openvino(onnx, openvino_int8)
        engines = {
            "ORT FP32": onnxruntime_engine(onnx, x, args.threads),
            "ORT INT8": onnxruntime_engine(int8, x, args.threads),
            "OpenVINO FP32": openvino_engine(onnx, x, args.threads, True),
            "OpenVINO INT8": openvino_engine(openvino_int8, x, args.threads, False),
        }
        for bits in args.formats.split(","):
            weights, activations = bits.removeprefix("W").split("A")
            for scheme in args.schemes.split(","):
                path = args.folder / f"{name}.{bits} {scheme}.dsc"
                arguments = ["--bits", weights, "--activation-bits", activations, *SCHEMES[scheme]]
                quantize_dsc(name, onnx, arguments, path)
                engines[f"dsconv {bits} {scheme}"] = dsconv.engine(path, x, args.threads)
        table[name] = interleave(engines, args.rounds, args.seconds, clock, of_rounds)
        print(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in table[name].items()), file=sys.stderr)

    columns = list(next(iter(table.values())))
    held = f", dsconv and OpenVINO held to {args.isa}" if args.isa else ""
    print(f"Batch {args.batch}, {args.threads} thread(s), {cpu()}{held}; milliseconds; in brackets, over ORT INT8 and ORT FP32.\n")
    print("| network | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, times in table.items():
        cells = [
            f"{t:.2f}" + (f" ({t / times['ORT INT8']:.2f}, {t / times['ORT FP32']:.2f})" if c.startswith("dsconv") else "")
            for c, t in times.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps({"batch": args.batch, "threads": args.threads, "cpu": cpu(), "isa": args.isa, "ms": table}, indent=1))


def cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
