"""Is a network on the line between two others, as averages of them are?"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.analysis.pairs.changes import PIECE
from weightspace.weights.files import meta_of, numbers_of
from weightspace.weights.values import is_statistic

# What is left of the change beside the line, over the change: rounding, of an average that is stored in half precision.
BESIDE = 0.02


class Between(NamedTuple):
    """Where a network lies between two others.

    Attributes:
        share: of the second parent; 0 is the first, 1 the second.
        shares: the same of every tensor in which the parents differ: averages by layer have others.
        beside: length of what is beside the line, each tensor at its own share, over that of the change.
    """

    share: float
    shares: tuple[float, ...]
    beside: float

    @property
    def averaged(self) -> bool:
        """Whether it is an average of the two, and not one of them, nor beyond them."""
        return self.beside < BESIDE and BESIDE < self.share < 1 - BESIDE and not self.mixed

    @property
    def mixed(self) -> bool:
        """Whether every tensor is one parent's or the other's."""
        ends = [min(abs(share), abs(1 - share)) for share in self.shares]
        return self.beside < BESIDE and max(ends) < BESIDE and max(self.shares) - min(self.shares) > 0.5


def place_between(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], middle: Mapping[str, Tensor]
) -> Between | None:
    """Where the third network lies between the first two; None if they have no tensors of one shape in common.

    Shares are those of least squares. Of weights in files only pieces are in memory at a time.

    Args:
        first, second: the parents.
        middle: what may be made of them.

    Examples:
        >>> one, two = {"w": torch.zeros(4)}, {"w": torch.arange(4.0)}
        >>> round(place_between(one, two, {"w": 0.25 * two["w"]}).share, 3)
        0.25
    """
    metas = [meta_of(weights) for weights in (first, second, middle)]
    names = [
        name
        for name, tensor in metas[0].items()
        if all(name in meta and meta[name].shape == tensor.shape and meta[name].is_floating_point() for meta in metas)
        and not is_statistic(name)
    ]
    sums = {name: _sums(first, second, middle, name, metas[0][name].numel()) for name in names}
    # What is broken, in any of the three, says nothing.
    sums = {name: part for name, part in sums.items() if all(map(math.isfinite, part))}
    along, across, moved = (sum(part[place] for part in sums.values()) for place in range(3))
    if not along or not moved:
        return None
    shares = {name: part[1] / part[0] for name, part in sums.items() if part[0]}
    left = sum(part[2] - part[1] ** 2 / part[0] if part[0] else part[2] for part in sums.values())
    # A tensor that hardly differs between the parents has any share.
    telling = tuple(share for name, share in shares.items() if sums[name][0] > along / (10 * len(sums)))
    return Between(across / along, telling, math.sqrt(max(0.0, left) / moved))


def _sums(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], middle: Mapping[str, Tensor], name: str, size: int
) -> tuple[float, float, float]:
    """Of one tensor: the squares of the line, its products with the change, and the squares of that."""
    sums = [0.0, 0.0, 0.0]
    for start in range(0, size, PIECE):
        one, two, third = (
            numbers_of(weights, name, start, min(start + PIECE, size)).double() for weights in (first, second, middle)
        )
        line, change = two - one, third - one
        for place, pair in enumerate(((line, line), (line, change), (change, change))):
            sums[place] += float(torch.dot(*pair))
    return sums[0], sums[1], sums[2]
