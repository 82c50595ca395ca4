"""Align one network to another, and measure what that does to the line between them.

Two networks trained apart usually have a wall of high loss between them; after alignment it is lower, or gone
(Entezari et al., 2022; Ainsworth et al., 2023).
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.config import AlignConfig
from weightspace.autoencoder.reconstructing import conditioning_images
from weightspace.batch_norms import batch_norms, recalibrate_batch_norm
from weightspace.errors import InputError, require_between
from weightspace.images import Images, ImageSet, open_images
from weightspace.inputs import read_object
from weightspace.progress import progress_bar
from weightspace.supervised import score
from weightspace.symmetry.axes import Permutations, Symmetry, permute
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.tracing import NO_EFFECT, NOT_USED, trace_symmetry
from weightspace.weights.values import Weights, require_shapes, shapes_of, some_of
from weightspace.zoo.addressing import open_network
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.recorded_images import require_shape

AS_GIVEN, ALIGNED = "as given", "aligned"
MOST_RECALIBRATED = 4_000
RECALIBRATED = ", batch norm recalibrated"


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
    """`(1 - share) * first + share * second`, in 32 bits at the least; what is no floating-point number is taken from
    the first.
    """
    return {name: _blend(tensor, second[name], share) for name, tensor in first.items()}


def _blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """In 32 bits at the least: one of two networks may be in half precision."""
    if not first.is_floating_point():
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


@dataclass(frozen=True)
class Alignment:
    """A network aligned to a reference.

    Attributes:
        weights: the aligned network; its function is the old one.
        permutations: that made it.
        distances: Euclidean distance of the parameters to the reference's, before and after.
        moved: share of the entries of all groups that changed place; units: how many there are.
        buildable: whether it is known how the networks are built.
        left: tensors of several numbers that no output depends on: they are as they were, whatever moved beside them.
        lines: loss and accuracy between the two networks, by name of the path; empty without images.
    """

    weights: Weights
    permutations: Permutations
    distances: tuple[float, float]
    moved: float
    units: int
    buildable: bool = False
    left: tuple[str, ...] = ()
    lines: dict[str, Line] = field(default_factory=dict)

    @property
    def barriers(self) -> dict[str, float]:
        """How far the loss rises along each line."""
        return {name: line.barrier for name, line in self.lines.items()}

    def describe(self) -> str:
        """What moved, in words."""
        before, after = self.distances
        said = f"{self.moved:.0%} of {self.units:,} units moved; distance {before:.4g} -> {after:.4g}"
        if self.left:
            said += f"; no output uses {some_of(list(self.left))}, which stay as they were"
        return said

    def describe_barriers(self) -> str:
        """The loss barriers, in words."""
        return f"loss barrier {self.barriers[AS_GIVEN]:.3g} -> {self.barriers[ALIGNED]:.3g}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all but the weights."""
        before, after = self.distances
        return {
            "distance": {AS_GIVEN: before, ALIGNED: after},
            "moved": self.moved,
            "barriers": self.barriers,
            "lines": {name: line._asdict() for name, line in self.lines.items()},
        }


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
    permutations = match_weights(weights, reference, symmetry, restarts=restarts, seed=seed)
    aligned = permute(weights, symmetry, permutations)
    units = sum(symmetry.groups.values())
    stayed = sum(int((order == order.sort().values).sum()) for order in permutations.values())
    before, after = (_distance(network, reference, symmetry) for network in (weights, aligned))
    places = [name.partition("[")[0] for reason in (NOT_USED, NO_EFFECT) for name in symmetry.frozen.get(reason, ())]
    left = tuple(name for name in dict.fromkeys(places) if name in weights and weights[name].numel() > 1)
    return Alignment(aligned, permutations, (before, after), 1 - stayed / units, units, left=left)


def walk_lines(
    module: nn.Module, alignment: Alignment, weights: Weights, reference: Weights, images: ImageSet, *, points: int = 25
) -> dict[str, Line]:
    """The lines from a reference to a network as it was given and aligned, on test images.

    With batch norm there are two more, whose statistics are set anew at every point on 4,000 training images, which are
    enough (Jordan et al., 2023).
    """
    require_between("points", points, 3)
    few = conditioning_images(images.train, MOST_RECALIBRATED, images.seed)
    lines = {}
    for suffix, batch in (("", None), (RECALIBRATED, few)):
        if batch is not None and not batch_norms(module):
            continue
        for name, network in ((AS_GIVEN, weights), (ALIGNED, alignment.weights)):
            lines[name + suffix] = walk_line(
                module, reference, network, images.test, points=points, recalibrate_on=batch
            )
    return lines


def _distance(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> float:
    parts = (
        float((weights[name].double() - reference[name].double()).square().sum())
        for name in symmetry.axes
        if name not in symmetry.buffers
    )
    return math.sqrt(sum(parts))


def align_networks(
    reference: str,
    model: str,
    config: AlignConfig,
    *,
    given: Architecture | None = None,
    symmetry: Path | None = None,
) -> Alignment:
    """`align` for networks by name (see `open_network`), with lines of loss where there are images.

    What `weightspace align` does.

    Args:
        reference: what the other is permuted to match.
        model: the network that is permuted.
        config: images, and how hard to try.
        given: an architecture that the caller vouches for; else that of a zoo's member.
        symmetry: a JSON file with a symmetry by hand.

    Raises:
        InputError: no such networks, or nobody says how they are built.
    """
    first, second = open_network(reference), open_network(model)
    known = given or first.architecture or second.architecture
    axes = symmetry_of(known, symmetry)
    fixed, moved = (_fitted(network.weights, known) for network in (first, second))
    alignment = align(moved, fixed, axes, restarts=config.restarts, seed=config.seed)
    alignment = replace(alignment, buildable=known is not None)
    if config.data and known is not None:
        module = known.build()
        shape = known.example_shape or ()
        images = open_images(
            config.data, size=shape[-1] if len(shape) == 4 else None, limits=(None, config.test_images)
        )
        require_shape(known, images.test.inputs)
        lines = walk_lines(module, alignment, moved, fixed, images, points=config.points)
        alignment = replace(alignment, lines=lines)
    return alignment


def _fitted(weights: Weights, known: Architecture | None) -> Weights:
    """Weights as their architecture has them, where that is known."""
    return fit_weights(weights, known).weights if known is not None else weights


def symmetry_of(known: Architecture | None, file: Path | None = None) -> Symmetry:
    """A symmetry by hand, or that of the architecture, derived and proved where it may be built."""
    if file is not None:
        return _read_symmetry(file)
    if known is None:
        raise InputError(
            "expected --architecture my_nets:Net --example SHAPE, --symmetry FILE, or ZOO:MEMBER, found files alone, "
            "which do not say how the network is built"
        )
    if known.symmetry is None:
        inputs = known.inputs()
        return trace_symmetry(known.build(), *inputs.positional, **inputs.named)
    return Symmetry.from_json(known.symmetry)


def _read_symmetry(path: Path) -> Symmetry:
    try:
        return Symmetry.from_json(read_object(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected a symmetry as `weightspace symmetry --json` prints it in {path}, found none ({error})"
        ) from error
