"""Networks on straight lines between others: their averages, and how the loss runs from one to another.

Two networks trained apart usually have a wall of high loss between them (Entezari et al., 2022).
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.batch_norms import recalibrate_batch_norm
from weightspace.errors import InputError
from weightspace.images import Images
from weightspace.progress import progress_bar
from weightspace.supervised import score
from weightspace.weights.values import Weights, require_shapes, shapes_of


class Line(NamedTuple):
    """Loss and accuracy from the first network (share 0) to the second (share 1)."""

    shares: list[float]
    losses: list[float]
    accuracies: list[float]

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between its ends, at most."""
        first, last = self.losses[0], self.losses[-1]
        pairs = zip(self.shares, self.losses, strict=True)
        return max(loss - (1 - share) * first - share * last for share, loss in pairs)


def average(networks: Sequence[Mapping[str, Tensor]]) -> Weights:
    """The mean of networks of one architecture, in the precision of the first; whole numbers are the first's.

    Raises:
        InputError: no network.
        WeightsMismatch: they differ in names or shapes.

    Examples:
        >>> average([{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}])
        {'w': tensor([0.5000])}
    """
    if not networks:
        raise InputError("expected networks to average, found none")
    first = networks[0]
    for network in networks[1:]:
        require_shapes(network, shapes_of(first))
    return {name: _mean([network[name] for network in networks]) for name in first}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if not (first.is_floating_point() or first.is_complex()):
        return first.clone()
    wide = torch.complex128 if first.is_complex() else torch.float64
    return torch.stack([tensor.to(wide) for tensor in tensors]).mean(0).to(first.dtype)


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> Weights:
    """`(1 - share) * first + share * second`, in 32 bits at the least; whole numbers are taken from the first."""
    return {name: _blend(tensor, second[name], share) for name, tensor in first.items()}


def _blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """In 32 bits at the least: one of two networks may be in half precision."""
    if not (first.is_floating_point() or first.is_complex()):
        return first
    kind = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return torch.lerp(first.to(kind), second.to(kind), share)


def walk_line(
    module: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    images: Images,
    *,
    points: int = 25,
    recalibrate_on: Float[Tensor, "n ..."] | None = None,
) -> Line:
    """Score the networks between two of one architecture.

    Args:
        module: of that architecture; it is copied.
        first, second: the ends.
        images: what to score on.
        points: how many networks, the ends included.
        recalibrate_on: set batch-norm statistics anew with these images at every point. Averaged statistics do not
            belong to averaged weights; without this a wall may be theirs alone (Jordan et al., 2023).
    """
    module = copy.deepcopy(module).eval()
    line = Line([], [], [])
    with progress_bar("interpolating", points) as advance:
        for number in range(points):
            share = number / (points - 1)
            module.load_state_dict(interpolate(first, second, share))
            if recalibrate_on is not None:
                recalibrate_batch_norm(module, recalibrate_on)
            scores = score(module, images)
            line.shares.append(share)
            line.losses.append(float(scores.loss[0]))
            line.accuracies.append(float(scores.accuracy[0]))
            advance()
    return line
