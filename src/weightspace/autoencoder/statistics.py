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
# Shares of the weights below so many standard deviations: their mean over tokens is that of the whole layer, which
# no quantile's mean is. A weight counts in part within a quarter of a standard deviation of a level.
LEVELS = (-2.0, -1.0, -0.4, 0.4, 1.0, 2.0)
SOFTNESS = 0.25
MOMENTS = ("mean", "mean size", "mean logarithm of the size", "mean logarithm of 1 + square", "root mean square")
OF_A_PART = (*MOMENTS, *(f"share below {level:g}" for level in LEVELS))
STATISTICS = tuple(f"{statistic} of the {part}" for part in ("weights", "biases") for statistic in OF_A_PART)
SMALLEST_SPREAD = 0.02


def token_statistics(
    values: Float[Tensor, "*batch width"], mask: Bool[Tensor, "*batch width"], bias: Bool[Tensor, "*batch width"]
) -> Float[Tensor, "*batch 22"]:
    """`STATISTICS` of every token.

    Args:
        values: standardised weights; 0 in the padding.
        mask: which entries are real.
        bias: which of them are biases. Half of the statistics are of these, half of the others; they are 0
            where there are none.
    """
    return torch.cat([_of_part(values, mask & ~bias), _of_part(values, mask & bias)], dim=-1)


def statistics_loss(
    predicted: Float[Tensor, "batch window statistics"],
    true: Float[Tensor, "batch window statistics"],
    present: Bool[Tensor, "batch window"],
) -> Float[Tensor, ""]:
    """Mean squared error over the present tokens, every statistic divided by its spread over them."""
    real = present[..., None]
    count = real.sum().clamp_min(1)
    mean = (true * real).sum((0, 1)) / count
    variance = ((true - mean).square() * real).sum((0, 1)) / count
    error = (predicted - true) / variance.sqrt().clamp_min(SMALLEST_SPREAD)
    return (error.square() * real).sum() / (count * true.shape[-1])


def _of_part(
    values: Float[Tensor, "*batch width"], among: Bool[Tensor, "*batch width"]
) -> Float[Tensor, "*batch statistics"]:
    size, square = values.abs(), values.square()
    kinds = (values, size, (size + SMALLEST_SIZE).log(), square.log1p(), square)
    shares = [((level - values) / (2 * SOFTNESS) + 0.5).clamp(0, 1) for level in LEVELS]
    means = [_mean(kind, among) for kind in kinds]
    return torch.stack([*means[:-1], means[-1].sqrt(), *(_mean(share, among) for share in shares)], dim=-1)


def _mean(values: Float[Tensor, "*batch width"], among: Bool[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
    return (values * among).sum(-1) / among.sum(-1).clamp_min(1)
