#!/usr/bin/env bash
# The figures of layers: `docs/pages/results/layers-*.svg`, SANE beside WeightWatcher.
#
#   benchmarks/layers.sh
#
# Published ResNet-20 to -56 and their accuracies (../shared/weights), and ResNets of several depths and widths, which
# are grown first (ten minutes). The SANE is that of the ResNet-18 zoo (tables_reading.sh trains it).
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
published=${WEIGHTSPACE_WEIGHTS:-../shared/weights}/akamaster_cifar10
sane=runs/reading/cifar10-resnet18w8-fold0
bin=$PWD/.venv/bin
members=()
for network in resnet8w8 resnet14w8 resnet20w8 resnet8w16 resnet14w4; do
  zoo=$zoos/cifar10-$network
  [[ -d $zoo ]] || (cd benchmarks && "$bin/weightspace" grow "resnets:$network" --data "$zoos/images/cifar10.npz" \
    --members 3 --epochs 6 --keep 0,6 --size 16 --train-images 4000 --test-images 1000 \
    --vary lr=1e-3,3e-3,1e-2 --seed 0 --out "$zoo")
  for member in 0000 0001 0002; do members+=("$zoo:member-$member"); done
done
"$bin/weightspace" layers "$sane" "$published" --accuracy "$published/accuracy.json" \
  --out docs/pages/results/layers-published.svg --similarity docs/pages/results/layers-similarity.svg --force
"$bin/weightspace" layers "$sane" "${members[@]}" --out docs/pages/results/layers-grown.svg --force
