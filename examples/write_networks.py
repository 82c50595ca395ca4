"""Write networks: sample unseen ones around the best of a zoo, and see what they can do without training."""

import sys
from pathlib import Path

import torch

import weightspace as ws


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    images = ws.open_images("digits")
    config = ws.GrowConfig(members=60, epochs=6, activation="tanh")
    zoo = ws.grow("mlp:16,16", images, config, folder / "tanh", existing="replace")
    train = zoo.split(0.7, 0.15, 0.15, seed=0)[0]
    sane = ws.pretrain(
        train,
        ws.SANEConfig(linear_path=True),
        ws.TrainConfig(steps=200, contrastive_weight=0.0, statistics_weight=0.0, noise=0.0),
        out=folder / "writer",
        existing="replace",
    )
    anchors = train.best(10, by="validation_accuracy")
    module = zoo.architectures["mlp-64-16-16-10-tanh"].build()
    networks = ws.generate(sane, anchors, 5, images=images, select=ws.SelectConfig(draws=50), seed=0)
    for weights in networks:  # the best five of fifty, on validation images
        module.load_state_dict(weights)  # strict: complete, or an error
        correct = module(images.test.inputs).argmax(1) == images.test.labels
        print(f"a network nobody trained: test accuracy {correct.float().mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
