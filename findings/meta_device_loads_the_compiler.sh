#!/usr/bin/env bash
# A module that is planned on the `meta` device, which computes nothing, loads torch's compiler if its constructor draws numbers.
#
# Guessed: under `torch.device("meta")` an initialisation is skipped or costs nothing, whichever of `torch.nn.init` it is.
# Seen (torch 2.13.0): `nn.Linear`, which draws with `uniform_`, loads nothing; `nn.init.normal_`, and multiplying a tensor on
# `meta` inside the block, run through `torch._refs`, whose wrapper imports `torch._dynamo`: hundreds of modules and about a second,
# once a process. Whoever plans networks on `meta` to compare shapes before taking memory (as loaders of checkpoints do) pays it
# at every start of a command, and avoids it by leaving initialisation out where the parameters are on `meta`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
for what in "nn.Linear(8, 8)" "nn.init.normal_(nn.Linear(8, 8).weight, std=0.02)"; do
  "$work/venv/bin/python" - "$what" <<'PYTHON'
import sys
import time

import torch
from torch import nn

began = time.perf_counter()
with torch.device("meta"):
    eval(sys.argv[1])
loaded = [name for name in sys.modules if name.startswith("torch._dynamo")]
print(f"{sys.argv[1]}: {len(loaded)} modules of torch._dynamo, {time.perf_counter() - began:.2f} s")
assert bool(loaded) == ("normal_" in sys.argv[1])
PYTHON
done
