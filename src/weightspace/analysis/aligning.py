"""Align one network to another, and measure what that does to the line between them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from weightspace.analysis.interpolating import Line, walk_line
from weightspace.batch_norms import batch_norms
from weightspace.errors import InputError, require_between
from weightspace.images import ImageSet
from weightspace.symmetry.axes import Permutations, Symmetry, permute
from weightspace.symmetry.matching import match
from weightspace.weights.values import Weights, require_shapes, shapes_of

AS_GIVEN, ALIGNED = "as given", "aligned"
RECALIBRATED = ", batch norm recalibrated"


@dataclass(frozen=True)
class Alignment:
    """A network aligned to a reference.

    Attributes:
        weights: the aligned network; its function is the old one.
        permutations: that made it.
        distances: Euclidean distance of the parameters to the reference's, before and after.
        moved: share of the entries of all groups that changed place.
        lines: loss and accuracy between the two networks, by name of the path; empty without images.
    """

    weights: Weights
    permutations: Permutations
    distances: tuple[float, float]
    moved: float
    lines: dict[str, Line] = field(default_factory=dict)


def align(
    weights: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    restarts: int = 0,
    seed: int = 0,
) -> Alignment:
    """Permute a network to match a reference (see `match`).

    Raises:
        WeightsMismatch: the two differ in names or shapes.
        InputError: the symmetry moves nothing, or weights are not finite.
    """
    require_shapes(weights, shapes_of(reference))
    require_between("restarts", restarts, 0)
    if not symmetry.groups:
        raise InputError(f"expected a symmetry with groups to align by, found none ({symmetry.report()})")
    found = match(weights, reference, symmetry, restarts=restarts, seed=seed)
    aligned = permute(weights, symmetry, found)
    entries = sum(symmetry.groups.values())
    stayed = sum(int((own == own.sort().values).sum()) for own in found.values())
    distances = tuple(_distance(own, reference, symmetry) for own in (weights, aligned))
    return Alignment(aligned, found, (distances[0], distances[1]), 1 - stayed / entries)


def walk_lines(
    module: nn.Module, alignment: Alignment, weights: Weights, reference: Weights, images: ImageSet, *, points: int = 25
) -> dict[str, Line]:
    """The lines from a reference to a network as it was given and aligned, on test images.

    With batch norm there are two more, whose statistics are set anew on training images at every point.
    """
    require_between("points", points, 3)
    lines = {}
    for suffix, batch in (("", None), (RECALIBRATED, images.train)):
        if batch is not None and not batch_norms(module):
            continue
        for name, own in ((AS_GIVEN, weights), (ALIGNED, alignment.weights)):
            lines[name + suffix] = walk_line(module, reference, own, images.test, points=points, recalibrate_on=batch)
    return lines


def _distance(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> float:
    parts = (
        float((weights[name].double() - reference[name].double()).square().sum())
        for name in symmetry.axes
        if name not in symmetry.buffers
    )
    return math.sqrt(sum(parts))
