#!/usr/bin/env bash
# FP32, quantized and adapted: the five embedded networks, W4A4 and W3A3. Prints the README's table.
# bash experiments/embedded/run.sh [--set KEY=VALUE...]; BITS="4 3" and NETS choose rows, BIN names another dsconv.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${BIN:-}" ]; then
  cargo build --release --bin dsconv
  BIN=target/release/dsconv
fi
runs=()
for bits in ${BITS:-4 3}; do
  for net in ${NETS:-alexnet vgg googlenet resnet50 densenet}; do
    run=experiments/runs/embedded_${net}_w${bits}a${bits}
    "$BIN" distill "${net}_4bit" --set quantize.bits=$bits --set quantize.activation.bits=$bits "$@" \
      --out "$run" --force >&2
    runs+=("$run")
  done
done
"$BIN" compare "${runs[@]}"
