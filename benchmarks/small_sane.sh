#!/usr/bin/env bash
# A small SANE on four zoos of the paper's small CNNs: grow them, then train it; its card has all figures.
#
#   benchmarks/small_sane.sh [OPTION ...]    options go to `weightspace pretrain`
#
# Training takes less than an hour on one thread. WEIGHTSPACE_ZOOS, WEIGHTSPACE_DATA: see zoos.sh. The model goes to
# runs/small-sane.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
names=(mnist-cnn-s usps-cnn-s scene_digits-cnn-s cifar10-cnn-s)
benchmarks/zoos.sh "${names[@]}"
.venv/bin/weightspace pretrain "${names[@]/#/$zoos/}" --out runs/small-sane \
  --token-width 101 --latent-width 22 --model-width 128 --learning-rate 2e-3 --steps 2200 "$@"
