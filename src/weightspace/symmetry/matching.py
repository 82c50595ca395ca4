"""Match networks to a reference by permuting them: weight matching (git re-basin) on stacked weights.

Coordinate descent over the groups of a symmetry: with all other groups fixed, the best permutation of one
group is a linear assignment. Paper, section 3.2; Ainsworth et al., 2023, algorithm 1. Deviations: groups are
visited in a fixed order (the published code draws it, unseeded, so that embeddings jitter between runs),
buffers such as batch-norm statistics do not enter the cost, and a step is taken only if the objective rises.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.symmetry.axes import Axis, Permutations, Symmetry, axis_index
from weightspace.weights import Weights

MAX_SWEEPS = 100
RELATIVE_GAIN = 1e-9


def match(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> Permutations:
    """The permutations that bring one network as close as possible to a reference (a local optimum)."""
    stack = {name: weights[name][None] for name in symmetry.moved}
    return {group: permutation[0] for group, permutation in match_stack(stack, reference, symmetry).items()}


def match_stack(
    stack: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, Int[Tensor, "networks _"]]:
    """`match` for many networks at once.

    Args:
        stack: tensors `[networks, *shape]`.
        reference: the weights of one network; tensors it lacks do not enter the cost.

    Returns:
        For every group one permutation per network, to be used with `permute`.
    """
    count = len(next(iter(stack.values()))) if stack else 0
    names = [name for name in symmetry.moved if name not in symmetry.buffers and name in reference]
    moving = {name: stack[name].to(torch.float64) for name in names}
    fixed = {name: reference[name].to(torch.float64) for name in names}
    current = {group: torch.arange(size).repeat(count, 1) for group, size in symmetry.groups.items()}
    stale = set(symmetry.groups)
    for _ in range(MAX_SWEEPS):
        if not stale:
            break
        for group in symmetry.groups:
            if group in stale:
                stale.discard(group)
                if _improve(group, current, moving, fixed, symmetry):
                    stale |= _neighbors(group, symmetry)
    return current


def objective(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> float:
    """The inner product that matching raises, over the parameters that some group moves."""
    names = [name for name in symmetry.moved if name not in symmetry.buffers]
    return float(sum((weights[name].double() * reference[name].double()).sum() for name in names))


def _improve(
    group: str,
    current: dict[str, Int[Tensor, "networks _"]],
    moving: Weights,
    fixed: Weights,
    symmetry: Symmetry,
) -> bool:
    """Solve one group for every network; true if some network moved."""
    touched = [name for name in moving if _uses(symmetry.axes[name], group)]
    cost = sum(_costs(group, name, current, moving, fixed, symmetry) for name in touched)
    if not isinstance(cost, Tensor):
        return False
    twice = any(_uses(symmetry.axes[name], group) > 1 for name in touched)
    solved = current[group].clone()
    for number, matrix in enumerate(cost.numpy()):
        old = matrix[range(len(matrix)), current[group][number]].sum()
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        if matrix[rows, columns].sum() > old + RELATIVE_GAIN * abs(matrix).sum():
            solved[number] = torch.from_numpy(columns)
    if twice:
        trial = {**current, group: solved}
        before = _objectives(touched, current, moving, fixed, symmetry)
        after = _objectives(touched, trial, moving, fixed, symmetry)
        better = after > before + RELATIVE_GAIN * before.abs()
        solved = torch.where(better[:, None], solved, current[group])
    changed = not torch.equal(solved, current[group])
    current[group] = solved
    return changed


def _costs(
    group: str,
    name: str,
    current: dict[str, Int[Tensor, "networks _"]],
    moving: Weights,
    fixed: Weights,
    symmetry: Symmetry,
) -> Float[Tensor, "networks size size"]:
    """What each pairing of entries of `group` is worth in one tensor, other groups as they are now."""
    axes = symmetry.axes[name]
    sizes = [factor.size for axis in axes for factor in axis]
    groups = [factor.group for axis in axes for factor in axis]
    count = len(moving[name])
    total = torch.zeros(count, symmetry.groups[group], symmetry.groups[group], dtype=torch.float64)
    for place in (number for number, other in enumerate(groups) if other == group):
        permuted = moving[name].reshape(count, *sizes)
        for number, other in enumerate(groups):
            if other is not None and number != place:
                permuted = _take(permuted, number + 1, current[other])
        left = fixed[name].reshape(sizes).movedim(place, 0).reshape(sizes[place], -1)
        right = permuted.movedim(place + 1, 1).reshape(count, sizes[place], -1)
        total += left @ right.transpose(1, 2)
    return total


def _take(stack: Tensor, dim: int, index: Int[Tensor, "networks size"]) -> Tensor:
    """Reorder axis `dim` of every network by its own index."""
    moved = stack.movedim(dim, 1)
    return moved[torch.arange(len(moved))[:, None], index].movedim(1, dim)


def _objectives(
    names: list[str],
    permutations: dict[str, Int[Tensor, "networks _"]],
    moving: Weights,
    fixed: Weights,
    symmetry: Symmetry,
) -> Float[Tensor, "networks"]:
    total = torch.zeros(len(next(iter(permutations.values()))), dtype=torch.float64)
    for name in names:
        permuted = permute_stack_tensor(moving[name], symmetry.axes[name], permutations)
        total += (permuted * fixed[name]).flatten(1).sum(1)
    return total


def permute_stack_tensor(
    stack: Float[Tensor, "networks ..."],
    axes: tuple[Axis, ...],
    permutations: Mapping[str, Int[Tensor, "networks _"]],
) -> Float[Tensor, "networks ..."]:
    """Permute one stacked tensor, every network by its own permutations."""
    for number, axis in enumerate(axes):
        if any(factor.group for factor in axis):
            index = torch.stack(
                [axis_index(axis, {group: rows[n] for group, rows in permutations.items()}) for n in range(len(stack))]
            )
            stack = _take(stack, number + 1, index)
    return stack


def _uses(axes: tuple[Axis, ...], group: str) -> int:
    return sum(factor.group == group for axis in axes for factor in axis)


def _neighbors(group: str, symmetry: Symmetry) -> set[str]:
    """Groups whose cost depends on `group`: those that share a tensor with it."""
    shared = [axes for name, axes in symmetry.axes.items() if name not in symmetry.buffers and _uses(axes, group)]
    found = {factor.group for axes in shared for axis in axes for factor in axis if factor.group is not None}
    doubled = any(_uses(axes, group) > 1 for axes in shared)
    return found if doubled else found - {group}
