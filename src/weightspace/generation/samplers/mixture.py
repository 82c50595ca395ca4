"""A mixture of Gaussians over whole networks' latents."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from sklearn.mixture import GaussianMixture
from torch import Tensor

from weightspace.errors import require_between
from weightspace.generation.samplers.sampler import Samples, blended, fitted

SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Gaussians with diagonal covariances in the space that the anchors span (scikit-learn).

    Attributes:
        components: how many; at most as many as there are anchors.
        scale: what the deviations from the components' means are multiplied by.
    """

    components: int = 3
    scale: float = 1.0
    latents: Tensor | None = field(default=None, repr=False, compare=False)
    keeps_anchor: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_between("the number of components", self.components, 1)
        require_between("the scale", self.scale, 0)

    def fit(
        self, latents: Float[Tensor, "anchors tokens latent"], layers: Int[Tensor, "tokens"] | None = None
    ) -> "Mixture":
        """A copy that is fitted to anchors."""
        return replace(self, latents=latents)

    def sample(self, count: int, generator: torch.Generator) -> Samples:
        """Draw `count` latent sequences."""
        anchors = fitted(self.latents)
        flat = anchors.flatten(1)
        mean = flat.mean(0)
        # Coordinates of the anchors in the space they span: as many as anchors, however long networks are.
        left, sizes, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        codes = (left * sizes).numpy()
        found = GaussianMixture(
            min(self.components, len(anchors)),
            covariance_type="diag",
            reg_covar=SMALLEST_VARIANCE * float(sizes.square().mean()) + SMALLEST_VARIANCE,
            random_state=0,
        ).fit(codes if len(codes) > 1 else codes.repeat(2, axis=0))
        shares, means, variances = (
            torch.from_numpy(own).float() for own in (found.weights_, found.means_, found.covariances_)
        )
        which = torch.multinomial(shares, count, replacement=True, generator=generator)
        noise = torch.randn(count, means.shape[1], generator=generator)
        drawn = means[which] + self.scale * variances[which].sqrt() * noise
        return blended((mean + drawn @ basis).unflatten(1, anchors.shape[1:]))
