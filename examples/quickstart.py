"""weightspace in one page: grow a zoo, pre-train SANE, read networks, write networks (under a minute)."""

import sys
from pathlib import Path

import torch

import weightspace as ws


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    images = ws.open_images("digits")
    zoo = ws.grow("mlp:16,16", images, ws.GrowConfig(members=60, epochs=6, seed=0), folder / "zoo")
    train, validation, test = zoo.split(0.7, 0.15, 0.15, seed=0)  # by member, never by epoch

    sane = ws.pretrain(train, ws.SANEConfig(), ws.TrainConfig(steps=100, seed=0), out=folder / "sane")
    embeddings = [sane.embed(part, "readout") for part in (train, validation, test)]
    print(ws.probe(*embeddings, target="test_accuracy"))
    statistics = ws.represent((train, validation, test), "s(W)")
    print(ws.probe(*statistics, target="test_accuracy"))

    anchors = train.where(activation="tanh").best(10, by="validation_accuracy")
    module = anchors.architectures["mlp-64-16-16-10-tanh"].build()
    for weights in ws.generate(sane, anchors=anchors, count=3, seed=0):
        module.load_state_dict(weights)  # strict: complete, or an error
        correct = module(images.test.inputs).argmax(1) == images.test.labels
        print(f"a network nobody trained: test accuracy {correct.float().mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))
