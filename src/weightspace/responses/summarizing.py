"""From what units and outputs do to a few numbers each: finite and bounded, whatever the weights are."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

UNIT_STATISTICS = ("mean", "spread", "share positive", "share near zero", "size", "change", "alike")
SCORE_STATISTICS = ("entropy", "spread of the entropy", "entropy of the mean", "margin", "agreement", "winner's share")
OUTPUT_STATISTICS = (*SCORE_STATISTICS, "effective rank", "mean", "spread", "spread of means", "change")
NEAR_ZERO, LARGEST, SMALLEST = 1e-3, 1e15, 1e-12


class UnitSums(NamedTuple):
    """What units write, summed over inputs and positions, so that parts of the inputs add up.

    Attributes:
        values: by kind and unit: sums of sizes, of positive ones, of ones near zero and of squared changes.
        mean, deviations: by kind and unit: the mean, and the sum of squared deviations from it.
        totals: by kind, unit and position: sums over inputs.
        inputs, finite: how many inputs; how many values are finite, and how many there are.
    """

    values: Float[Tensor, "kinds units 4"]
    mean: Float[Tensor, "kinds units"]
    deviations: Float[Tensor, "kinds units"]
    totals: Float[Tensor, "kinds units positions"]
    inputs: int
    finite: Tensor

    def joined(self, other: "UnitSums") -> "UnitSums":
        """Those of more inputs (Chan, Golub and LeVeque, 1983: a difference of large sums would lose small spreads)."""
        inputs = self.inputs + other.inputs
        apart, share = other.mean - self.mean, other.inputs / inputs
        between = apart.square() * self.inputs * share * self.totals.shape[-1]
        return UnitSums(
            values=self.values + other.values,
            mean=self.mean + apart * share,
            deviations=self.deviations + other.deviations + between,
            totals=self.totals + other.totals,
            inputs=inputs,
            finite=self.finite + other.finite,
        )


def sum_units(written: Float[Tensor, "inputs units positions"], kinds: int) -> UnitSums:
    """Sums of what units write on `[2, kinds, each]` inputs, the second half being perturbed."""
    finite = written.isfinite()
    bounded = written.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    asked, perturbed = bounded.unflatten(0, (2, kinds, -1)).unbind(0)
    mean, sizes = asked.mean((1, 3), keepdim=True), asked.abs()
    columns = (
        sizes,
        (asked > 0).to(asked.dtype),
        (sizes < NEAR_ZERO).to(asked.dtype),
        (perturbed - asked).square(),
        (asked - mean).square(),
    )
    *values, deviations = (column.sum((1, 3)).double() for column in columns)
    return UnitSums(
        values=torch.stack(values, dim=-1),
        mean=mean[:, 0, :, 0].double(),
        deviations=deviations,
        totals=asked.sum(1).double(),
        inputs=asked.shape[1],
        finite=torch.stack([finite.sum(), torch.tensor(finite.numel(), device=finite.device)]),
    )


def summarize_units(sums: UnitSums) -> Float[Tensor, "units statistics"]:
    """The seven numbers of every unit, kind by kind of input.

    `mean`, `spread` (standard deviation) and `size` (mean size) of what it writes, compressed by asinh; the shares
    positive and within 0.001 of zero; `change`: how far a perturbation of the inputs moves it, `d / (d + spread)` of
    the root mean square `d`; `alike`: how much of its mean square does not depend on the input (1: it always writes
    the same). Shares, change and alike do not depend on the unit's scale.
    """
    count = sums.inputs * sums.totals.shape[-1]
    size, positive, near, change = (sums.values / count).unbind(-1)
    mean, variance, moved = sums.mean, sums.deviations / count, change.sqrt()
    spread, square = variance.sqrt(), variance + mean.square()
    common = (sums.totals / sums.inputs).square().mean(-1)
    columns = (
        mean.asinh(),
        spread.asinh(),
        positive,
        near,
        size.asinh(),
        moved / (moved + spread + SMALLEST),
        common / (square + SMALLEST),
    )
    return torch.stack(columns, dim=-1).transpose(0, 1).flatten(1).float()


def summarize_outputs(
    outputs: Float[Tensor, "inputs *output"], kinds: int, *, scores: bool
) -> Float[Tensor, "statistics"]:
    """Eleven numbers of what a network returns, kind by kind of input.

    Args:
        outputs: on `[2, kinds, count]` inputs, the second half being perturbed.
        kinds: how many of inputs.
        scores: the last axis holds scores of classes; entropies (as shares of the largest possible), the margin between
            the two likeliest classes, the share of inputs whose winner a perturbation leaves, and the share of the
            commonest winner are 0 otherwise.
    """
    bounded = outputs.detach().float().nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    asked, perturbed = bounded.unflatten(0, (2, kinds, -1)).unbind(0)
    rows: list[Tensor] = []
    for pair in zip(asked, perturbed, strict=True):
        rows += [_scores(*pair) if scores else pair[0].new_zeros(len(SCORE_STATISTICS)), _moments(*pair)]
    return torch.cat(rows)


def _scores(asked: Tensor, perturbed: Tensor) -> Float[Tensor, "6"]:
    asked, perturbed = asked.flatten(0, -2), perturbed.flatten(0, -2)
    classes = asked.shape[-1]
    shares = asked.softmax(-1)
    largest = torch.log(torch.tensor(float(classes)))
    entropy = _entropy(shares) / largest
    top = shares.topk(2, dim=-1).values
    winners, counts = asked.argmax(-1), asked.new_zeros(classes)
    counts.scatter_add_(0, winners, torch.ones_like(winners, dtype=counts.dtype))
    return torch.stack(
        [
            entropy.mean(),
            entropy.std(correction=0),
            _entropy(shares.mean(0)) / largest,
            (top[:, 0] - top[:, 1]).mean(),
            (winners == perturbed.argmax(-1)).float().mean(),
            counts.max() / len(winners),
        ]
    )


def _moments(asked: Tensor, perturbed: Tensor) -> Float[Tensor, "5"]:
    flat, moved = asked.flatten(1), (perturbed - asked).flatten(1).square().mean().sqrt()
    centered = flat - flat.mean(0)
    spread = centered.square().mean().sqrt()
    return torch.stack(
        [
            _effective_rank(centered / (centered.abs().max() + SMALLEST)),
            flat.mean().asinh(),
            spread.asinh(),
            flat.mean(0).std(correction=0).asinh(),
            moved / (moved + spread + SMALLEST),
        ]
    )


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp_min(SMALLEST).log()).sum(-1)


def _effective_rank(centered: Float[Tensor, "inputs outputs"]) -> Tensor:
    """The exponential of the entropy of the squared singular values' shares, as a share of the largest possible."""
    least = min(centered.shape)
    gram = centered @ centered.T if centered.shape[0] <= centered.shape[1] else centered.T @ centered
    squares = torch.linalg.eigvalsh(gram.double().cpu()).clamp_min(0)
    total = squares.sum()
    rank = _entropy(squares / total).exp() if total > SMALLEST else torch.ones((), dtype=torch.float64)
    return (rank / least).float().to(centered.device)
