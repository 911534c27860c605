#!/usr/bin/env bash
# ImageNet networks of others, from ONNX files: FP32, quantized without data, adapted to 400 unlabelled images.
# bash experiments/imagenet/run.sh DATA, where DATA holds weights/{squeezenet1_0,googlenet_bvlc}.onnx and imagenet/{val,unlabelled}
# DSCONV names a built `dsconv`; STEPS the optimizer steps of an adaptation.
set -euo pipefail
data=$(realpath "$1")
cd "$(dirname "$0")/../.."
[ -n "${DSCONV:-}" ] || cargo build --release --bin dsconv
dsconv=${DSCONV:-target/release/dsconv}
runs=experiments/runs/imagenet
mkdir -p "$runs"
for net in squeezenet1_0 googlenet_bvlc; do
  fp32=$runs/$net.safetensors
  $dsconv export "$data/weights/$net.onnx" --order bgr --divide 1 --mean 104,117,123 --std 1,1,1 -o "$fp32" --force
  $dsconv eval "$fp32" --data "$data/imagenet/val"
  for format in "8 8" "4 8" "4 4"; do
    read -r w a <<<"$format"
    # The integer engine scores a .dsc file, many times as fast as the simulation.
    file=$runs/${net}_w${w}a${a}.dsc
    $dsconv quantize "$fp32" --images none --bits "$w" --activation-bits "$a" -o "$file" --force
    $dsconv eval "$file" --data "$data/imagenet/val"
  done
done
for net in squeezenet1_0 googlenet_bvlc; do
  $dsconv distill imagenet/imported_4bit --set model="$runs/$net.safetensors" \
    --set data.adapt="$data/imagenet/unlabelled" --set data.eval="$data/imagenet/val" \
    --set adapt.steps="${STEPS:-60}" --out "$runs/${net}_w4a4_adapted" --force
done
$dsconv compare "$runs"/*_adapted
