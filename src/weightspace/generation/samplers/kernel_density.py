"""Kernel-density sampling of latents: pick an anchor, add Gaussian noise.

Paper, equation 7: one density per token over the anchors' latents. The published code re-seeds for every
token, so all tokens share one anchor *and* one noise vector, and two calls return the same samples. Here
both choices have names.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.sampler import Density, Samples


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

    def __post_init__(self) -> None:
        require_between("the bandwidth", self.bandwidth, 0)

    @property
    def keeps_anchor(self) -> bool:
        """Only a shared anchor is an anchor of the whole network."""
        return self.anchor == "shared"

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """Samples are anchors with noise."""
        tokens, width = latents.shape[1:]
        owner, scale = self.owners(tokens, layers), self._scale(latents)

        def sample(count: int, generator: torch.Generator) -> Samples:
            chosen = torch.randint(len(latents), (count, int(owner.max()) + 1), generator=generator)[:, owner]
            noise = torch.randn(count, 1 if self.noise == "shared" else tokens, width, generator=generator)
            return Samples(latents[chosen, torch.arange(tokens)] + scale * noise, chosen)

        return Density(sample)

    def owners(self, tokens: int, layers: Int[Tensor, "tokens"] | None = None) -> Int[Tensor, "tokens"]:
        """Which choice of an anchor every token follows."""
        if self.anchor == "independent":
            return torch.arange(tokens)
        if self.anchor == "layer" and layers is not None:
            return layers
        return torch.zeros(tokens, dtype=torch.long)

    def _scale(self, latents: Float[Tensor, "anchors tokens latent"]) -> Float[Tensor, "tokens latent"]:
        """Standard deviation of the noise in every dimension of every token."""
        if not self.relative or len(latents) == 1:
            return torch.full_like(latents[0], self.bandwidth)
        return self.bandwidth * latents.std(0)


def published_sampler(bandwidth: float = 0.2) -> KernelDensity:
    """What the published code does: one anchor and one noise vector for all tokens of a sample.

    The paper describes independent draws per token (equation 7); its code draws every token with the same seed. Unlike
    the code, two calls with different generators give different samples.
    """
    return KernelDensity(bandwidth=bandwidth, relative=False, anchor="shared", noise="shared")
