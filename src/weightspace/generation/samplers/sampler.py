"""What a sampler is."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Samples(NamedTuple):
    """Sampled latents.

    Attributes:
        latents: one sequence per sample.
        anchors: the anchor that each token of a sample is centred on; -1 where it is a blend of several.
    """

    latents: Float[Tensor, "samples tokens latent"]
    anchors: Int[Tensor, "samples tokens"]


class Density(NamedTuple):
    """What a sampler makes of anchors: `sample(count, generator)` draws sequences of latents."""

    sample: Callable[[int, torch.Generator], Samples]


@runtime_checkable
class Sampler(Protocol):
    """How latents are drawn around anchors, whichever these are: a frozen configuration."""

    @property
    def keeps_anchor(self) -> bool:
        """Whether every sample has one anchor, whose architecture it takes."""

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """The density around some anchors.

        Args:
            latents: of the anchors, at least one, all of one layout.
            layers: which layer every token is of; all one layer if not given.
        """


def blended(latents: Float[Tensor, "samples tokens latent"]) -> Samples:
    """Samples that have no anchor of their own."""
    return Samples(latents, torch.full(latents.shape[:2], -1))
