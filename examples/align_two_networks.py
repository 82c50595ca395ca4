"""Align two networks: reorder the units of one so that it lies as near as possible to another one."""

import sys
from pathlib import Path

import torch

import weightspace as ws


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    images = ws.open_images("digits")
    config = ws.GrowConfig(members=2, epochs=10, activation="relu", learning_rate="3e-3", seed=0)
    zoo = ws.grow("mlp:256", images, config, folder / "two", existing="replace").last()
    module = zoo.architectures["mlp-64-256-10-relu"].build()
    first, second = zoo.weights(0), zoo.weights(1)

    symmetry = ws.symmetry.trace_symmetry(module, images.train.inputs[:2])
    permutations = ws.symmetry.match_weights(second, first, symmetry)
    aligned = ws.symmetry.permute(second, symmetry, permutations)

    def accuracy(weights: dict[str, torch.Tensor]) -> float:
        module.load_state_dict(weights)
        return float((module(images.test.inputs).argmax(1) == images.test.labels).float().mean())

    def halfway(other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: (tensor + other[name]) / 2 for name, tensor in first.items()}

    print(
        f"two networks: {accuracy(first):.3f} and {accuracy(second):.3f}; aligned, the second: {accuracy(aligned):.3f}"
    )
    print(
        f"halfway between them: {accuracy(halfway(second)):.3f} as they are, {accuracy(halfway(aligned)):.3f} aligned"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
