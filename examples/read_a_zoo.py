"""Read a zoo: how well do the weights alone tell the accuracy, beside the baseline that is hard to beat?"""

import sys
from pathlib import Path

import torch

import weightspace as ws


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    images = ws.open_images("digits")
    zoo = ws.grow("mlp:16,16", images, ws.GrowConfig(members=120, epochs=6), folder / "zoo", existing="replace")
    train, validation, test = zoo.split(0.7, 0.15, 0.15, seed=0)  # by member, never by epoch
    sane = ws.pretrain(train, training=ws.TrainConfig(steps=150), out=folder / "sane", existing="replace")
    embeddings = [sane.embed(part, "readout") for part in (train, validation, test)]
    print(ws.probe(*embeddings, target="test_accuracy"))
    print(ws.probe(*ws.represent((train, validation, test), "s(W)"), target="test_accuracy"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
