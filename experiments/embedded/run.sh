#!/usr/bin/env bash
# FP32, quantized and adapted: the five embedded networks, W4A4 and W3A3. Prints the table of results.md.
# bash experiments/embedded/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --bin dsconv
runs=()
for net in alexnet vgg googlenet resnet50 densenet; do
  for bits in 4 3; do
    run=experiments/runs/embedded_${net}_w${bits}a${bits}
    target/release/dsconv distill "${net}_4bit" --set quantize.bits=$bits --set quantize.activation.bits=$bits \
      --out "$run" --force >&2
    runs+=("$run")
  done
done
target/release/dsconv compare "${runs[@]}"
