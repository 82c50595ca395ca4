#!/usr/bin/env bash
# The paper's tables on the paper's kind of population, and what more members bring: `docs/tables/seeds-*.json` and the
# pages drawn from them.
#
#   benchmarks/seeds.sh [TABLE ...]      population, reading, writing, views, halo, scaling, limits, ensembles; all if none
#                                        is named
#
# Grows the zoos that are missing (half an hour to an hour each, on two cores), then takes three hours of a core for each
# zoo. What is there already is kept, row by row: remove runs/seeds to train again, docs/tables/seeds-*.json to measure
# again. WEIGHTSPACE_SEEDS: zoos, all three if it is not set. WEIGHTSPACE_ZOOS, WEIGHTSPACE_DATA: see zoos.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
read -ra names <<<"${WEIGHTSPACE_SEEDS:-mnist-cnn-s-seed usps-cnn-s-seed cifar10-cnn-l-seed}"
benchmarks/zoos.sh "${names[@]}"
tables=() curves=()
for name in "${@:-population reading writing views halo scaling limits ensembles}"; do
  for table in $name; do
    case $table in scaling | limits | ensembles) curves+=("$table") ;; *) tables+=("$table") ;; esac
  done
done
where=(--zoos "$zoos" --models runs/seeds --out docs/tables --only "${names[@]}")
((${#tables[@]} == 0)) || .venv/bin/python benchmarks/seeds.py "${tables[@]}" "${where[@]}"
((${#curves[@]} == 0)) || .venv/bin/python benchmarks/scaling.py "${curves[@]}" "${where[@]}"
.venv/bin/python docs/update_seeds.py
