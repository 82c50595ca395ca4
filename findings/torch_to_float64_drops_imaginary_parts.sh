#!/usr/bin/env bash
# `module.to(torch.float64)` makes real numbers of complex parameters; `module.double()` leaves them in single precision.
#
# Guessed: both mean "in double precision", so that a spectral layer's complex64 weights become complex128 either way.
# Seen (torch 2.13.0): `.to(torch.float64)` casts complex parameters to float64, their imaginary parts are gone, and all that is said is
# one UserWarning; the module then runs, or fails far away on types. `.double()` does not touch them, so that a module "in double
# precision" computes with complex64 weights. `.to(torch.complex128)` makes the real parameters complex as well. Whoever casts other
# people's checkpoints (neural operators, spectral norms of signals) has to cast tensor by tensor.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch import nn


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(2, 2)
        self.waves = nn.Parameter(torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64))


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    cast = Spectral().to(torch.float64)
print(".to(torch.float64):", cast.waves.dtype, cast.waves.tolist(), "-", said[0].message if said else "nothing said")
assert cast.waves.dtype == torch.float64 and cast.waves.tolist() == [1.0, 3.0]
doubled = Spectral().double()
print(".double():", doubled.waves.dtype, doubled.plain.weight.dtype)
assert doubled.waves.dtype == torch.complex64 and doubled.plain.weight.dtype == torch.float64
wide = Spectral().to(torch.complex128)
print(".to(torch.complex128):", wide.waves.dtype, wide.plain.weight.dtype)
assert wide.plain.weight.dtype == torch.complex128
PYTHON
