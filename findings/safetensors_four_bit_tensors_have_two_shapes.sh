#!/usr/bin/env bash
# A tensor of four-bit floats has one shape in a safetensors file and another in memory, and no part of it can be read by slicing.
#
# Guessed: what `get_slice(name).get_shape()` says is the shape of `get_tensor(name)`, and whatever can be read whole can be read in part,
# as torch's own `tensor[0:2]` can.
# Seen (safetensors 0.8.0, torch 2.13.0): a tensor of torch.float4_e2m1fn_x2 of shape [4, 8], two numbers a byte, is written as F4 of shape
# [4, 16]: the file counts numbers, torch counts bytes. Read whole it comes back as [4, 8], equal byte for byte, so that the two answers of
# one open file differ. `get_slice(name)[0:2]` raises "shape '[4, 16]' is invalid for input of size 32": the file's shape is asked of torch's
# tensor. A tensor of torch.float8_e4m3fn in the same file can be sliced.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from safetensors import safe_open
from safetensors.torch import save_file

pairs = torch.arange(32, dtype=torch.uint8).reshape(4, 8).view(torch.float4_e2m1fn_x2)
save_file({"four": pairs, "eight": torch.ones(4, 8).to(torch.float8_e4m3fn)}, "net.safetensors")
with safe_open("net.safetensors", "pt") as file:
    said, whole = file.get_slice("four").get_shape(), file.get_tensor("four")
    print(f"{file.get_slice('four').get_dtype()} {said} in the file, {whole.dtype} {list(whole.shape)} in memory")
    assert said == [4, 16] and whole.shape == (4, 8) and torch.equal(whole.view(torch.uint8), pairs.view(torch.uint8))
    assert pairs[0:2].shape == (2, 8) and file.get_slice("eight")[0:2].shape == (2, 8)
    try:
        file.get_slice("four")[0:2]
        raise SystemExit("it can be sliced now")
    except RuntimeError as error:
        print("sliced:", error)
        assert "invalid for input of size 32" in str(error)
PYTHON
echo "as seen"
