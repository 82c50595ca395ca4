"""Align one network to another, and measure what that does to the line between them.

Two networks trained apart usually have a wall of high loss between them; after alignment it is lower, or gone
(Entezari et al., 2022; Ainsworth et al., 2023).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weightspace.analysis.config import AlignConfig
from weightspace.autoencoder.reconstructing import conditioning_images
from weightspace.batch_norms import batch_norms
from weightspace.corpus.asking import make_asker
from weightspace.corpus.frame import symmetry_of
from weightspace.corpus.matching_units import match_units
from weightspace.errors import InputError, require_between
from weightspace.images import Images, ImageSet
from weightspace.linear_paths import Line, walk_line
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.symmetry.axes import Permutations, Symmetry, permute
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.tracing import NO_EFFECT, NOT_USED
from weightspace.weights.values import Weights, require_shapes, shapes_of, some_of
from weightspace.zoo.addressing import open_network
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.recorded_images import images_for_networks

AS_GIVEN, ALIGNED = "as given", "aligned"
MOST_RECALIBRATED = 4_000
RECALIBRATED = ", batch norm recalibrated"


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
    asker: Asker | None = None,
    restarts: int | None = None,
    seed: int = 0,
) -> Alignment:
    """Permute a network to match a reference.

    Args:
        weights, reference: two networks of one architecture; the first is permuted.
        symmetry: of that architecture.
        asker: of it: units are matched by what they do (see `match_units`); without it by their weights.
        restarts, seed: of matching by weights; see `match_weights`.

    Raises:
        WeightsMismatch: the two differ in names or shapes.
        InputError: the symmetry moves nothing, or weights are not finite.
    """
    require_shapes(weights, shapes_of(reference))
    require_between("restarts", restarts or 0, 0)
    if not symmetry.groups:
        raise InputError(f"expected a symmetry with groups to align by, found none ({symmetry.report()})")
    if asker is not None:
        permutations = match_units(asker, weights, reference, symmetry)
    else:
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
    ask: AskConfig | None = None,
    given: Architecture | None = None,
    symmetry: Path | None = None,
) -> Alignment:
    """`align` for networks by name (see `open_network`), with lines of loss where there are images.

    What `weightspace align` does.

    Args:
        reference: what the other is permuted to match.
        model: the network that is permuted.
        config: images, and by what units are matched.
        ask: what networks are asked with, where units are matched by activations.
        given: an architecture that the caller vouches for; else that of a zoo's member.
        symmetry: a JSON file with a symmetry by hand.

    Raises:
        InputError: no such networks, or nobody says how they are built.
    """
    first, second = open_network(reference), open_network(model)
    known = given or first.architecture or second.architecture
    fixed, moved = (_fitted(network.weights, known) for network in (first, second))
    axes = symmetry_of(known, symmetry, fixed)
    asker = _asker_of(known, ask or AskConfig()) if config.by == "activations" else None
    alignment = align(moved, fixed, axes, asker=asker, restarts=config.restarts, seed=config.seed)
    alignment = replace(alignment, buildable=known is not None)
    if config.data and known is not None:
        module = known.build()
        images = images_for_networks([reference, model], config.data, known)
        few = Images(images.test.inputs[: config.test_images], images.test.labels[: config.test_images])
        images = images._replace(test=few)
        lines = walk_lines(module, alignment, moved, fixed, images, points=config.points)
        alignment = replace(alignment, lines=lines)
    return alignment


def _asker_of(known: Architecture | None, ask: AskConfig) -> Asker:
    if known is None:
        raise InputError("expected --architecture my_nets:Net --example SHAPE to match activations, found files alone")
    return make_asker(known, ask)


def _fitted(weights: Weights, known: Architecture | None) -> Weights:
    """Weights as their architecture has them, where that is known."""
    return fit_weights(weights, known).weights if known is not None else weights
