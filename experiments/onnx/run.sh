#!/usr/bin/env bash
# Makes the files of this study in experiments/runs/onnx, scores and times them: see README.md.
#   bash experiments/onnx/run.sh DATA        DATA has weights/*.onnx and imagenet/{val,unlabelled}
# DSCONV_PYTHON names a Python with onnxruntime, openvino, numpy and pillow; DSCONV the command.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=$1
python=${DSCONV_PYTHON:-python3}
dsconv=${DSCONV:-cargo run --release -q -p dsconv-cli --}
out=experiments/runs/onnx
mkdir -p "$out"

for network in googlenet_bvlc squeezenet1_0; do
    source=$data/weights/$network.onnx
    files=("$source")
    for scheme in "8 8" "4 8" "4 4"; do
        read -r weights activations <<<"$scheme"
        name=$out/${network}_w${weights}a${activations}
        $dsconv quantize "$source" --images none --mean 104,117,123 --std 1,1,1 --order bgr --divide 1 \
            --bits "$weights" --activation-bits "$activations" -o "$name.safetensors" --force
        export="$dsconv export $name.safetensors --format onnx --force"
        $export --profile int4 -o "${name}_int4.onnx"
        $export --profile int4 --activations off -o "${name}_int4_weights.onnx"
        $export --profile fp32 -o "${name}_fp32.onnx"
        $export --profile int8 --calibrate "$data/imagenet/unlabelled" -o "${name}_int8.onnx"
        files+=("${name}"_{fp32,int4_weights,int4,int8}.onnx)
    done
    "$python" experiments/onnx/score.py "$data/imagenet/val" "${files[@]}"
done
