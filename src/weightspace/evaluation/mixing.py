"""Networks made of networks, without a model: fresh, noisy, shrunk, between others, their averages and components.

All mix weights in the space where every tensor counts alike, in canonical form.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor

from weightspace.generation.novelty import StandardizedSpace
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.randomness import derive_generator
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.networks import initialize

SEARCH_STEPS, MOST_NOISE = 10, 4.0


def from_scratch(architecture: Architecture, count: int, seed: int) -> list[Weights]:
    """Freshly initialised networks (Kaiming, uniform)."""
    return [
        initialize(architecture.build(), "kaiming_uniform", derive_generator(seed, "scratch", number)).state_dict()
        for number in range(count)
    ]


class Noisy(NamedTuple):
    """Networks with noise, and which anchor each one is of."""

    networks: list[Weights]
    anchors: list[int]


def add_noise(anchors: list[Weights], space: StandardizedSpace, *, level: float, count: int, seed: int) -> Noisy:
    """Anchors, drawn with replacement, with Gaussian noise on their weights.

    `level` is the standard deviation of the noise, as a share of that of each tensor.
    """
    generator = derive_generator(seed, "anchor noise")
    noisy = Noisy([], [])
    for _ in range(count):
        place = int(torch.randint(len(anchors), (), generator=generator))
        flat = space.flatten(anchors[place])
        flat = flat + level * torch.randn(flat.shape, generator=generator)
        noisy.networks.append(space.restore(flat, anchors[place]))
        noisy.anchors.append(place)
    return noisy


def shrink(anchors: list[Weights], fresh: list[Weights], space: StandardizedSpace, *, share: float, seed: int) -> Noisy:
    """As many as there are fresh networks: anchors, drawn with replacement, a share of the way to a fresh one each."""
    places = torch.randint(len(anchors), (len(fresh),), generator=derive_generator(seed, "shrunk anchors")).tolist()
    starts = [anchors[place] for place in places]
    ways = [(space.flatten(start), space.flatten(end)) for start, end in zip(starts, fresh, strict=True)]
    between = [space.restore(torch.lerp(*way, share), start) for way, start in zip(ways, starts, strict=True)]
    return Noisy(between, places)


def noise_of_novelty(measure: Callable[[float], float], novelty: float, most: float = MOST_NOISE) -> float:
    """The level of noise, at most so much, that gives a novelty, found by bisection.

    Args:
        measure: the novelty that a level gives to the networks which are kept; it grows with the level.
        novelty: what it should be.
    """
    low, high = 0.0, most
    for _ in range(SEARCH_STEPS):
        level = (low + high) / 2
        low, high = (level, high) if measure(level) < novelty else (low, level)
    return level


def interpolate(anchors: list[Weights], space: StandardizedSpace, *, count: int, seed: int) -> list[Weights]:
    """Convex combinations of the weights of two anchors in random shares."""
    flats = torch.stack([space.flatten(anchor) for anchor in anchors])
    density = Interpolation().fit(flats[:, None])
    samples = density.sample(count, derive_generator(seed, "interpolation")).latents[:, 0]
    return [space.restore(flat, anchors[0]) for flat in samples]


def average(anchors: list[Weights], space: StandardizedSpace, *, count: int, seed: int) -> list[Weights]:
    """Averages of the weights of a random half of the anchors (at least two, where there are two)."""
    generator = derive_generator(seed, "average")
    size = min(len(anchors), max(2, len(anchors) // 2))
    flats = torch.stack([space.flatten(anchor) for anchor in anchors])
    chosen = [torch.randperm(len(anchors), generator=generator)[:size] for _ in range(count)]
    return [space.restore(flats[rows].mean(0), anchors[int(rows[0])]) for rows in chosen]


class WeightComponents:
    """Principal components of aligned weights: a linear autoencoder to sample in.

    Fitted on all training checkpoints, with as many components (`size`) as asked for where there are enough.
    """

    def __init__(self, training: Float[Tensor, "networks size"], components: int, space: StandardizedSpace) -> None:
        self._pca = PCA(min(components, *training.shape), random_state=0).fit(training.numpy())
        self._space = space
        self.size: int = int(self._pca.n_components_)

    def codes(self, anchors: list[Weights]) -> Float[Tensor, "anchors components"]:
        """The anchors' components."""
        flats = torch.stack([self._space.flatten(anchor) for anchor in anchors])
        return torch.from_numpy(self._pca.transform(flats.numpy()))

    def sample_gaussian(self, anchors: list[Weights], *, count: int, seed: int) -> list[Weights]:
        """Networks from a Gaussian with the anchors' mean and spread in every component."""
        codes = self.codes(anchors)
        noise = torch.randn(count, codes.shape[1], generator=derive_generator(seed, "components"))
        spread = codes.std(0, correction=0)
        return self._restore(codes.mean(0) + spread * noise, anchors)

    def sample_density(
        self, anchors: list[Weights], *, bandwidths: Sequence[float], count: int, seed: int
    ) -> list[Weights]:
        """Networks from kernel densities, as many with each bandwidth, so that selection can choose between them."""
        codes = self.codes(anchors)[:, None]
        drawn = []
        for number, bandwidth in enumerate(bandwidths):
            share = len(range(number, count, len(bandwidths)))
            if share:
                density = KernelDensity(bandwidth=bandwidth).fit(codes)
                drawn.append(density.sample(share, derive_generator(seed, "components", number)).latents[:, 0])
        return self._restore(torch.cat(drawn), anchors)

    def _restore(self, codes: Float[Tensor, "networks components"], anchors: list[Weights]) -> list[Weights]:
        flats = torch.from_numpy(self._pca.inverse_transform(codes.numpy()))
        return [self._space.restore(flat.float(), anchors[0]) for flat in flats]
