#!/usr/bin/env bash
# All tables of writing networks, on the real zoos: `docs/tables/writing-*.json` and the page drawn from them.
#
#   benchmarks/tables_writing.sh [TABLE ...]      same, samplers, anchors, transfer, architectures, fidelity, resnet; all
#                                                 if none is named
#
# Grows the zoos that are missing (two hours), trains and distills a SANE for every zoo (ten minutes of a core each), then
# fine-tunes (half an hour of a core for each zoo of `same`). What is there already is kept: remove runs/writing to train
# again, docs/tables/writing-*.json to evaluate again. WEIGHTSPACE_ZOOS, WEIGHTSPACE_DATA: see zoos.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
benchmarks/zoos.sh
.venv/bin/python benchmarks/tables_writing.py --zoos "$zoos" --models runs/writing --out docs/tables "$@"
.venv/bin/python docs/update_writing.py
