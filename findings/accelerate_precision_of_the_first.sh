#!/usr/bin/env bash
# In one process, every `accelerate.Accelerator` has the precision of the first one.
#
# Guessed: an Accelerator is an object with a precision of its own, so that one part of a program may train in bf16 and the next
# in 32 bits (the default).
# Seen (accelerate 1.15.0, torch 2.13.0): the state is shared by all of a process. A second `Accelerator()` that names no
# precision computes in bf16 without a word; one that asks for 32 bits is refused ("has already been initialized"); and `free_memory`
# of the first does not help. A library that makes an Accelerator inside a function therefore changes, or breaks, what its caller does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from accelerate import Accelerator


def precision(accelerator):
    """What a matrix product gives under its autocast."""
    with accelerator.autocast():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


first = Accelerator(cpu=True, mixed_precision="bf16")
assert precision(first) == torch.bfloat16
silent = Accelerator(cpu=True)
print("named none:", silent.mixed_precision, precision(silent))
assert silent.mixed_precision == "bf16" and precision(silent) == torch.bfloat16
first.free_memory()
try:
    Accelerator(cpu=True, mixed_precision="no")
except ValueError as refusal:
    print("asked for 32 bits:", str(refusal)[:70])
    assert "already been initialized" in str(refusal)
else:
    raise SystemExit("a second precision is accepted now")
PYTHON
