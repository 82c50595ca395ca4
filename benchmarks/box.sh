#!/usr/bin/env bash
# The models that come with the package, trained and measured anew: src/weightspace/models/.
#
#   benchmarks/box.sh        about half an hour on two cores, once the zoos are there
#
# small-cnns: four zoos of the paper's small CNNs, aligned. any: these, a zoo of larger CNNs, one of ResNets and the
# published ResNets (two of four are trained on), not aligned, with statistics by kind of layer, for every architecture.
# They are for reading, and have no linear path: made before it was the default.
# WEIGHTSPACE_ZOOS, WEIGHTSPACE_DATA: see zoos.sh. WEIGHTSPACE_WEIGHTS: where published networks are.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
published=${WEIGHTSPACE_WEIGHTS:-../shared/weights}/akamaster_cifar10
small=(mnist-cnn-s usps-cnn-s scene_digits-cnn-s cifar10-cnn-s)
larger=(cifar10-cnn-l cifar10-resnet18w8)
bin=.venv/bin
mkdir -p runs/box
benchmarks/zoos.sh "${small[@]}"
[[ -f runs/box/small-cnns/README.md ]] ||
  "$bin/weightspace" pretrain "${small[@]/#/$zoos/}" --steps 1500 --no-linear-path --out runs/box/small-cnns
WEIGHTSPACE_MEMBERS=30 benchmarks/zoos.sh "${larger[@]}"
[[ -d runs/box/cifar10-published ]] || "$bin/weightspace" import "$published" --out runs/box/cifar10-published
[[ -f runs/box/any/README.md ]] ||
  "$bin/weightspace" pretrain "${small[@]/#/$zoos/}" "${larger[@]/#/$zoos/}" runs/box/cifar10-published \
    --steps 1500 --no-align --no-linear-path --standardize kind --token-width 64 --out runs/box/any
"$bin/python" benchmarks/box.py runs/box "${small[@]/#/$zoos/}" "${larger[@]/#/$zoos/}" runs/box/cifar10-published
