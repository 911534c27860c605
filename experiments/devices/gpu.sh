#!/usr/bin/env bash
# Images a second of adaptation of a torchvision network at 224x224, here and in PyTorch, on the same GPU.
#   DSCONV=target/release/dsconv bash experiments/devices/gpu.sh 'wgpu vulkan' [BATCH] [ARCH] [STEPS]
# Weights and images are random, which does not change the time. Needs Python with torch and torchvision.
set -euo pipefail
cd "$(dirname "$0")/../.."
devices=$1 batch=${2:-64} arch=${3:-resnet50} steps=${4:-20}
python=${PYTHON:-python3} torch_device=${TORCH_DEVICE:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" - "$work" "$arch" "$batch" <<'PY'
import pathlib, sys
import torch, torchvision
work, arch, batch = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
torch.save(getattr(torchvision.models, arch)(weights=None).state_dict(), work / f"{arch}.pth")
for split, count in (("adapt", 2 * batch + 8), ("eval", 16)):
    (work / split).mkdir()
    for i in range(count):
        torchvision.io.write_jpeg(torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8), str(work / split / f"{i}.jpg"))
PY
BATCH=$batch ROUNDS=${ROUNDS:-2} bash experiments/devices/run.sh "imagenet/${arch}_4bit" "$devices" "$steps" \
    --set weights="$work/$arch.pth" --set data.adapt="$work/adapt" --set data.eval="$work/eval" --set adapt.fit_images=0
step() { "$python" experiments/devices/torch_step.py --arch "$arch" --batch "$batch" --steps "$steps" --device "$torch_device" "$@"; }
step
step --tf32
step --leave-out activations weights
