"""Latents from nowhere: the paper's GAUSS start of bootstrapping."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Density, Samples


@dataclass(frozen=True, kw_only=True)
class RandomLatents:
    """Gaussian numbers that know nothing of the anchors but their shape and architecture.

    Attributes:
        scale: their standard deviation (the published code: 10, in its latent units).
        relative: `scale` is a share of the root mean square of all anchors' latents.
        onwards: what later rounds of bootstrapping sample with.
    """

    scale: float = 1.0
    relative: bool = True
    onwards: KernelDensity = field(default_factory=KernelDensity)
    keeps_anchor: bool = field(default=True, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the scale", self.scale, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """Samples have the anchors' shape, and each the architecture of a random one."""
        size = latents.square().mean().sqrt() if self.relative else 1.0

        def sample(count: int, generator: torch.Generator) -> Samples:
            chosen = torch.randint(len(latents), (count, 1), generator=generator).expand(-1, latents.shape[1])
            return Samples(self.scale * size * torch.randn(count, *latents.shape[1:], generator=generator), chosen)

        return Density(sample)
