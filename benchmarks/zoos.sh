#!/usr/bin/env bash
# Grow the zoos that benchmarks and experiments read; each takes up to about 20 minutes on two cores.
#
#   benchmarks/zoos.sh [NAME ...]       all of the varied ones if none is named; what is there already is skipped
#   nohup benchmarks/zoos.sh mnist-cnn-s-seed usps-cnn-s-seed cifar10-cnn-l-seed &
#                                       the paper's kind: members that differ in their seed alone; half an hour to an hour
#                                       each, in the background; begun again, they go on where they stopped
#
# WEIGHTSPACE_ZOOS  where they go (default: ~/.cache/weightspace/zoos)
# WEIGHTSPACE_DATA  where the image sets are (default: ../shared/data; benchmarks/data/make_npz.py makes them)
# WEIGHTSPACE_MEMBERS  members of each zoo instead of the recipe's number (with a GPU: 1000)
#
# Every recipe uses the first images of its training set only, a fifth of them for validation: the counts are in
# the zoo's zoo.json. Interrupted growing goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
data=${WEIGHTSPACE_DATA:-../shared/data}
elsewhere=../shared/zoos
bin=${WEIGHTSPACE_BIN:-.venv/bin}
wanted=" ${*:-mnist-cnn-s usps-cnn-s scene_digits-cnn-s cifar10-cnn-s cifar10-cnn-l cifar10-resnet18w8} "
varied=(lr=log:3e-4..1e-2 wd=log:1e-6..1e-3 activation=tanh,relu,gelu,sigmoid
  init=kaiming_uniform,kaiming_normal,xavier_uniform,xavier_normal,uniform,normal)
# One recipe, the paper's: only the seed differs. A selection of epochs keeps a thousand members in 90 MB.
seeds=(--learning-rate 1e-3 --weight-decay 0 --activation tanh --initialization kaiming_uniform
  --keep 0,1,2,3,5,10,15,20,25)
mkdir -p "$zoos"

# make NAME NETWORK IMAGES MEMBERS EPOCHS OPTION ...
make_zoo() {
  local name=$1 network=$2 images=$3 members=${WEIGHTSPACE_MEMBERS:-$4} epochs=$5
  shift 5
  [[ $wanted == *" $name "* ]] || return 0
  if [[ -d $zoos/$name || -d $elsewhere/$name ]]; then
    echo "$name: there already"
    return 0
  fi
  local resume=()
  [[ -f $zoos/.$name.partial/growing.json ]] && resume=(--resume)
  "$bin/weightspace" grow "$network" --data "$images" --members "$members" --epochs "$epochs" --seed 0 \
    --out "$zoos/$name" "${resume[@]}" "$@"
}

# The colour sets are packed as sheets of encoded images; the training images went through JPEG once.
unpacked() {
  local images=$zoos/images/$1.npz
  [[ -f $images ]] || "$bin/python" benchmarks/data/make_npz.py packed "$data/$1_packed.npz" "$images" >&2
  echo "$images"
}

small=(--train-images 6250 --test-images 2000 --vary "${varied[@]}")
make_zoo mnist-cnn-s cnn-s "$data/mnist.npz" 100 8 "${small[@]}"
make_zoo usps-cnn-s cnn-s "$data/usps.npz" 100 8 "${small[@]}"
make_zoo scene_digits-cnn-s cnn-s "$data/scene_digits_28.npz" 100 8 "${small[@]}"
if [[ $wanted == *cifar10-cnn-[sl]\ * || $wanted == *cifar10-resnet* ]]; then
  cifar10=$(unpacked cifar10)
  make_zoo cifar10-cnn-s cnn-s "$cifar10" 100 8 "${small[@]}"
  make_zoo cifar10-cnn-l cnn-l "$cifar10" 100 8 --train-images 5000 --test-images 1000 --vary "${varied[@]}"
  make_zoo cifar10-resnet18w8 resnet18:8 "$cifar10" 40 6 --size 16 --train-images 5000 --test-images 1000 \
    --vary lr=log:1e-3..1e-2 wd=log:1e-5..1e-3
fi
# Seed zoos only if they are named. 3,000 (usps: 3,000, cifar10: 2,000) training images, a fifth more for validation.
make_zoo mnist-cnn-s-seed cnn-s "$data/mnist.npz" 1000 25 --train-images 3750 --test-images 2000 "${seeds[@]}"
make_zoo usps-cnn-s-seed cnn-s "$data/usps.npz" 1000 25 --train-images 3750 --test-images 2000 "${seeds[@]}"
if [[ $wanted == *cifar10-cnn-l-seed* ]]; then
  make_zoo cifar10-cnn-l-seed cnn-l "$(unpacked cifar10)" 300 25 --train-images 2500 --test-images 1000 "${seeds[@]}"
fi
