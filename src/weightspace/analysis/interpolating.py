"""How good the networks on the straight line between two networks are.

Two networks trained apart usually have a wall of high loss between them; after alignment it is lower, or gone
(Entezari et al., 2022; Ainsworth et al., 2023).
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weightspace.batch_norms import recalibrate_batch_norm
from weightspace.images import Images
from weightspace.progress import progress_bar
from weightspace.supervised import score
from weightspace.weights.values import Weights


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


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float) -> Weights:
    """`(1 - share) * first + share * second`; what is no floating-point number is taken from the first."""
    return {
        name: torch.lerp(tensor, second[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def walk_line(
    module: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    images: Images,
    *,
    points: int = 25,
    recalibrate_on: Images | None = None,
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
                recalibrate_batch_norm(module, recalibrate_on.inputs)
            found = score(module, images)
            line.shares.append(share)
            line.losses.append(float(found.loss[0]))
            line.accuracies.append(float(found.accuracy[0]))
            advance()
    return line
