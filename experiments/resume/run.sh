#!/usr/bin/env bash
# Kills a run of CONFIG at random moments with SIGKILL, resumes it each time, and compares its exported network with that of an
# unbroken run. Between kills an image is replaced, an image gets another label, and a second process is started beside the
# first: each must be refused, and say why. Exit status 1 where anything is not as it must be.
# bash experiments/resume/run.sh [CONFIG] [--set KEY=VALUE...]; KILLS (20), IMAGES of a set (600), SEED=1 repeats the moments,
# BIN names another dsconv.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=${1:-resnet50_4bit}
shift || true
if [ -z "${BIN:-}" ]; then
  cargo build --release --bin dsconv
  BIN=target/release/dsconv
fi
RANDOM=${SEED:-1}
wanted=${KILLS:-20}
out=$PWD/experiments/runs/resume_${config##*/}
rm -rf "$out"
mkdir -p "$out"
"$BIN" data make "$out/pictures" --limit "${IMAGES:-600}" >"$out/make.log" 2>&1
distill=("$BIN" distill "$config" "$@" --set "data.adapt=$out/pictures/adapt" --set "data.eval=$out/pictures/eval")

begin=$(date +%s%N)
"${distill[@]}" --out "$out/whole" >"$out/whole.log" 2>&1
lasted=$((($(date +%s%N) - begin) / 1000000))
echo "unbroken: $((lasted / 1000)) s"

same() {
  cmp "$out/whole/model.safetensors" "$out/broken/model.safetensors"
  cmp "$out/whole/model.dsc" "$out/broken/model.dsc"
}

# refused STATUS WORDS: a resume must end with this status and say this.
refused() {
  local status=0
  "${distill[@]}" --out "$out/broken" --resume >"$out/refused.log" 2>&1 || status=$?
  if [ "$status" -ne "$1" ] || ! grep -q "$2" "$out/refused.log"; then
    echo "not refused: status $status"
    cat "$out/refused.log"
    exit 1
  fi
}

kills=0 swaps=0 labels=0 doubles=0 ends=0
resume=()
while [ "$kills" -lt "$wanted" ]; do
  "${distill[@]}" --out "$out/broken" "${resume[@]}" >"$out/broken.log" 2>&1 &
  process=$!
  # From the first moment on to a third of the unbroken run.
  wait_ms=$((RANDOM * lasted / 3 / 32768))
  sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
  if [ $((kills % 3)) -eq 2 ] && [ -e "$out/broken/.lock" ] && kill -0 "$process" 2>/dev/null; then
    refused 1 "is in use by another process"
    doubles=$((doubles + 1))
  fi
  if ! kill -9 "$process" 2>/dev/null; then
    # It ended before: another run begins, so that there are enough kills.
    wait "$process"
    ends=$((ends + 1))
    same
    rm -rf "$out/broken"
    resume=()
    continue
  fi
  wait "$process" 2>/dev/null || true
  kills=$((kills + 1))
  newest=$(find "$out/broken/checkpoints" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sort | tail -1 || true)
  echo "kill $kills after $wait_ms ms, newest checkpoint: ${newest##*/}"
  resume=()
  if [ -e "$out/broken/config.toml" ]; then
    resume=(--resume)
    pictures=("$out"/pictures/adapt/*.png)
    one=${pictures[$((RANDOM % ${#pictures[@]}))]}
    cp "$one" "$out/kept.png"
    cp "${pictures[$((RANDOM % 7))]}" "$one"
    if cmp -s "$one" "$out/kept.png"; then
      echo "picked twice: nothing changed"
    else
      refused 2 "images to adapt to: 1 of .* images changed, first ${one##*/}"
      swaps=$((swaps + 1))
    fi
    cp "$out/kept.png" "$one"
    if [ $((kills % 4)) -eq 0 ]; then
      classes=("$out"/pictures/eval/*/)
      labelled=("${classes[0]}"*.png)
      mv "${labelled[0]}" "${classes[1]}"
      refused 2 "images to measure on: 1 of .* images gone"
      mv "${classes[1]}${labelled[0]##*/}" "${labelled[0]}"
      labels=$((labels + 1))
    fi
  fi
done
"${distill[@]}" --out "$out/broken" "${resume[@]}" >"$out/broken.log" 2>&1
same
left=$(find "$out/broken" -name '.*' -mindepth 1 | wc -l)
[ "$left" -eq 0 ] || { echo "unfinished files are left"; exit 1; }
(cd "$out" && sha256sum whole/model.safetensors broken/model.safetensors)
echo "the same bits after $kills kills, $ends ended runs on the way; refused: $swaps replaced images, $labels moved labels, $doubles second processes"
