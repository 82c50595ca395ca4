"""What a sampler is."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError


class Samples(NamedTuple):
    """Sampled latents.

    Attributes:
        latents: one sequence per sample.
        anchors: the anchor that each token of a sample is centred on; -1 where it is a blend of several.
    """

    latents: Float[Tensor, "samples tokens latent"]
    anchors: Int[Tensor, "samples tokens"]


@runtime_checkable
class Sampler(Protocol):
    """Fitted to anchors' latents, it draws others; frozen, so `fit` returns a fitted copy."""

    @property
    def keeps_anchor(self) -> bool:
        """Whether every sample has one anchor, whose architecture it takes."""

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> "Sampler":
        """A copy that is fitted to anchors.

        Args:
            latents: of the anchors, at least one, all of one layout.
            layers: which layer every token is of; all one layer if not given.
        """

    def sample(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` sequences of latents; the generator decides all that is random."""


def fitted(latents: Tensor | None) -> Tensor:
    """The anchors' latents.

    Raises:
        InputError: the sampler has not been fitted.
    """
    if latents is None:
        raise InputError("expected a sampler that was fitted to anchors, found one that was not")
    return latents


def blended(latents: Float[Tensor, "samples tokens latent"]) -> Samples:
    """Samples that have no anchor of their own."""
    return Samples(latents, torch.full(latents.shape[:2], -1))
