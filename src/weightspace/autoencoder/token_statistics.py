"""Statistics of single tokens, which the encoder sees and the latents hold in a linear way.

Ours, not the paper's. A mean over token latents can only tell what single latents tell linearly, and
reconstruction alone stores values, not sizes: how large the weights and biases of a layer are is lost in the
mean. Layer statistics, which are hard to beat as a baseline, are just that. Predicting these few numbers of
each token from its latent by one linear map makes the mean of latents hold them as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.tokens.patterns import Entries

SMALLEST_SIZE = 0.01
# Shares of the weights below so many standard deviations: their mean over tokens is that of the whole layer, which
# no quantile's mean is. A weight counts in part within a quarter of a standard deviation of a level.
LEVELS = (-2.0, -1.0, -0.4, 0.4, 1.0, 2.0)
SOFTNESS = 0.25
# Those without bound are compressed (asinh): in every zoo a few networks have weights far from everyone's.
MOMENTS = ("mean", "mean size", "mean logarithm of the size", "mean logarithm of 1 + square", "root mean square")
OF_A_PART = (*MOMENTS, *(f"share below {level:g}" for level in LEVELS))
STATISTICS = tuple(f"{statistic} of the {part}" for part in ("weights", "biases") for statistic in OF_A_PART)


def token_statistics(values: Float[Tensor, "*batch width"], entries: Entries) -> Float[Tensor, "*batch 22"]:
    """`STATISTICS` of every token.

    Args:
        values: standardised weights; 0 in the padding.
        entries: which are real, and which of them biases. Half of the statistics are of these, half of the others;
            they are 0 where there are none.
    """
    mask, bias = (own.expand_as(values) for own in entries)
    size = values.abs()
    kinds = [values, size, (size + SMALLEST_SIZE).log(), values.square().log1p(), values.square()]
    kinds += [((level - values) / (2 * SOFTNESS) + 0.5).clamp(0, 1) for level in LEVELS]
    among = torch.stack([mask & ~bias, mask & bias], dim=-1).to(values.dtype)
    counts = among.sum(-2)[..., None, :].clamp_min(1)
    found = (torch.stack(kinds, dim=-2) @ among / counts).unbind(-2)
    mean, mean_size, log_size, log_square, square = found[: len(MOMENTS)]
    moments = [mean.asinh(), mean_size.asinh(), log_size, log_square, square.sqrt().asinh()]
    return torch.stack([*moments, *found[len(MOMENTS) :]], dim=-2).transpose(-1, -2).flatten(-2)
