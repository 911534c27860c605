#!/usr/bin/env bash
# Images a second of adaptation (student forward and backward, teacher forward), device by device.
#   bash experiments/devices/run.sh CONFIG 'DEVICE ...' STEPS [arguments of `dsconv distill`]
# A run of STEPS + 2 steps less one of 2 is what STEPS steps take: reading, the first evaluations and export are in both.
# Devices take turns, ROUNDS times (3), and the shortest time of each counts. CPU seconds tell what else kept the machine
# busy: where wall clock is more than half of them on two cores, something did.
set -euo pipefail
config=$1 devices=$2 steps=$3
shift 3
dsconv=${DSCONV:-dsconv}
batch=${BATCH:-32}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
TIMEFORMAT='%R %U %S'

once() { # device, steps: wall and CPU seconds to a file
    rm -rf "$out/run"
    { time "$dsconv" distill "$config" --device "$1" --quiet --out "$out/run" \
        --set adapt.steps="$2" --set adapt.checkpoint_every="$2" --set adapt.batch="$batch" --set adapt.held_out=8 \
        --set data.eval_limit=16 "${@:3}" >"$out/log" 2>&1; } 2>>"$out/$1.$2" || { cat "$out/log" >&2; exit 1; }
}

for _ in $(seq "${ROUNDS:-3}"); do
    for device in $devices; do
        once "$device" 2 "$@"
        once "$device" $((steps + 2)) "$@"
    done
done
for device in $devices; do
    paste -d' ' "$out/$device.2" "$out/$device.$((steps + 2))" | awk -v device="$device" -v images=$((steps * batch)) '
        function least(a, b) { return a == "" || b < a ? b : a }
        { w0 = least(w0, $1); c0 = least(c0, $2 + $3); w1 = least(w1, $4); c1 = least(c1, $5 + $6) }
        END { printf "%s: %.1f images a second, %.1f CPU seconds for %d images\n", device, images / (w1 - w0), c1 - c0, images }'
done
