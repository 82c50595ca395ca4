"""The two terms of the pre-training loss, and what is watched beside them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

# What weights that are all alike (those of a fresh norm, or a single one) are divided by.
SMALLEST_SCALE = 0.01


def masked_mse(
    predicted: Float[Tensor, "*batch width"],
    target: Float[Tensor, "*batch width"],
    mask: Bool[Tensor, "*masked width"],
    scale: Float[Tensor, "*scaled 1"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error per real weight (paper, equation 5); with a `scale`, errors are divided by it first.

    Deviation: divided by the number of real entries. The published code divides by all entries, so that
    padding dilutes the loss and layers with short rows count for little.
    """
    real = mask.expand_as(predicted)
    error = predicted - target if scale is None else (predicted - target) / scale
    return (error.square() * real).sum() / real.sum().clamp_min(1)


def target_scale(
    target: Float[Tensor, "*views batch window width"],
    mask: Bool[Tensor, "batch window width"],
    layer: Int[Tensor, "batch window"],
    kind: str,
) -> Float[Tensor, "*views batch window 1"] | None:
    """The standard deviation that errors are divided by: of the targets in the batch, each token, or each layer.

    MultiZoo-SANE (`masked loss normalisation`): its paper says per token, its code takes the whole batch.

    Args:
        target: what is to be reconstructed; 0 in the padding.
        mask: which entries are real.
        layer: which layer of its network every token is of.
        kind: `none`, `batch`, `token` or `layer` (of one window of one view).
    """
    if kind == "none":
        return None
    real = mask.expand_as(target).to(target.dtype)
    sums = torch.stack([real, target, target.square()])
    if kind == "batch":
        sums = sums.sum(dim=tuple(range(1, sums.ndim)), keepdim=True)
    elif kind == "token":
        sums = sums.sum(-1, keepdim=True)
    else:
        same = (layer[:, :, None] == layer[:, None, :]).to(target.dtype)
        sums = same @ sums.sum(-1, keepdim=True)
    count, total, squares = sums
    mean = total / count.clamp_min(1)
    scale = (squares / count.clamp_min(1) - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST_SCALE)
    return scale.expand(*target.shape[:-1], 1)


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
