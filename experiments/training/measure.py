"""Images a second of steps of adaptation, of several programs in turns.

    python3 experiments/training/measure.py NETWORK BATCH [--turns 7] [--steps 3] [--threads 2] [--channels-last] NAME=PROGRAM ...

NETWORK is the name of a network of torchvision. PROGRAM is the example `steps` of the crate `dsconv-distill`, of any commit;
PyTorch's step, `experiments/devices/torch_step.py`, is always measured beside. All programs run endlessly and print a line
after each step; all but the one whose turn it is are stopped. So whatever else keeps the machine busy slows all of them, and
the ratio to PyTorch is the median over turns. Images a second are by wall clock, and by CPU time: as if all threads had been
busy and no other program.
"""
import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
STEP = pathlib.Path(__file__).parent.parent / "devices" / "torch_step.py"


class Program:
    def __init__(self, name, command, threads):
        self.name, self.turns = name, []
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**20

    def line(self):
        if not self.process.stdout.readline():
            sys.exit(f"{self.name} ended")

    def turn(self, steps):
        """Wall and CPU seconds of a step. The first line that does not come at once is of a step that was stopped midway."""
        self.process.send_signal(signal.SIGCONT)
        began = time.perf_counter()
        self.line()
        while time.perf_counter() - began < 0.01:
            began = time.perf_counter()
            self.line()
        wall, cpu = time.perf_counter(), self.cpu()
        for _ in range(steps):
            self.line()
        result = ((time.perf_counter() - wall) / steps, (self.cpu() - cpu) / steps)
        self.process.send_signal(signal.SIGSTOP)
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("batch", type=int)
    parser.add_argument("programs", nargs="*")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true", help="measure PyTorch in that layout too")
    options = parser.parse_args()
    torch_step = [sys.executable, str(STEP), "--arch", options.network, "--batch", str(options.batch), "--device", "cpu", "--lines"]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / f"{options.network}.onnx"
        export(options.network, file)
        commands = [("PyTorch", torch_step)]
        if options.channels_last:
            commands.append(("PyTorch, channels last", torch_step + ["--channels-last"]))
        for program in options.programs:
            name, _, path = program.partition("=")
            commands.append((name, [path, str(file), str(options.batch)]))
        programs = []
        try:
            for name, command in commands:
                programs.append(Program(name, command, options.threads))
                programs[-1].turn(1)
            for _ in range(options.turns):
                for program in programs:
                    program.turns.append(program.turn(options.steps))
                    wall, cpu = program.turns[-1]
                    print(f"{program.name}: {wall:.2f} s a step, {cpu:.2f} s of CPU time", file=sys.stderr, flush=True)
            show(programs, options)
        finally:
            for program in programs:
                program.process.kill()


def export(network, file):
    """Writes a network with random weights to an ONNX file."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = getattr(torchvision.models, network)(weights=None).eval()
    torch.onnx.export(net, (torch.zeros(1, 3, 224, 224),), file, dynamo=False, verbose=False)


def show(programs, options):
    def rate(program, which):
        return [options.batch / turn[which] for turn in program.turns]

    print(f"{options.network}, batch {options.batch}, {options.threads} threads, {options.turns} turns of {options.steps} steps")
    print("| program | images a second | of CPU time | ratio to PyTorch (quartiles) | of CPU time | peak memory |\n|---|---|---|---|---|---|")
    for program in programs:
        cells = [program.name]
        for which in (0, 1):
            threads = 1 if which == 0 else options.threads
            cells.append(f"{threads * statistics.median(rate(program, which)):.2f}")
        for which in (0, 1):
            ratios = [own / other for own, other in zip(rate(program, which), rate(programs[0], which))]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        cells.append(f"{program.peak():.2f} GiB")
        print("| " + " | ".join(cells) + " |")


main()
