"""Match networks by what their units do: activation matching, beside the weight matching of `symmetry`.

Units of two networks belong together if they answer the same inputs alike (Li et al., 2016; Ainsworth et al., 2023,
section 3.1). The correlations of all pairs of units are a linear assignment for every group; nothing is iterated.
Deviations: correlations instead of inner products, so that loud units do not decide; units are observed as they are
written, before the activation function. Groups of which nothing is observed are matched by their weights afterwards.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.responses.asking import Asker, Visit
from weightspace.responses.observing import PRODUCTS, Place
from weightspace.symmetry.axes import Axis, Permutations, Symmetry, groups_of, permute, shape_of
from weightspace.symmetry.matching import match_weights

# Of the mean square, what is left of a constant by rounding.
ROUNDING = 1e-9


def match_units(
    asker: Asker, weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> Permutations:
    """The permutations that bring units of one network to those of a reference that answer alike.

    Args:
        asker: of their architecture: what both are asked with.
        weights, reference: two networks, under the architecture's names.
        symmetry: of that architecture.

    Raises:
        WeightsMismatch: a tensor that the symmetry moves is missing, or has another shape.
        InputError: NaN or infinite weights.

    Examples:
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> symmetry = ws.trace_symmetry(module, torch.zeros(1, 4))
        >>> asker, first = ws.responses.Asker(module, ws.responses.draw_questions([(1, 4)])), module.state_dict()
        >>> second = ws.permute(first, symmetry, ws.random_permutations(symmetry, torch.Generator()))
        >>> back = ws.permute(second, symmetry, match_units(asker, second, first, symmetry))
        >>> all(torch.equal(back[name], first[name]) for name in first)
        True
    """
    costs = _costs(asker, weights, reference, symmetry)
    solved = {group: torch.from_numpy(linear_sum_assignment(-cost)[1]) for group, cost in costs.items()}
    whole = {group: solved.get(group, torch.arange(size)) for group, size in symmetry.groups.items()}
    rest = symmetry.without(costs.keys(), "matched by what units do")
    matched = match_weights(permute(weights, symmetry, whole), reference, rest) if rest.groups else {}
    return {**whole, **matched}


def _costs(
    asker: Asker, weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, np.ndarray]:
    """For every observed group how alike units of the reference (rows) and of the network (columns) answer."""
    axes = {place.name: axis for place in asker.places if (axis := _axis_of(place, symmetry)) is not None}
    # Where two groups move one axis, as heads and what is in them do, neither is settled alone.
    axes = {name: axis for name, axis in axes.items() if sum(factor.group is not None for factor in axis) == 1}
    axes = {name: axis for name, axis in axes.items() if len(groups_of((axis,))) == 1}
    sums = {name: _Products() for name in axes}
    values: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

    def keep(kept: dict[str, Tensor]) -> Visit:
        def visit(place: Place, value: Any, count: int) -> Any:
            if place.name in axes:
                kept[place.name] = place.units_of(value, count)[: count // 2]
            return value

        return visit

    runs = (asker.run(network, keep(kept)) for network, kept in zip((reference, weights), values, strict=True))
    for _ in zip(*runs, strict=True):
        for name in axes:
            sums[name].add(*(kept[name] for kept in values))
    costs: dict[str, np.ndarray] = {}
    for name, axis in axes.items():
        (group,) = groups_of((axis,))
        costs[group] = costs.get(group, 0.0) + _of_the_group(sums[name].correlations(), axis)
    return costs


def _axis_of(place: Place, symmetry: Symmetry) -> Axis | None:
    """The axis of a parameter along which the units of a place lie, where that is certain."""
    tensors = [symmetry.axes[name] for name in place.parameters if name in symmetry.axes]
    fitting = [[axis for axis in axes if math.prod(shape_of((axis,))) == place.units] for axes in tensors]
    vectors = [right[0] for right, axes in zip(fitting, tensors, strict=True) if len(axes) == 1 and right]
    if vectors:
        return vectors[-1]
    several = {axis for axes in fitting for axis in axes}
    if len(several) == 1:
        return several.pop()
    rows_first = place.operation not in PRODUCTS and "transpose" not in place.operation
    return fitting[0][0] if rows_first and fitting and fitting[0] else None


class _Products:
    """Sums of what units of two networks write, and of its products, over inputs and positions."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(
        self, first: Float[Tensor, "inputs units positions"], second: Float[Tensor, "inputs units positions"]
    ) -> None:
        """More of both; what is not finite says nothing."""
        one, two = (values.movedim(1, 0).flatten(1).double().nan_to_num(0.0, 0.0, 0.0) for values in (first, second))
        parts = [one.sum(1), two.sum(1), one.square().sum(1), two.square().sum(1), one @ two.T]
        self.count += one.shape[1]
        self.sums = [total + part for total, part in zip(self.sums, parts, strict=True)] if self.sums else parts

    def correlations(self) -> Float[Tensor, "units units"]:
        """Of all pairs of units; 0 for those that are constant."""
        one, two, squares_one, squares_two, products = (total.cpu() / self.count for total in self.sums)
        spread_one, spread_two = _spread(squares_one, one), _spread(squares_two, two)
        return (products - one[:, None] * two) / spread_one[:, None] / spread_two


def _spread(squares: Float[Tensor, "units"], mean: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    """Standard deviations; infinite where a unit is constant up to rounding."""
    variance = squares - mean.square()
    return torch.where(variance > ROUNDING * squares, variance.clamp_min(0).sqrt(), torch.inf)


def _of_the_group(likeness: Float[Tensor, "units units"], axis: Axis) -> np.ndarray:
    """Summed over what the group does not move."""
    sizes = [factor.size for factor in axis]
    moved = next(number for number, factor in enumerate(axis) if factor.group is not None)
    before, after = math.prod(sizes[:moved]), math.prod(sizes[moved + 1 :])
    apart = likeness.view(before, sizes[moved], after, before, sizes[moved], after)
    return torch.einsum("aibajb->ij", apart).numpy()
