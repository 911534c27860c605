#!/usr/bin/env bash
# measure.sh DSCONV NET DATA LIMIT SCHEMES IMAGES...: quantizes NET and scores it on DATA, a line for every scheme and IMAGES.
# NET: a model that holds its preprocessing. DATA: labelled images, none of them among IMAGES. SCHEMES: as "4,4 3,3": bits of
# weights and inputs. IMAGES: none, drawn, synthetic, or DATA:COUNT. Example, the embedded networks:
#   measure.sh target/release/dsconv alexnet-embedded embedded 1000 "4,4 3,3" none drawn embedded:128
set -euo pipefail
dsconv=$1 net=$2 data=$3 limit=$4 schemes=$5
shift 5
file=$(mktemp -d)/quantized.dsc
trap 'rm -r "$(dirname "$file")"' EXIT
for scheme in $schemes; do
    for images in "$@"; do
        count=()
        [[ $images == *:* ]] && count=(--image-count "${images##*:}")
        start=$(date +%s.%N)
        "$dsconv" quantize "$net" --bits "${scheme%,*}" --activation-bits "${scheme#*,}" --images "${images%:*}" \
            "${count[@]}" -o "$file" --force --quiet 2>/dev/null >/dev/null
        seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.0f", b - a }')
        "$dsconv" eval "$file" --data "$data" --limit "$limit" --against "$net" --json 2>/dev/null |
            python3 -c "import json, sys; d = json.load(sys.stdin); print('| $(basename "$net") | W${scheme%,*}A${scheme#*,} | $(basename "$images") | %.2f | %.2f | %.1f | $seconds |' % (d['top1'], d['agreement'], d['sqnr_db']))"
    done
done
