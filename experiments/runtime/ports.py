"""What one core does beside 12 integer dot products of 512 bits: cycles added by other instructions, per instruction.

`python experiments/runtime/ports.py` needs a C compiler and a CPU with AVX-512 VNNI. A cycle is half the time of one
`vpdpbusd` in a loop of independent ones, of which two run in a cycle. The tiles of `crates/runtime/src/kernels/tile.rs` are
shaped by this table.
"""
import pathlib
import subprocess
import tempfile

DOT = [f"vpdpbusd %%zmm31,%%zmm30,%%zmm{i}" for i in range(12)]
# Each writes zmm12 and up, or memory, and depends on nothing in the loop.
OTHERS = {
    "store of 64 bytes": "vmovups %%zmm20,{offset}(%[f])",
    "store of 32 bytes": "vmovups %%ymm13,{offset}(%[f])",
    "store of 4 bytes": "vmovss %%xmm13,{offset}(%[f])",
    "store from an integer register": "mov %%rax,{offset}(%[f])",
    "load of 64 bytes": "vmovups {offset}(%[f]),%%zmm{register}",
    "broadcast of 4 bytes from memory": "vpbroadcastd {offset}(%[f]),%%zmm{register}",
    "multiplication": "vmulps %%zmm31,%%zmm30,%%zmm{register}",
    "multiply-add": "vfmadd231ps %%zmm31,%%zmm30,%%zmm{register}",
    "division": "vdivps %%zmm31,%%zmm30,%%zmm{register}",
    "addition": "vaddps %%zmm31,%%zmm30,%%zmm{register}",
    "maximum": "vmaxps %%zmm31,%%zmm30,%%zmm{register}",
    "conversion to or from integers": "vcvtdq2ps %%zmm30,%%zmm{register}",
    "integer addition": "vpaddd %%zmm31,%%zmm30,%%zmm{register}",
    "bitwise and": "vpandd %%zmm31,%%zmm30,%%zmm{register}",
    "packing": "vpackssdw %%zmm31,%%zmm30,%%zmm{register}",
    "permutation of words": "vpermd %%zmm31,%%zmm30,%%zmm{register}",
    "half of a vector": "vextractf64x4 $1,%%zmm30,%%ymm15",
    "prefetch": "prefetcht1 {offset}(%[f])",
}
MOST = 8


def spread(dots, others):
    """Others evenly between dot products."""
    lines, done = [], 0
    for i, dot in enumerate(dots, 1):
        lines.append(dot)
        while done < len(others) * i // len(dots):
            lines.append(others[done])
            done += 1
    return lines


def timed(name, count, lines):
    body = "\\n".join(["1:", *lines, "dec %[c]", "jnz 1b", ""])
    return f"""{{
        double best = 1e9;
        for (int k = 0; k < 300; k++) {{
            double t = now();
            for (int r = 0; r < 100; r++) {{ long c = 100; asm volatile("{body}" : [c] "+r"(c) : [f] "r"(F) : CLOBBERS); }}
            t = now() - t;
            if (t < best) best = t;
        }}
        report("{name}", {count}, best / 10000);
    }}"""


def main():
    clobbers = ",".join(f'"zmm{i}"' for i in range(32))
    runs = [timed("", 0, DOT)]
    for name, text in OTHERS.items():
        others = [text.format(offset=64 * i, register=14 + i % 14) for i in range(MOST)]
        runs.append(timed(name, MOST, spread(DOT, others)))
    source = f"""
#include <stdio.h>
#include <time.h>
#define CLOBBERS {clobbers}, "memory", "cc"
static float F[4096] __attribute__((aligned(4096)));
static double base;
static double now(void) {{ struct timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec * 1e-9; }}
static void report(const char *name, int count, double seconds) {{
    if (!count) {{ base = seconds; printf("12 dot products: %.2f ns\\n\\n| %d more of | cycles each |\\n|---|---|\\n", base * 1e9, {MOST}); return; }}
    printf("| %s | %.2f |\\n", name, (seconds / base - 1) * 6 / count);
}}
int main(void) {{ {"".join(runs)} }}
"""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "ports.c"
        path.write_text(source)
        program = path.with_suffix("")
        subprocess.run(["cc", "-O2", "-mavx512f", "-o", program, path], check=True)
        subprocess.run([program], check=True)


if __name__ == "__main__":
    main()
