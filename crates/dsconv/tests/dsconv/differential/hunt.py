"""Runs many random graphs through the project, and shrinks those that fail.

    python hunt.py FOLDER [--count 100000] [--seed 0]

Builds the test program first. FOLDER gets `coverage.json`, and for each kind of failure its smallest graph as a packed
file and as ONNX. Needs onnx, numpy and onnxruntime.
"""
import argparse
import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import generate

TEST = "random_networks_compute"


def built():
    """The path of the test program."""
    command = ["cargo", "test", "--release", "--workspace", "--test", "dsconv", "--no-run", "--message-format", "json"]
    done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True, text=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "dsconv" and m["profile"]["test"])


def judge(binary, file):
    """A verdict for each graph of a packed file: word, stage, why."""
    done = subprocess.run([binary, TEST, "--nocapture"], env={**os.environ, "DSCONV_DIFFERENTIAL": str(file)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{file}: exit {done.returncode}: {done.stderr[-500:]}")
    lines = Path(f"{file}.tsv").read_text().splitlines()
    return [tuple(line.split("\t")[1:4]) for line in lines]


def kind(verdict):
    """What failures have in common."""
    word, stage, why = verdict
    why = re.sub(r"'[^']*'", "'_'", why)
    why = re.sub(r", with Policy.*", "", why)
    why = re.sub(r"differs by .*", "differs", why)
    return f"{word} {stage} {re.sub(r'-?[0-9][0-9.e+-]*', '0', why)[:100]}"


def live(graph):
    """The nodes that the output needs."""
    needed = {value.name for value in graph.output}
    nodes = []
    for _ in range(2):
        for node in reversed(graph.node):
            if needed & set(node.output) and node not in nodes:
                nodes.append(node)
                needed |= set(node.input)
                for attribute in node.attribute:
                    needed |= {name for inner in attribute.g.node for name in inner.input}
    return nodes


class Coverage:
    """How often each operator, with each attribute, in each opset, was right and was refused."""

    def __init__(self):
        self.verdicts = collections.Counter()
        self.operators = collections.defaultdict(collections.Counter)
        self.opsets = collections.defaultdict(collections.Counter)
        self.pairs = collections.defaultdict(set)
        self.last = collections.defaultdict(collections.Counter)
        self.attributes = collections.defaultdict(collections.Counter)
        self.refusals = collections.Counter()
        self.failures = collections.Counter()
        # Graphs in which engine and simulation rounded a value to two codes.
        self.turned = 0

    def add(self, header, model, verdict):
        word = verdict[0]
        self.verdicts[word] += 1
        self.turned += word == "right" and bool(verdict[2])
        self.opsets[str(header["opset"])][word] += 1
        self.last[header["last"]][word] += 1
        for op in {node.op_type for node in live(model.graph)}:
            self.operators[op][word] += 1
            if word == "right":
                self.pairs[op].add(header["opset"])
        if word == "right":
            for node in live(model.graph):
                for attribute in node.attribute:
                    self.attributes[node.op_type][attribute.name] += 1
        if word == "refused":
            self.refusals[kind(verdict)] += 1
        elif word != "right":
            self.failures[kind(verdict)] += 1

    def table(self):
        """Operators and opsets as Markdown."""
        rows = [f"| {op} | {c['right']} | {c['refused']} | {len(self.pairs[op])} |" for op, c in sorted(self.operators.items()) if c["right"]]
        return "\n".join(["| operator | right | refused | opsets |", "|---|---|---|---|", *rows])

    def write(self, path):
        table = {
            "verdicts": self.verdicts,
            "turned": self.turned,
            "operators": {op: {**counts, "opsets": len(self.pairs[op])} for op, counts in sorted(self.operators.items())},
            "attributes": {op: counts for op, counts in sorted(self.attributes.items())},
            "opsets": {opset: self.opsets[opset] for opset in sorted(self.opsets, key=int)},
            "last": {step: counts for step, counts in sorted(self.last.items())},
            "failures": self.failures,
            "refusals": dict(self.refusals.most_common()),
        }
        path.write_text(json.dumps(table, indent=1))
        path.with_suffix(".md").write_text(self.table() + "\n")


def smaller(model):
    """The same file without one of its nodes, for each node; or ending early."""
    graph = model.graph
    for node in live(graph):
        for source in list(node.input)[:2]:
            if node.op_type == "Constant" or not source:
                continue
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            kept = [n for n in copy.graph.node if n.output[0] != node.output[0]]
            for other in kept:
                other.input[:] = [source if name == node.output[0] else name for name in other.input]
            if any(value.name == node.output[0] for value in copy.graph.output):
                copy.graph.output[0].name = source
            del copy.graph.node[:]
            copy.graph.node.extend(kept)
            yield tidy(copy)
        if not any(value.name in node.output for value in graph.output):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            kept = live_until(copy.graph, node.output[0])
            copy.graph.output[0].name = "early"
            del copy.graph.output[0].type.tensor_type.shape.dim[:]
            copy.graph.output[0].type.tensor_type.shape.dim.add()
            copy.graph.output[0].type.tensor_type.shape.dim.add()
            del copy.graph.node[:]
            copy.graph.node.extend([*kept, onnx.helper.make_node("Flatten", [node.output[0]], ["early"])])
            yield tidy(copy)


def live_until(graph, name):
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    copy.output[0].name = name
    alive = [node.output[0] for node in live(copy)]
    return [node for node in graph.node if node.output[0] in alive]


def tidy(model):
    """Without what nothing reads."""
    alive = [node.output[0] for node in live(model.graph)]
    kept = [node for node in model.graph.node if node.output[0] in alive]
    used = {name for node in kept for name in node.input} | {value.name for value in model.graph.output}
    for node in kept:
        for attribute in node.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    inputs = [value for value in model.graph.input if value.name in used or value.name == model.graph.input[0].name]
    for field, values in (("node", kept), ("initializer", tensors), ("input", inputs)):
        copies = [type(value)() for value in values]
        for copy, value in zip(copies, values):
            copy.CopyFrom(value)
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(copies)
    return model


def shrink(binary, folder, header, model, x, verdict, rounds=40):
    """Takes nodes away as long as the graph fails alike; the smallest file, packed."""
    x = np.asarray(x, header["type"]).reshape(header["shape"])
    logits = generate.runner(model)(x)
    best = generate.packed(model, x, logits, header)
    trial = folder / "trial.bin"
    for _ in range(rounds):
        candidates = []
        for other in smaller(model):
            try:
                found = generate.runner(other)(x)
                if found.size and np.isfinite(found).all() and np.abs(found).max() > 1e-3:
                    candidates.append((other, generate.packed(other, x, found, header)))
            except Exception:
                continue
        if not candidates:
            break
        trial.write_bytes(b"".join(data for _, data in candidates))
        verdicts = judge(binary, trial)
        failing = [c for c, v in zip(candidates, verdicts) if v[:2] == verdict[:2]]
        if not failing:
            break
        model, best = min(failing, key=lambda c: (len(c[0].graph.node), len(c[1])))
    return model, best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", help="the test program, where it is built already")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--variants", type=int, default=3, help="of each graph: other numbers, batch and opset")
    parser.add_argument("--keep", type=int, default=2, help="failures of a kind that are kept")
    parser.add_argument("--small", action="store_true", help="as generate.py has it")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    binary, coverage, kept = args.binary or built(), Coverage(), collections.Counter()
    for first in range(args.seed, args.seed + args.count, args.chunk):
        seeds = range(first, min(first + args.chunk, args.seed + args.count))
        graphs = [graph for seed in seeds for graph in generate.family(seed, args.small, args.variants)]
        chunk = args.folder / "chunk.bin"
        chunk.write_bytes(b"".join(generate.packed(*graph) for graph in graphs))
        for (model, x, _, header), verdict in zip(graphs, judge(binary, chunk), strict=True):
            coverage.add(header, model, verdict)
            if verdict[0] in ("right", "refused"):
                continue
            name = re.sub(r"[^A-Za-z]+", "_", kind(verdict))[:60]
            kept[name] += 1
            if kept[name] > args.keep:
                continue
            small, data = shrink(binary, args.folder, header, model, x, verdict)
            file = args.folder / f"{name}{header['seed']}_{header.get('variant', 0)}"
            file.with_suffix(".bin").write_bytes(data)
            onnx.save(small, file.with_suffix(".onnx"))
            operators = " ".join(node.op_type for node in small.graph.node)
            print(f"seed {header['seed']}, variant {header.get('variant', 0)}: {' '.join(verdict)[:300]}\n    {file}.onnx: {operators}", flush=True)
        coverage.write(args.folder / "coverage.json")
        print(first + args.chunk - args.seed, dict(coverage.verdicts), flush=True)
    return 1 if coverage.failures else 0


if __name__ == "__main__":
    sys.exit(main())
