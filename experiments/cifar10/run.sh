#!/usr/bin/env bash
# Trained CIFAR-10 ResNets of others: W4A8, W4A4, W3A3, without data and adapted to unlabelled images.
# bash experiments/cifar10/run.sh DATA, where DATA holds weights/resnet{20,56}_cifar10.th and cifar10/*.bin
set -euo pipefail
data=$(realpath "$1")
cd "$(dirname "$0")/../.."
cargo build --release --bin dsconv
runs=()
for net in resnet20 resnet56; do
  for format in "4 8" "4 4" "3 3"; do
    read -r w a <<<"$format"
    run=experiments/runs/cifar10_${net}_w${w}a${a}
    target/release/dsconv distill "cifar10/${net}_4bit" --set weights="$data/weights/${net}_cifar10.th" \
      --set data.adapt="$data/cifar10/data_batch_1.bin" --set data.eval="$data/cifar10/test_batch.bin" \
      --set quantize.bits=$w --set quantize.activation.bits=$a --out "$run" --force >&2
    runs+=("$run")
  done
done
target/release/dsconv compare "${runs[@]}"
