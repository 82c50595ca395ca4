"""The bandwidth of a kernel density, chosen on networks that it was not fitted to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.generation.samplers.kernel_density import KernelDensity

CANDIDATES = tuple(round(0.02 * 1.25**step, 3) for step in range(24))
SMALLEST_SPREAD = 1e-6


def choose_bandwidth(
    sampler: KernelDensity,
    anchors: Float[Tensor, "anchors tokens latent"],
    validation: Float[Tensor, "networks tokens latent"],
    layers: Int[Tensor, "tokens"] | None = None,
) -> float:
    """The candidate, between 0.02 and 2.7, under which validation networks' latents are likeliest.

    The likelihood is that of the sampler: of whole sequences where tokens share an anchor, else of layers or tokens.

    Raises:
        InputError: fewer than two anchors, no validation networks, or a sampler whose bandwidth or noise is of another
            kind (in latent units; one noise vector for all tokens).
    """
    if len(anchors) < 2 or len(validation) == 0:
        found = f"{len(anchors)} and {len(validation)}"
        raise InputError(f"expected at least 2 anchors and 1 validation network to choose a bandwidth, found {found}")
    if not sampler.relative or sampler.noise == "shared":
        raise InputError("expected a kernel density with relative bandwidth and independent noise, found another")
    owner = sampler.fit(anchors, layers).owners
    spread = anchors.std(0).clamp_min(SMALLEST_SPREAD)
    gaps = ((validation[:, None] - anchors[None]) / spread).square().sum(-1)
    grouped = torch.zeros(*gaps.shape[:2], int(owner.max()) + 1).index_add(2, owner, gaps)
    size = anchors[0].numel()

    def likelihood(bandwidth: float) -> float:
        per_group = torch.logsumexp(-grouped / (2 * bandwidth**2), dim=1)
        return float(per_group.sum(1).mean()) - size * float(torch.tensor(bandwidth).log())

    return max(CANDIDATES, key=likelihood)
