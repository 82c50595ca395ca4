"""Gaussians over whole networks' latents: one, a mixture of several, or numbers from nowhere."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from sklearn.mixture import GaussianMixture
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Density, Samples, blended

SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The anchors' mean, and their full covariance over all tokens, so that tokens fit each other.

    Attributes:
        scale: what the deviations are multiplied by.
    """

    scale: float = 1.0
    keeps_anchor: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the scale", self.scale, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """Samples are random combinations of the anchors' own deviations."""
        mean = latents.mean(0)

        def sample(count: int, generator: torch.Generator) -> Samples:
            shares = torch.randn(count, len(latents), generator=generator) / len(latents) ** 0.5
            return blended(mean + self.scale * torch.einsum("sa,atl->stl", shares, latents - mean))

        return Density(sample)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Gaussians with diagonal covariances in the space that the anchors span (scikit-learn).

    Attributes:
        components: how many; at most as many as there are anchors.
        scale: what the deviations from the components' means are multiplied by.
    """

    components: int = 3
    scale: float = 1.0
    keeps_anchor: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the number of components", self.components, 1)
        require_between("the scale", self.scale, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> Density:
        """Fitted to the anchors' coordinates in the space they span: as many as anchors, however long networks are."""
        flat = latents.flatten(1)
        mean = flat.mean(0)
        left, sizes, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        codes = (left * sizes).numpy()
        mixture = GaussianMixture(
            min(self.components, len(latents)),
            covariance_type="diag",
            reg_covar=SMALLEST_VARIANCE * float(sizes.square().mean()) + SMALLEST_VARIANCE,
            random_state=0,
        ).fit(codes if len(codes) > 1 else codes.repeat(2, axis=0))
        fitted = (mixture.weights_, mixture.means_, mixture.covariances_)
        shares, means, variances = (torch.from_numpy(values).float() for values in fitted)

        def sample(count: int, generator: torch.Generator) -> Samples:
            component = torch.multinomial(shares, count, replacement=True, generator=generator)
            noise = torch.randn(count, means.shape[1], generator=generator)
            drawn = means[component] + self.scale * variances[component].sqrt() * noise
            return blended((mean + drawn @ basis).unflatten(1, latents.shape[1:]))

        return Density(sample)


@dataclass(frozen=True, kw_only=True)
class RandomLatents:
    """Gaussian numbers that know nothing of the anchors but their shape: the paper's GAUSS start of bootstrapping.

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
