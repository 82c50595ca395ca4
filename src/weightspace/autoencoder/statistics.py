"""Statistics of single tokens, which the latents are trained to hold in a linear way.

Ours, not the paper's. A mean over token latents can only tell what single latents tell linearly, and
reconstruction alone stores values, not sizes: how large the weights and biases of a layer are is lost in the
mean. Layer statistics, which are hard to beat as a baseline, are just that. Predicting these few numbers of
each token from its latent by one linear map makes the mean of latents hold them as well.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_SIZE = 0.01
MOMENTS = ("mean", "mean size", "mean logarithm of the size", "mean logarithm of 1 + square", "root mean square")
STATISTICS = tuple(f"{moment} of the {part}" for part in ("weights", "biases") for moment in MOMENTS)


def token_statistics(
    values: Float[Tensor, "*batch width"], mask: Bool[Tensor, "*batch width"], bias: Bool[Tensor, "*batch width"]
) -> Float[Tensor, "*batch 10"]:
    """`STATISTICS` of every token.

    Args:
        values: standardised weights; 0 in the padding.
        mask: which entries are real.
        bias: which of them are biases. Half of the statistics are of these, half of the others; they are 0
            where there are none.
    """
    return torch.cat([_moments(values, mask & ~bias), _moments(values, mask & bias)], dim=-1)


def _moments(
    values: Float[Tensor, "*batch width"], among: Bool[Tensor, "*batch width"]
) -> Float[Tensor, "*batch moments"]:
    size, square = values.abs(), values.square()
    kinds = (values, size, (size + SMALLEST_SIZE).log(), square.log1p(), square)
    means = [_mean(kind, among) for kind in kinds]
    return torch.stack([*means[:-1], means[-1].sqrt()], dim=-1)


def _mean(values: Float[Tensor, "*batch width"], among: Bool[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
    return (values * among).sum(-1) / among.sum(-1).clamp_min(1)
