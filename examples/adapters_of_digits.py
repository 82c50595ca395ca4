"""Adapters, as PEFT writes them: what does each change, and is one of them another in other factors?"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import weightspace as ws
from weightspace.analysis.inspecting.studying import study_folder


def train(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.Adam([number for number in module.parameters() if number.requires_grad], lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs.flatten(1)), labels).backward()
        optimizer.step()


def main(folder: Path) -> None:
    (images, labels), place = ws.open_images("digits").train, folder / "adapters"
    torch.manual_seed(0)
    train(network := nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), images, labels)
    save_file(network.state_dict(), folder / "base.safetensors")
    for name, seen in (("upside-down", images.flip(-2)), ("negative", -images)):
        train(model := get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"])), seen, labels)
        model.save_pretrained(str(place / name))
        network = model.unload()
    factors, mixed = load_file(place / "negative" / "adapter_model.safetensors"), torch.eye(4) + 0.3 * torch.randn(4, 4)
    factors = {name: mixed @ own if "lora_A" in name else own @ mixed.inverse() for name, own in factors.items()}
    save_file(factors, place / "other-factors.safetensors", {"lora_adapter_metadata": '{"lora_alpha": 8}'})
    print(*(f"{pair.first} and {pair.second}: {pair.told}" for pair in study_folder(str(folder)).adapters.alike))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
