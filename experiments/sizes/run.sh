#!/usr/bin/env bash
# Sizes on disk of torchvision's networks, quantized: the table of README.md. Five minutes, no downloads.
# bash experiments/sizes/run.sh [NETWORK...]
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo run --release -p dsconv-zoo --example sizes -- "$@"
