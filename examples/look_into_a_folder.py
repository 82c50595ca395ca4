"""Look into a folder: which checkpoints are copies, which is made from which, and is one broken?"""

import sys
from pathlib import Path

import torch
from torch import nn

import weightspace as ws
from weightspace.analysis.inspecting.studying import study_folder


def train(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(steps):
        batch = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:64]
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[batch].flatten(1)), labels[batch]).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    images = ws.open_images("digits").train
    (folder := folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    first, second = (nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in "ab")
    torch.save(train(first, *images, 200), folder / "base.pt")
    torch.save(first.state_dict(), folder / "base_copy.pt")
    torch.save(train(first, *images, 30), folder / "base_finetuned.pt")
    torch.save(train(second, *images, 200), folder / "other_seed.pt")
    torch.save({**second.state_dict(), "2.bias": torch.full((10,), torch.nan)}, folder / "diverged.pt")
    study = study_folder(str(folder))
    print(study.summary(), *(f"{one.path}: {one.remarks()}" for one in study.inspection.checkpoints if one.remarks()))
    for pair in [pair for relations in study.related.values() for tree in relations.trees for pair in tree]:
        print(f"{pair.second} is made from {pair.first} or the other way round: they differ by {pair.distance:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
