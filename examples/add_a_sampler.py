"""Add a sampler of your own: it is fitted to the latents of anchors, and draws latents of new networks."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

import weightspace as ws
from weightspace.generation.samplers.sampler import Density, Samples


@dataclass(frozen=True)
class Jitter:
    """A random anchor with uniform noise."""

    width: float = 0.1
    keeps_anchor: bool = field(default=True, init=False)

    def fit(self, latents: torch.Tensor, layers: torch.Tensor | None = None) -> Density:
        def sample(count: int, generator: torch.Generator) -> Samples:
            chosen = torch.randint(len(latents), (count,), generator=generator)
            noise = 2 * torch.rand(count, *latents.shape[1:], generator=generator) - 1
            return Samples(latents[chosen] + self.width * noise, chosen[:, None].expand(-1, latents.shape[1]))

        return Density(sample)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    config = ws.GrowConfig(members=20, epochs=4, activation="tanh")
    zoo = ws.grow("mlp:16", ws.open_images("digits"), config, folder / "few", existing="replace")
    sane = ws.pretrain(zoo, training=ws.TrainConfig(steps=60), out=folder / "small", existing="replace")
    anchors = zoo.best(5, by="validation_accuracy")
    for weights in ws.generate(sane, anchors, 3, sampling=Jitter(0.2), seed=0):
        print(f"{len(weights)} tensors: {weights.coverage}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples"))
