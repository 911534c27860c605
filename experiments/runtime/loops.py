"""Counts the instructions of the innermost loops that multiply, in a binary for 64-bit Arm.

    cargo test --release --target aarch64-unknown-linux-gnu -p dsconv-runtime --lib --no-run
    python experiments/runtime/loops.py target/aarch64-unknown-linux-gnu/release/deps/runtime-HASH

For each multiplication, the loops without a branch inside that have most of it: how many products one pass makes, how many instructions it
takes, and which. Needs aarch64-linux-gnu-objdump (Debian: binutils-aarch64-linux-gnu).
"""

import re
import subprocess
import sys
from collections import Counter

# Products of an instruction: `sdot` makes four sums of four products, `usmmla` four of eight.
PRODUCTS = {"sdot": 16, "usmmla": 32}
BRANCHES = {"b", "cbz", "cbnz", "tbz", "tbnz"}


def main():
    listing = subprocess.run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", sys.argv[1]], capture_output=True, text=True, check=True)
    code, at = [], {}
    for line in listing.stdout.splitlines():
        if found := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            at[int(found[1], 16)] = len(code)
            code.append((found[2], found[3]))
    branch = [name in BRANCHES or name.startswith("b.") for name, _ in code]
    loops = {name: Counter() for name in PRODUCTS}
    for end, (_, arguments) in enumerate(code):
        targets = [int(word, 16) for word in re.findall(r"\b[0-9a-f]{4,}\b", arguments)] if branch[end] else []
        start = at.get(targets[0]) if targets else None
        if start is None or start > end or any(branch[start:end]):
            continue
        body = Counter(name for name, _ in code[start : end + 1])
        for name in PRODUCTS:
            if body[name]:
                loops[name][tuple(body.most_common())] += 1
    for name, found in loops.items():
        most = max((dict(body)[name] for body in found), default=0)
        for body, times in found.most_common():
            if dict(body)[name] == most:
                count, products = sum(n for _, n in body), most * PRODUCTS[name]
                print(f"{name}: {products} products, {count} instructions, {products / count:.1f} an instruction; {times} times: {dict(body)}")


if __name__ == "__main__":
    main()
