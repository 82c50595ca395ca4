"""One Gaussian over the anchors' latents."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.sampler import Samples, blended, fitted


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The anchors' mean, and their covariance or their spread alone.

    Attributes:
        scale: what the deviations are multiplied by.
        coherent: deviations have the anchors' full covariance over all tokens, so that tokens fit each other: they are
            random combinations of the anchors' own deviations. Otherwise every number is drawn by itself.
    """

    scale: float = 1.0
    coherent: bool = True
    latents: Tensor | None = field(default=None, repr=False, compare=False)
    keeps_anchor: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the scale", self.scale, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> "Gaussian":
        """A copy that is fitted to anchors."""
        return replace(self, latents=latents)

    def sample(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` latent sequences."""
        anchors = fitted(self.latents)
        mean = anchors.mean(0)
        if not self.coherent:
            noise = torch.randn(count, *mean.shape, generator=generator)
            return blended(mean + self.scale * anchors.std(0, correction=0) * noise)
        shares = torch.randn(count, len(anchors), generator=generator) / len(anchors) ** 0.5
        return blended(mean + self.scale * torch.einsum("sa,atl->stl", shares, anchors - mean))
