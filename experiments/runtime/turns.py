"""Times versions of the engine and ONNX Runtime in turns, all held to the same instruction set. Each engine is a process of its own.

    cargo build --release -p dsconv-runtime --example time
    gcc -O1 -shared -fPIC -o target/hold.so experiments/runtime/hold.c
    python experiments/runtime/turns.py mobilenet_v2.dsc --kernels avx512vnni,avxvnni,avx2
        --engines BEFORE,target/release/examples/time --onnx mobilenet_v2.int8.onnx,mobilenet_v2.onnx

One image, one thread, milliseconds of the thread's CPU time. Every engine gets a burst of runs in turn, and processes are started anew
`--launches` times: where their memory lies changes times by some percent. Of each launch the median burst's fastest run counts, and the
table has the median of these, with the ratio to the first ONNX file. `peers.py` makes the ONNX files. Needs numpy and onnxruntime.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

HOLD = Path(__file__).resolve().parents[2] / "target" / "hold.so"


def serve(path):
    """Runs an ONNX file once for each line on standard input."""
    import time

    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    for _ in sys.stdin:
        start = time.thread_time_ns()
        session.run(None, {"image": x})
        print((time.thread_time_ns() - start) / 1e6, flush=True)


def burst(process, runs):
    def run():
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return min(run() for _ in range(runs))


def launch(args, kernel):
    """Starts every engine; returns the median burst of each."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    held = {"HOLD": kernel, "LD_PRELOAD": str(args.hold)} if kernel in ("avx2", "avxvnni") else {}
    engines = {
        path: subprocess.Popen([path, args.file], env={**os.environ, "DSCONV_KERNEL": kernel}, **pipes) for path in args.engines.split(",")
    }
    for path in filter(None, args.onnx.split(",")):
        engines[path] = subprocess.Popen([sys.executable, __file__, "--serve", path], env={**os.environ, **held}, **pipes)
    for process in engines.values():
        burst(process, 10)
    times = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, process in engines.items():
            times[name].append(burst(process, 10))
    for process in engines.values():
        process.stdin.close()
        process.wait()
    return {name: statistics.median(bursts) for name, bursts in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--kernels", default="avx512vnni,avxvnni,avx2")
    parser.add_argument("--engines", required=True)
    parser.add_argument("--onnx", default="")
    parser.add_argument("--hold", type=Path, default=HOLD)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    for kernel in args.kernels.split(","):
        launches = [launch(args, kernel) for _ in range(args.launches)]
        times = {name: statistics.median(one[name] for one in launches) for name in launches[0]}
        base = times.get(args.onnx.split(",")[0]) or next(iter(times.values()))
        print(args.file, kernel, ", ".join(f"{name} {ms:.2f} ({ms / base:.2f})" for name, ms in times.items()), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
