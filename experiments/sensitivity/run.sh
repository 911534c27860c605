#!/usr/bin/env bash
# Top-1 of networks with all layers alike, with the worst layers kept at 8 bits, and with bits chosen per layer.
# bash experiments/sensitivity/run.sh DATA [NETWORK...], where DATA holds weights/, imagenet/ and cifar10/ (experiments/README.md).
set -euo pipefail
data=$1
shift
dsconv=${DSCONV:-target/release/dsconv}
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
caffe=(--order bgr --divide 1 --mean 104,117,123 --std 1,1,1)

value() { grep -m1 "\"$1\":" | sed 's/.*: //; s/,$//'; }

# one NETWORK IMAGES LABEL MODEL-OPTIONS -- QUANTIZE-OPTIONS
one() {
    local network=$1 images=$2 label=$3 model=()
    shift 3
    while [ "$1" != -- ]; do model+=("$1"); shift; done
    shift
    local said
    said=$("$dsconv" quantize "${model[@]}" --images none "$@" -o "$out/q.dsc" --force --json 2>/dev/null)
    echo "| $network | $label | $("$dsconv" eval "$out/q.dsc" --data "$images" --json 2>/dev/null | value top1)" \
        "| $(value bytes <<<"$said") | $(value same <<<"$said") of 8 | $(value noise <<<"$said") | $(value broken <<<"$said") |"
}

study() {
    local network=$1 images=$2
    shift 2
    echo "| $network | FP32 | $("$dsconv" eval "$@" --data "$images" --json 2>/dev/null | value top1) | | | | |"
    for bits in 8,8 8,4 4,8 4,4 3,4 3,3 2,4 2,2; do
        local w=${bits%,*} a=${bits#*,}
        one "$network" "$images" "W${w}A$a" "$@" -- --bits "$w" --activation-bits "$a"
        if [ "$w" = 3 ] || [ "$bits" = 4,4 ]; then
            one "$network" "$images" "W${w}A$a keep-worst" "$@" -- --bits "$w" --activation-bits "$a" --keep-worst
        fi
    done
    for budget in 3 4; do
        "$dsconv" analyze "$@" --proxy --count 16 --budget "${budget}bits" -o "$out/rules.toml" --force >/dev/null 2>&1
        one "$network" "$images" "budget ${budget}bits" "$@" -- --rule-file "$out/rules.toml"
    done
}

echo "| network | format | top-1 | bytes | same class | noise | broken |"
echo "|---|---|---|---|---|---|---|"
for network in "${@:-resnet20 resnet56 squeezenet googlenet alexnet-embedded vgg-embedded googlenet-embedded resnet50-embedded densenet-embedded}"; do
    for network in $network; do
        case $network in
        resnet20 | resnet56) study "$network" "$data/cifar10/test_batch.bin" "$network" --weights "$data/weights/${network}_cifar10.th" ;;
        squeezenet) study "$network" "$data/imagenet/val" "$data/weights/squeezenet1_0.onnx" "${caffe[@]}" ;;
        googlenet) study "$network" "$data/imagenet/val" "$data/weights/googlenet_bvlc.onnx" "${caffe[@]}" ;;
        *) study "$network" embedded "$network" ;;
        esac
    done
done
