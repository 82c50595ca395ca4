"""What a generator has to beat: networks made without an autoencoder."""

import torch

from weightspace.corpus.preparation import Preparation
from weightspace.generation.novelty import NoveltyReference
from weightspace.randomness import derive_generator
from weightspace.tokens.tokenizing import flatten_weights, unflatten_weights
from weightspace.weights import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.networks import initialize

SEARCH_STEPS = 12
MOST_NOISE = 4.0


def from_scratch(architecture: Architecture, count: int, seed: int) -> list[Weights]:
    """Freshly initialised networks (Kaiming, uniform)."""
    return [
        initialize(architecture.build(), "kaiming_uniform", derive_generator(seed, "scratch", number)).state_dict()
        for number in range(count)
    ]


def add_noise(
    anchors: list[Weights],
    architecture: Architecture,
    preparation: Preparation,
    *,
    level: float,
    count: int,
    seed: int,
) -> list[Weights]:
    """Anchors with Gaussian noise on their weights.

    Args:
        anchors: drawn from with replacement, as the sampler does.
        architecture: of all of them.
        preparation: gives the standard deviation of every tensor.
        level: standard deviation of the noise, as a share of the tensor's.
        count: how many networks.
        seed: decides anchors and noise.
    """
    frame = preparation.frame_of(architecture)
    sizes = torch.tensor([torch.Size(shape).numel() for shape in frame.layout.shapes.values()])
    scale = torch.repeat_interleave(torch.tensor(frame.statistics.std), sizes)
    generator = derive_generator(seed, "anchor noise")
    noisy = []
    for _ in range(count):
        anchor = anchors[int(torch.randint(len(anchors), (), generator=generator))]
        renamed = frame.rename(anchor, architecture.shapes)
        flat = flatten_weights(renamed, frame.layout)
        flat = flat + level * scale * torch.randn(flat.shape, generator=generator)
        made = unflatten_weights(flat, frame.layout, {name: renamed[name] for name in frame.layout.carried})
        noisy.append({own: made[name] for name, own in zip(frame.names, architecture.shapes, strict=True)})
    return noisy


def noise_of_novelty(
    anchors: list[Weights],
    architecture: Architecture,
    preparation: Preparation,
    reference: NoveltyReference,
    *,
    novelty: float,
    count: int,
    seed: int,
) -> list[Weights]:
    """Anchors with as much noise as gives a median novelty in weights, found by bisection."""
    low, high = 0.0, MOST_NOISE
    for _ in range(SEARCH_STEPS):
        level = (low + high) / 2
        networks = add_noise(anchors, architecture, preparation, level=level, count=count, seed=seed)
        distance, _ = reference.distances(networks, architecture)
        low, high = (level, high) if float(distance.median()) < novelty else (low, level)
    return networks
