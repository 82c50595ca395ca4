"""Start a training from generated weights: fill a module of yours, then train as you always do."""

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import weightspace as ws
from weightspace.images import ImageSet


def accuracies(module: torch.nn.Module, images: ImageSet, steps: int = 120) -> list[float]:
    """Test accuracy before training, and after every third of it."""
    optimizer, found = torch.optim.Adam(module.parameters(), lr=1e-3), []
    for step in range(steps + 1):
        if step % (steps // 3) == 0:
            found.append(float((module(images.test.inputs).argmax(1) == images.test.labels).float().mean()))
        batch = torch.randperm(len(images.train.labels), generator=torch.Generator().manual_seed(step))[:64]
        optimizer.zero_grad()
        cross_entropy(module(images.train.inputs[batch]), images.train.labels[batch]).backward()
        optimizer.step()
    return found


def main(folder: Path) -> None:
    images = ws.open_images("digits")
    growing = ws.GrowConfig(members=40, epochs=6, activation="relu")
    training = ws.TrainConfig(steps=200, contrastive_weight=0.0, statistics_weight=0.0)
    zoo = ws.grow("mlp:16,16", images, growing, folder / "relu", existing="replace")
    sane = ws.pretrain(zoo, ws.SANEConfig(linear_path=True), training, out=folder / "starter", existing="replace")
    model, scratch = (zoo.architectures["mlp-64-16-16-10-relu"].build(seed=1) for _ in range(2))  # any module of yours
    anchors = zoo.best(5, by="validation_accuracy")
    print(ws.initialize(model, sane, anchors=anchors, data=images.train.inputs[:500]))
    for name, module in (("generated", model), ("from scratch", scratch)):
        print(f"{name}: test accuracy after 0, 40, 80, 120 steps: {[round(a, 2) for a in accuracies(module, images)]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
