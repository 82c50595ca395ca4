#!/usr/bin/env bash
# An AdaLoRA file has three ranks, and its change is scaled by the one that is neither in its tensors nor called r.
#
# Guessed: the change is alpha / r * B diag(E) A, where r is the rank of the stored factors, or at least the configuration's "r"; and if
# loading says that the pattern of ranks was ignored, it was ignored.
# Seen (peft 0.21.2, torch 2.13.0): a module that began with init_r = 6 and kept 3 directions is stored with factors of rank 3, the
# configuration says "r": 8 (LoRA's default, which nothing uses), and the loaded change is alpha / (init_r + 1e-5) * B diag(E) A: half of
# what the stored rank would give. Loading warns that the keys of rank_pattern matched no module and were ignored, while it is by them that
# the factors get their rank. Saving a module that kept no direction warns of shards of DeepSpeed or FSDP that were not gathered.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
cd "$work"
"$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import warnings

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))


model = get_peft_model(build(), AdaLoraConfig(init_r=6, target_r=3, total_step=10, lora_alpha=4, target_modules=["0", "2"]))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.normal_()
keep = [True, False, True, True, False, False]
model.peft_config["default"].rank_pattern = {"0.lora_E": keep, "2.lora_E": [False] * 6}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model.save_pretrained("saved")
print("saving:", [str(one.message).split(".")[0][:70] for one in said])
assert any("invalid shape" in str(one.message) for one in said)
held, stored = json.load(open("saved/adapter_config.json")), load_file("saved/adapter_model.safetensors")
print({name: held[name] for name in ("r", "init_r", "lora_alpha")}, {name: tuple(one.shape) for name, one in stored.items()})
assert (held["r"], held["init_r"]) == (8, 6) and stored["base_model.model.0.lora_A"].shape == (3, 16)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    again = PeftModel.from_pretrained(build(), "saved").base_model.model[0]
print("loading:", [str(one.message)[:70] for one in said])
assert any("were ignored" in str(one.message) for one in said)
down, values, up = (stored[f"base_model.model.0.lora_{part}"] for part in "AEB")
change, plain = again.get_delta_weight("default"), up @ (values * down)
scale = float((change * plain).sum() / plain.square().sum())
print(f"change = {scale:.6f} * B diag(E) A; alpha / stored rank {4 / 3:.6f}, alpha / r {4 / 8:.6f}, alpha / init_r {4 / 6:.6f}")
assert float((change - scale * plain).norm() / change.norm()) < 1e-5 and abs(scale - 4 / (6 + 1e-5)) < 1e-5
PYTHON
echo "as seen"
