#!/usr/bin/env bash
# The integer engine against the burn simulation, the same .dsc file in both: README.md's last table.
#   bash experiments/runtime/simulation.sh [DATA]     DATA has weights/, imagenet/val and cifar10/test_batch.bin; without
#                                                     it the embedded networks only
# DSCONV names the command. Files go to experiments/runs/simulation.
set -euo pipefail
data=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../.."
dsconv=${DSCONV:-target/release/dsconv}
[ -x "$dsconv" ] || { cargo build --release --bin dsconv; dsconv=target/release/dsconv; }
out=experiments/runs/simulation
mkdir -p "$out"

printf '| network | data | format | images | top-1 | same class | difference, median | largest |\n|---|---|---|---|---|---|---|---|\n'
row() { # NAME DATA MODEL...
    local name=$1 images=$2 format file
    shift 2
    for format in '8 float' '4 float' '8 two-level'; do
        read -r bits scales <<<"$format"
        file=$out/$name.$bits.$scales.dsc
        options=(--bits 4 --activation-bits "$bits" --block 64)
        if [ "$scales" = two-level ]; then options+=(--scales two-level --activation-block pixel); fi
        "$dsconv" quantize "$@" --images none "${options[@]}" -o "$file" --force --quiet >&2
        "$dsconv" eval "$file" --data "$images" --against "$file" --json --quiet |
            python3 -c 'import json, sys
e = json.load(sys.stdin)
d = e["difference"]
print("| %s | %s | %s | %d | %.2f | %.2f %% | %.1e | %.1e |" %
    (*sys.argv[1:], e["count"], e["top1"], e["agreement"], d["median"], d["largest"]))' \
                "$name" "$(basename "$images")" "W4A$bits, $scales scales"
    done
}
for family in alexnet vgg googlenet resnet50 densenet; do row "$family-embedded" embedded "$family-embedded"; done
if [ -n "$data" ]; then
    for network in resnet20 resnet56; do
        row "$network" "$data/cifar10/test_batch.bin" "$network" --weights "$data/weights/${network}_cifar10.th"
    done
    row squeezenet1_0 "$data/imagenet/val" "$data/weights/squeezenet1_0.onnx" --order bgr --divide 1 --mean 104,117,123 --std 1,1,1
    row googlenet_bvlc "$data/imagenet/val" "$data/weights/googlenet_bvlc.onnx" --order bgr --divide 1 --mean 104,117,123 --std 1,1,1
fi
