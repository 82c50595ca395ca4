"""Interpolation between neighbouring anchors."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.sampler import Density, Samples, blended

SMALLEST_ANGLE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """A random anchor, and some of those nearest to it, in random shares.

    Attributes:
        mixed: how many anchors a sample is made of.
        neighbors: the others are drawn from so many that are nearest to the first; 0: from all.
        along: `line`: convex combinations, with shares from a flat Dirichlet distribution; `sphere`: spherical
            interpolation, token by token, towards one after the other.
        bandwidth: standard deviation of Gaussian noise, as a share of the anchors' spread.
    """

    mixed: int = 2
    neighbors: int = 0
    along: Literal["line", "sphere"] = "line"
    bandwidth: float = 0.0
    keeps_anchor: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the number of mixed anchors", self.mixed, 1)
        require_between("the number of neighbors", self.neighbors, 0)
        require_between("the bandwidth", self.bandwidth, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """Samples lie between anchors; with a single anchor they are that anchor."""
        mixed = min(self.mixed, len(latents))

        def sample(count: int, generator: torch.Generator) -> Samples:
            chosen = torch.stack([self._choose(latents, mixed, generator) for _ in range(count)])
            # Exponential variables over their sum: a flat Dirichlet distribution.
            shares = -torch.rand(count, mixed, generator=generator).clamp_min(1e-12).log()
            shares = shares / shares.sum(1, keepdim=True)
            if self.along == "line":
                between = torch.einsum("sm,smtl->stl", shares, latents[chosen])
            else:
                between = _spherical(latents[chosen], shares)
            if self.bandwidth:
                noise = torch.randn(between.shape, generator=generator)
                between = between + self.bandwidth * latents.std(0, correction=0) * noise
            return blended(between)

        return Density(sample)

    def _choose(self, anchors: Tensor, mixed: int, generator: torch.Generator) -> Int[Tensor, "mixed"]:
        first = int(torch.randint(len(anchors), (), generator=generator))
        distances = (anchors - anchors[first]).flatten(1).norm(dim=1)
        distances[first] = -1
        near = distances.argsort()[1 : self.neighbors + 1 if self.neighbors else None]
        others = near[torch.randperm(len(near), generator=generator)[: mixed - 1]]
        return torch.cat([torch.tensor([first]), others, torch.full((mixed - 1 - len(others),), first)])


def _spherical(
    anchors: Float[Tensor, "samples mixed tokens latent"], shares: Float[Tensor, "samples mixed"]
) -> Float[Tensor, "samples tokens latent"]:
    """Along great circles from the first to the others in turn, by each one's share of what there is so far."""
    between, weight = anchors[:, 0], shares[:, :1]
    for number in range(1, anchors.shape[1]):
        weight = weight + shares[:, number : number + 1]
        between = slerp(between, anchors[:, number], (shares[:, number : number + 1] / weight)[..., None])
    return between


def slerp(
    first: Float[Tensor, "*batch latent"], second: Float[Tensor, "*batch latent"], share: Float[Tensor, "*shares 1"]
) -> Float[Tensor, "*batch latent"]:
    """Spherical interpolation of directions, linear in length; linear where the directions are almost alike."""
    lengths = [end.norm(dim=-1, keepdim=True).clamp_min(1e-12) for end in (first, second)]
    ends = [end / length for end, length in zip((first, second), lengths, strict=True)]
    angle = (ends[0] * ends[1]).sum(-1, keepdim=True).clamp(-1, 1).acos()
    bent = (((1 - share) * angle).sin() * ends[0] + (share * angle).sin() * ends[1]) / angle.sin()
    length = (1 - share) * lengths[0] + share * lengths[1]
    straight = (1 - share) * first + share * second
    apart = (angle > SMALLEST_ANGLE) & (angle < torch.pi - SMALLEST_ANGLE)
    return torch.where(apart, bent * length, straight)
