"""Match networks by what their units do: activation matching, beside the weight matching of `symmetry`.

Units of two networks belong together if they answer the same inputs alike (Li et al., 2016; Ainsworth et al., 2023,
section 3.1). The correlations of all pairs of units are a linear assignment for every group; nothing is iterated.
Deviations: correlations instead of inner products, so that loud units do not decide; units are observed as they are
written, before the activation function. Groups of which nothing is observed are matched by their weights afterwards.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.responses.asking import Asker
from weightspace.responses.observing import PRODUCTS, Place
from weightspace.symmetry.axes import Axis, Permutations, Symmetry, groups_of, permute, shape_of
from weightspace.symmetry.matching import match_weights

# So many inputs of each kind are followed through both networks.
WATCHED = 64
SMALLEST = 1e-12


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
    count = min(WATCHED, asker.questions.each)
    moving, fixed = asker.watch(weights, count), asker.watch(reference, count)
    costs: dict[str, np.ndarray] = {}
    for place in asker.places:
        axis = _axis_of(place, symmetry)
        groups = groups_of((axis,)) if axis is not None else []
        # Where two groups move one axis, as heads and what is in them do, neither is settled alone.
        if axis is None or len(groups) != 1 or any(factor.parts for factor in axis):
            continue
        likeness = _correlations(fixed[place.name], moving[place.name])
        costs[groups[0]] = costs.get(groups[0], 0.0) + _of_the_group(likeness, axis)
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


def _correlations(
    first: Float[Tensor, "inputs units positions"], second: Float[Tensor, "inputs units positions"]
) -> Float[Tensor, "units units"]:
    one, two = (_standardized(values) for values in (first, second))
    return one @ two.T / one.shape[1]


def _standardized(values: Float[Tensor, "inputs units positions"]) -> Float[Tensor, "units samples"]:
    """Mean 0 and variance 1 for every unit; one that is constant stays 0, and what is not finite says nothing."""
    samples = values.movedim(1, 0).flatten(1).double().nan_to_num(0.0, 0.0, 0.0)
    centered = samples - samples.mean(1, keepdim=True)
    spread = centered.square().mean(1, keepdim=True).sqrt()
    return centered / spread.clamp_min(SMALLEST) * (spread > SMALLEST)


def _of_the_group(likeness: Float[Tensor, "units units"], axis: Axis) -> np.ndarray:
    """Summed over what the group does not move."""
    sizes = [factor.size for factor in axis]
    moved = next(number for number, factor in enumerate(axis) if factor.group is not None)
    before, after = math.prod(sizes[:moved]), math.prod(sizes[moved + 1 :])
    apart = likeness.view(before, sizes[moved], after, before, sizes[moved], after)
    return torch.einsum("aibajb->ij", apart).numpy()
