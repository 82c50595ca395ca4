#!/usr/bin/env bash
# PEFT's exact ways to add adapters, `cat` and `svd` with enough rank, are wrong by a factor if the adapters are rsLoRA's.
#
# Guessed: `add_weighted_adapter([a, b], [1, 1], combination_type="cat")` is the sum of both changes for every LoRA, as it is for plain ones
# (the new adapter's alpha is set to its rank, so that its scale is 1).
# Seen (peft 0.21.2, torch 2.13.0): the new adapter inherits use_rslora=True, so that alpha = rank means a scale of rank / sqrt(rank): two
# adapters of rank 4 become one of rank 8 that is sqrt(8) = 2.83 times their sum, by `cat` and by `svd` alike, without a warning. It is saved
# so: adapter_config.json has r 8, lora_alpha 8, use_rslora true, and whoever loads the folder has the change 2.83 times too large.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
cd "$work"
"$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import math

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))


for rooted, expected in ((False, 1.0), (True, math.sqrt(8))):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], use_rslora=rooted, init_lora_weights=False)
    model = get_peft_model(build(), config, adapter_name="a")
    model.add_adapter("b", config)
    layer = model.base_model.model[0]
    total = layer.get_delta_weight("a") + layer.get_delta_weight("b")
    for way, options in (("cat", {}), ("svd", {"svd_rank": 8})):
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], way, combination_type=way, **options)
        found = layer.get_delta_weight(way)
        times = float((found * total).sum() / total.square().sum())
        off = float((found / times - total).norm() / total.norm())
        print(f"use_rslora={rooted} {way}: {times:.4f} times the sum, apart from that off by {off:.0e}")
        assert abs(times - expected) < 1e-4 and off < 1e-4
    model.save_pretrained("saved", selected_adapters=["cat"])
    held = json.load(open("saved/cat/adapter_config.json"))
    print({name: held[name] for name in ("r", "lora_alpha", "use_rslora")})
    assert (held["r"], held["lora_alpha"], held["use_rslora"]) == (8, 8, rooted)
    again = PeftModel.from_pretrained(build(), "saved/cat").base_model.model[0].get_delta_weight("default")
    assert abs(float((again * total).sum() / total.square().sum()) - expected) < 1e-4
PYTHON
echo "as seen"
