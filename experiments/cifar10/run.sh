#!/usr/bin/env bash
# Trained CIFAR-10 ResNets of others: W4A8, W4A4, W3A3, W2A4, without data and adapted to unlabelled images. Prints the README's table.
# bash experiments/cifar10/run.sh DATA [--set KEY=VALUE...], where DATA holds weights/resnet{20,56}_cifar10.th and cifar10/*.bin
# NETS chooses networks, BIN names another dsconv.
set -euo pipefail
data=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
if [ -z "${BIN:-}" ]; then
  cargo build --release --bin dsconv
  BIN=target/release/dsconv
fi
runs=()
for net in ${NETS:-resnet20 resnet56}; do
  for format in "4 8" "4 4" "3 3" "2 4"; do
    read -r w a <<<"$format"
    run=experiments/runs/cifar10_${net}_w${w}a${a}
    "$BIN" distill "cifar10/${net}_4bit" --set weights="$data/weights/${net}_cifar10.th" \
      --set data.adapt="$data/cifar10/data_batch_1.bin" --set data.eval="$data/cifar10/test_batch.bin" \
      --set quantize.bits=$w --set quantize.activation.bits=$a "$@" --out "$run" --force >&2
    runs+=("$run")
  done
done
"$BIN" compare "${runs[@]}"
