"""The two terms of the pre-training loss, and what is watched beside them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def masked_mse(
    predicted: Float[Tensor, "*batch width"],
    target: Float[Tensor, "*batch width"],
    mask: Bool[Tensor, "*masked width"],
) -> Float[Tensor, ""]:
    """Mean squared error per real weight (paper, equation 5).

    Deviation: divided by the number of real entries. The published code divides by all entries, so that
    padding dilutes the loss and layers with short rows count for little.
    """
    real = mask.expand_as(predicted)
    error = (predicted - target).square() * real
    return error.sum() / real.sum().clamp_min(1)


def nt_xent(
    first: Float[Tensor, "batch width"], second: Float[Tensor, "batch width"], temperature: float
) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross-entropy of two views (paper, equation 4; Chen et al., 2020).

    Row i of `first` and row i of `second` are the positive pair; all other 2 (batch - 1) rows are negatives.
    """
    both = functional.normalize(torch.cat([first, second]), dim=-1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(first)
    partner = torch.cat([torch.arange(count, 2 * count), torch.arange(count)]).to(first.device)
    return functional.cross_entropy(similarity, partner)


def effective_rank(latents: Float[Tensor, "samples width"]) -> float:
    """exp of the entropy of the normalised spectrum: how many latent dimensions are in use."""
    centered = (latents - latents.mean(0)).float()
    spectrum = torch.linalg.eigvalsh(centered.T @ centered).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
