#!/usr/bin/env bash
# Kills a run of CONFIG at ten random moments with SIGKILL, resumes it each time, and compares its exported network with that of
# an unbroken run. Exit status 1 where they differ.
# bash experiments/resume/run.sh [CONFIG] [--set KEY=VALUE...]; SEED=1 repeats the moments, BIN names another dsconv.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=${1:-resnet50_4bit}
shift || true
if [ -z "${BIN:-}" ]; then
  cargo build --release --bin dsconv
  BIN=target/release/dsconv
fi
RANDOM=${SEED:-1}
out=experiments/runs/resume_${config##*/}

begin=$(date +%s%N)
"$BIN" distill "$config" "$@" --out "$out/whole" --force >&2
lasted=$((($(date +%s%N) - begin) / 1000000))
echo "unbroken: $((lasted / 1000)) s"

rm -rf "$out/broken"
resume=()
kills=0
while [ "$kills" -lt 10 ]; do
  "$BIN" distill "$config" "$@" --out "$out/broken" "${resume[@]}" >"$out/broken.log" 2>&1 &
  process=$!
  # From the first moment on to a third of the unbroken run.
  wait_ms=$((RANDOM * lasted / 3 / 32768))
  sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
  if ! kill -9 "$process" 2>/dev/null; then
    # It ended before: another run begins, so that there are ten kills.
    wait "$process"
    echo "ended after $kills kills; $(sha256sum <"$out/broken/model.safetensors" | cut -c1-16)"
    cmp "$out/whole/model.safetensors" "$out/broken/model.safetensors"
    rm -rf "$out/broken"
    resume=()
    continue
  fi
  wait "$process" 2>/dev/null || true
  kills=$((kills + 1))
  newest=$(find "$out/broken/checkpoints" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sort | tail -1 || true)
  echo "kill $kills after $wait_ms ms, newest checkpoint: ${newest##*/}"
  resume=()
  if [ -e "$out/broken/config.toml" ]; then resume=(--resume); fi
done
"$BIN" distill "$config" "$@" --out "$out/broken" "${resume[@]}" >&2
(cd "$out" && sha256sum whole/model.safetensors broken/model.safetensors)
cmp "$out/whole/model.safetensors" "$out/broken/model.safetensors"
echo "the same bits after $kills kills"
