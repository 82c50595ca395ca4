"""Kernel-density sampling of latents: pick an anchor, add Gaussian noise.

Paper, equation 7: one density per token over the anchors' latents. The published code re-seeds for every
token, so all tokens share one anchor *and* one noise vector, and two calls return the same samples. Here
both choices have names.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.sampler import Samples, fitted


@dataclass(frozen=True, kw_only=True)
class KernelDensity:
    """A Gaussian kernel density per token, with the sharing between tokens named.

    Attributes:
        bandwidth: standard deviation of the noise, as a share of the anchors' spread in each latent
            dimension of each token (`relative`), or in latent units.
        relative: what `bandwidth` means. With one anchor there is no spread, and it is in latent units.
        anchor: `shared`: all tokens of a sample come from one anchor, so that they fit each other; `layer`: all tokens
            of a layer do; `independent`: each token has an anchor of its own (the literal reading of equation 7).
        noise: `independent` for every token, or `shared` by all tokens of a sample (as published).
    """

    bandwidth: float = 0.2
    relative: bool = True
    anchor: Literal["shared", "layer", "independent"] = "shared"
    noise: Literal["shared", "independent"] = "independent"
    latents: Tensor | None = field(default=None, repr=False, compare=False)
    layers: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the bandwidth", self.bandwidth, 0)

    @property
    def keeps_anchor(self) -> bool:
        """Only a shared anchor is an anchor of the whole network."""
        return self.anchor == "shared"

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> "KernelDensity":
        """A copy that is fitted to anchors."""
        return replace(self, latents=latents, layers=layers)

    @property
    def scale(self) -> Float[Tensor, "tokens latent"]:
        """Standard deviation of the noise in every dimension of every token."""
        anchors = fitted(self.latents)
        if not self.relative or len(anchors) == 1:
            return torch.full_like(anchors[0], self.bandwidth)
        return self.bandwidth * anchors.std(0)

    def sample(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` latent sequences around the anchors."""
        anchors = fitted(self.latents)
        tokens, width = anchors.shape[1:]
        owner = self.owners
        chosen = torch.randint(len(anchors), (count, int(owner.max()) + 1), generator=generator)[:, owner]
        noise = torch.randn(count, 1 if self.noise == "shared" else tokens, width, generator=generator)
        return Samples(anchors[chosen, torch.arange(tokens)] + self.scale * noise, chosen)

    @property
    def owners(self) -> Int[Tensor, "tokens"]:
        """Which choice of an anchor every token follows."""
        tokens = fitted(self.latents).shape[1]
        if self.anchor == "independent":
            return torch.arange(tokens)
        if self.anchor == "layer" and self.layers is not None:
            return self.layers
        return torch.zeros(tokens, dtype=torch.long)
