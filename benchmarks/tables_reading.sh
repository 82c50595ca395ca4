#!/usr/bin/env bash
# All tables of reading networks, on the real zoos: `docs/tables/reading-*.json` and the pages drawn from them.
#
#   benchmarks/tables_reading.sh [TABLE ...]      properties, joined, bounds, unbounded, across, few, epochs,
#                                                 control, inputs, stress, forecast;
#                                                 all if none is named
#
# Grows the zoos that are missing (two hours), trains a SANE for every zoo and fold (an hour of one core), probes by lines
# and by trees (two hours). What is there already is kept: remove runs/reading to train again, docs/tables/reading-*.json to probe again.
# WEIGHTSPACE_ZOOS, WEIGHTSPACE_DATA: see zoos.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
zoos=${WEIGHTSPACE_ZOOS:-${XDG_CACHE_HOME:-$HOME/.cache}/weightspace/zoos}
benchmarks/zoos.sh
# A zoo that others trained, in their layout.
[[ -d $zoos/mnist-raytune ]] || .venv/bin/weightspace import ../shared/zoos/mnist-cnn-s-raytune --out "$zoos/mnist-raytune"
reading=() asking=()
for table in "${@:-properties joined bounds unbounded across few epochs control inputs stress forecast}"; do
  for name in $table; do
    case $name in inputs | stress | forecast) asking+=("$name") ;; *) reading+=("$name") ;; esac
  done
done
where=(--zoos "$zoos" --models runs/reading --out docs/tables)
((${#reading[@]} == 0)) || .venv/bin/python benchmarks/tables_reading.py "${where[@]}" "${reading[@]}"
((${#asking[@]} == 0)) || .venv/bin/python benchmarks/tables_asking.py "${where[@]}" \
  --data "${WEIGHTSPACE_DATA:-../shared/data}" "${asking[@]}"
.venv/bin/python docs/update_reading.py
