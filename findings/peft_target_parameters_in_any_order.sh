#!/usr/bin/env bash
# The order of `target_parameters` in PEFT's adapter_config.json, a list, is neither that of the call nor that in which they are wrapped.
#
# Guessed: two parameters of one module are wrapped in the order of the list (`experts.base_layer.lora_A` is the first one's pair, as the
# keys name no parameter), and the configuration has the list as it was given, so that it tells which pair is which parameter's.
# Seen (peft 0.21.2, transformers 5.23.0, torch 2.13.0): the list is saved in an order that changes with Python's hash seed, for one and the
# same call; keys and shapes of the file do not change with it, nor with the order that was asked for: the parameter that the module defines
# first lies innermost. Which pair belongs to which parameter is in no file; who reads the list in order takes the pair of the one for
# that of the other in every second process.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
cd "$work"
cat > save.py <<'PYTHON'
import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64, "num_local_experts": 4}
base = MixtralForCausalLM(MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
model = get_peft_model(base, LoraConfig(r=2, target_modules=[], target_parameters=sys.argv[2:]))
model.save_pretrained(sys.argv[1])
config = json.load(open(f"{sys.argv[1]}/adapter_config.json"))
shapes = {name.split("mlp.")[1]: list(tensor.shape) for name, tensor in load_file(f"{sys.argv[1]}/adapter_model.safetensors").items()}
print(json.dumps([config["target_parameters"], shapes]))
PYTHON
for seed in 0 1 2 3; do
  PYTHONHASHSEED=$seed "$work/venv/bin/python" save.py "given-$seed" mlp.experts.gate_up_proj mlp.experts.down_proj 2> /dev/null
  PYTHONHASHSEED=$seed "$work/venv/bin/python" save.py "turned-$seed" mlp.experts.down_proj mlp.experts.gate_up_proj 2> /dev/null
done | tee saved.jsonl
"$work/venv/bin/python" - <<'PYTHON'
import json

saved = [json.loads(line) for line in open("saved.jsonl")]
orders = {tuple(order) for order, _ in saved[0::2]}
assert len(saved) == 8 and len(orders) == 2, f"one call, one order: {orders}"
assert all(shapes == saved[0][1] for _, shapes in saved), "the pairs move with the list now"
print("one call, two lists, one file:", sorted(orders))
PYTHON
