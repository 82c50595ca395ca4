"""Kernel-density sampling of latents: pick an anchor, add Gaussian noise.

Paper, equation 7: one density per token over the anchors' latents. The published code re-seeds for every
token, so all tokens share one anchor *and* one noise vector, and two calls return the same samples. Here
both choices have names.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between


class Samples(NamedTuple):
    """Sampled latents.

    Attributes:
        latents: one sequence per sample.
        anchors: which anchor each sample (or each of its tokens) is centred on.
    """

    latents: Float[Tensor, "samples tokens latent"]
    anchors: Int[Tensor, "samples tokens"]


@dataclass(frozen=True, kw_only=True)
class KernelDensity:
    """A Gaussian kernel density per token, with the sharing between tokens named.

    Attributes:
        bandwidth: standard deviation of the noise, as a share of the anchors' spread in each latent
            dimension of each token (`relative`), or in latent units.
        relative: what `bandwidth` means. With one anchor there is no spread, and it is in latent units.
        anchor: `shared`: all tokens of a sample come from one anchor, so that they fit each other;
            `independent`: each token has an anchor of its own (the literal reading of equation 7).
        noise: `independent` for every token, or `shared` by all tokens of a sample (as published).
    """

    bandwidth: float = 0.2
    relative: bool = True
    anchor: Literal["shared", "independent"] = "shared"
    noise: Literal["shared", "independent"] = "independent"

    def __post_init__(self) -> None:
        require_between("the bandwidth", self.bandwidth, 0)

    def scale(self, anchors: Float[Tensor, "anchors tokens latent"]) -> Float[Tensor, "tokens latent"]:
        """Standard deviation of the noise in every dimension of every token."""
        if not self.relative or len(anchors) == 1:
            return torch.full_like(anchors[0], self.bandwidth)
        return self.bandwidth * anchors.std(0)

    def sample(
        self, anchors: Float[Tensor, "anchors tokens latent"], count: int, generator: torch.Generator
    ) -> Samples:
        """Draw `count` latent sequences around the anchors."""
        tokens, width = anchors.shape[1:]
        shared_anchor, shared_noise = self.anchor == "shared", self.noise == "shared"
        chosen = torch.randint(len(anchors), (count, 1 if shared_anchor else tokens), generator=generator)
        chosen = chosen.expand(count, tokens)
        noise = torch.randn(count, 1 if shared_noise else tokens, width, generator=generator)
        latents = anchors[chosen, torch.arange(tokens)] + self.scale(anchors) * noise
        return Samples(latents, chosen)
