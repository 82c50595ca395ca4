#!/usr/bin/env bash
# Weights of 3 bits that compressed-tensors packed before 0.18 are unpacked by 0.18 and later as other numbers, without a complaint.
#
# Guessed: what pack-quantized files hold is one format, which newer versions read as older ones wrote it, or refuse: the number of words in a
# row says which it is.
# Seen (compressed-tensors 0.17.1 and 0.20.1, torch 2.13.0): 0.17.1 puts ten numbers of 3 bits into a word of 32 (64 numbers: 7 words),
# 0.20.1 lays 32 numbers across 3 words (6 words). The names of the tensors and the scheme are the same, and nothing beside them tells. 0.20.1
# unpacks 7 words a row into 64 numbers, of which those of the first word are right and the others are so by chance (a quarter in all). 4 and
# 8 bits, which fill words evenly, are the same in both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 0.17.1 0.20.1; do
    python3 -m venv "$version"
    "$version/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 safetensors==0.8.0 psutil==7.2.2 "compressed-tensors==$version"
done
cat > pack.py <<'PYTHON'
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from safetensors.torch import load_file, save_file

torch.manual_seed(0)
numbers = {bits: torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (4, 64), dtype=torch.int8) for bits in (3, 4, 8)}
if sys.argv[1] == "write":
    packed = {str(bits): pack_to_int32(held, bits) for bits, held in numbers.items()}
    save_file(packed, "packed.safetensors")
else:
    packed = {str(bits): held for bits, held in load_file("packed.safetensors").items()}
for bits, held in numbers.items():
    again = unpack_from_int32(packed[str(bits)], bits, torch.Size((4, 64)))
    right = float((again == held).float().mean())
    own = pack_to_int32(held, bits).shape[1]
    print(f"{bits} bits: {packed[str(bits)].shape[1]} words a row, this version writes {own}; {right:.0%} of the numbers are right")
    assert again.shape == held.shape and (right == 1) == (sys.argv[1] == "write" or bits != 3)
    if right < 1:
        assert torch.equal(again[:, :10], held[:, :10]) and right < 0.35 and packed["3"].shape[1] == 7 and own == 6
PYTHON
for step in "0.17.1 write" "0.20.1 read"; do
    echo "$step"
    "${step% *}/bin/python" pack.py "${step#* }" 2> /dev/null
done
echo "as seen"
