"""Match networks to a reference by permuting them: weight matching (git re-basin) on stacked weights.

Coordinate descent over the groups of a symmetry: with all other groups fixed, the best permutation of one
group is a linear assignment. Paper, section 3.2; Ainsworth et al., 2023, algorithm 1. Deviations: groups are
visited in a fixed order (the published code draws it, unseeded, so that embeddings jitter between runs),
buffers such as batch-norm statistics do not enter the cost, and a step is taken only if the objective rises.

What makes it fast: many networks at once; what a tensor adds to the cost of a group is kept and renewed only
where other groups have moved since, entry by entry if few have; the first sweep looks only at tensors whose
other axes have been visited, which costs half and starts better; an assignment that can be read off is not
solved for.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.devices import require_one_device
from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import Axis, Permutations, Symmetry, axis_index, groups_of, shape_of
from weightspace.symmetry.strided import Strided, strided_of
from weightspace.weights.values import Weights, WeightsMismatch

MAX_SWEEPS = 100
SMALLEST_GAIN = 2e-6
SMALL, LARGE = 1e-6, 1e6
# Small networks are matched from several starts: each takes milliseconds, and one may end far from the best.
RESTARTS, FEW_NUMBERS = 10, 100_000
MEAN_ROUNDS, SMALLEST_MEAN_GAIN = 10, 1e-3

Stacked = dict[str, Int[Tensor, "networks _"]]


def match_weights(
    weights: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    restarts: int | None = 0,
    seed: int = 0,
) -> Permutations:
    """The permutations that bring one network as close as possible to a reference (a local optimum).

    Args:
        weights, reference: two networks of one architecture.
        symmetry: of that architecture.
        restarts: so many further starts from random permutations; the best end is kept. None: ten for networks of up to
            100,000 numbers, none for larger ones.
        seed: decides these.

    Raises:
        WeightsMismatch: a tensor that the symmetry moves is missing, or has another shape.
        InputError: NaN or infinite weights, or tensors on several devices.
    """
    _require_fit({name: tensor[None] for name, tensor in weights.items()}, reference, symmetry)
    stack = {name: weights[name][None] for name in symmetry.moved}
    if restarts is None:
        restarts = RESTARTS if sum(tensor.numel() for tensor in stack.values()) <= FEW_NUMBERS else 0
    found = match_stack(stack, reference, symmetry, restarts=restarts, seed=seed)
    return {group: permutation[0] for group, permutation in found.items()}


def match_stack(
    stack: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    restarts: int = 0,
    seed: int = 0,
) -> Stacked:
    """`match` for many networks at once.

    Args:
        stack: tensors `[networks, *shape]`.
        reference: the weights of one network; tensors it lacks do not enter the cost.
        symmetry: of all of them.
        restarts, seed: as for `match`.

    Returns:
        For every group one permutation per network, to be used with `permute`; on the CPU, wherever the weights are.

    Raises:
        WeightsMismatch, InputError: as for `match`.
    """
    require_one_device("two networks to match", [*stack.values(), *reference.values()])
    _require_fit(stack, reference, symmetry)
    count = len(next(iter(stack.values()))) if stack else 0
    descent = _Descent(stack, reference, symmetry)
    start = {group: torch.arange(size).repeat(count, 1) for group, size in symmetry.groups.items()}
    best = descent.run(start, first_sweep=True)
    for attempt in range(restarts):
        generator = derive_generator(seed, "restart", attempt)
        start = {
            group: torch.randperm(size, generator=generator).repeat(count, 1) for group, size in symmetry.groups.items()
        }
        restarted = descent.run(start, first_sweep=False)
        reached = descent.values(best)
        better = descent.values(restarted) > reached + SMALLEST_GAIN * reached.abs()
        best = {group: torch.where(better[:, None], restarted[group], order) for group, order in best.items()}
    return best


def objective(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> float:
    """The inner product that matching raises, over the parameters that some group moves and the reference has."""
    names = [name for name in symmetry.moved if name not in symmetry.buffers and name in reference]
    return float(sum((weights[name].double() * reference[name].double()).sum() for name in names))


def permute_stack_tensor(
    stack: Float[Tensor, "networks ..."],
    axes: tuple[Axis, ...],
    permutations: Mapping[str, Int[Tensor, "networks _"]],
) -> Float[Tensor, "networks ..."]:
    """Permute one stacked tensor, every network by its own permutations."""
    for number, axis in enumerate(axes):
        if groups_of((axis,)):
            stack = _take(stack, number + 1, axis_index(axis, permutations))
    return stack


def iterated_mean(
    stacks: Callable[[], Iterable[Mapping[str, Tensor]]], start: Mapping[str, Tensor], symmetry: Symmetry
) -> Weights:
    """Align all networks to a reference, average them, align to the average, and so on.

    The squared length of the mean says how well the aligned networks agree; it rises from round to round, and the
    search ends when it rises by less than a thousandth, or after ten rounds.

    Args:
        stacks: gives the networks, stack by stack `[networks, *shape]`, every time it is called.
        start: the weights of one network, the first reference.
        symmetry: of all of them.

    Returns:
        The mean; no network in itself, but one can be aligned to it.
    """
    reference, reached = dict(start), 0.0
    for _ in range(MEAN_ROUNDS):
        mean = _aligned_mean(stacks(), reference, symmetry)
        length = sum(float(mean[name].double().square().sum()) for name in mean if name not in symmetry.buffers)
        if length <= reached * (1 + SMALLEST_MEAN_GAIN):
            break
        reference, reached = mean, length
    return reference


def _aligned_mean(
    stacks: Iterable[Mapping[str, Tensor]], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> Weights:
    total: Weights = {}
    count = 0
    for stack in stacks:
        found = match_stack(stack, reference, symmetry)
        for name in reference:
            aligned = permute_stack_tensor(stack[name], symmetry.axes[name], found)
            total[name] = aligned.double().sum(0) + total.get(name, 0)
        count += len(next(iter(stack.values())))
    return {name: (tensor / count).to(reference[name].dtype) for name, tensor in total.items()}


class _Term:
    """What one block of a tensor adds to the cost of a group that acts on one of its axes.

    Attributes:
        moving, fixed: the block in the networks and in the reference, the group's axis first.
        others: the other axes that some group moves, as (axis, group).
        cost: per network, how well entry j of the network goes with entry i of the reference.
    """

    def __init__(self, moving: Tensor, fixed: Tensor, block: Strided, axis: int) -> None:
        self.moving, self.fixed = moving.movedim(axis + 1, 1), fixed.movedim(axis, 0)
        groups = list(block.groups)
        self.group = groups.pop(axis)
        self.others = tuple((axis, group) for axis, group in enumerate(groups, start=1) if group is not None)
        self.place, self.size = axis, block.sizes[axis]
        self.doubled = any(group == self.group for _, group in self.others)
        self.seen: Stacked | None = None
        self.cost = moving.new_zeros(0)

    def forget(self) -> None:
        """Start again."""
        self.seen = None

    def renew(self, current: Stacked) -> Bool[Tensor, "networks"]:
        """Bring `cost` up to date; returns for which networks it changed."""
        count = len(self.moving)
        if self.seen is None:
            changed = torch.ones(count, dtype=torch.bool)
            self.cost = self._costs(current, torch.arange(count))
        else:
            moved = {group: current[group] != self.seen[group] for _, group in self.others}
            changed = torch.stack([own.any(1) for own in moved.values()]).any(0) if moved else torch.zeros(count).bool()
            if changed.any():
                self._update(current, changed, moved)
        self.seen = {group: current[group].clone() for _, group in self.others}
        return changed

    def values(self, current: Stacked) -> Float[Tensor, "networks"]:
        """The block's share of the objective."""
        moved = _take(self._moved(current, torch.arange(len(self.moving))), 1, current[str(self.group)])
        return (moved * self.fixed).flatten(1).sum(1, dtype=torch.float64).cpu()

    def _update(self, current: Stacked, changed: Bool[Tensor, "networks"], moved: dict[str, Tensor]) -> None:
        (axis, group), *rest = self.others
        entries = moved[group].nonzero()[:, 1]
        if len(changed) > 1 or rest or 2 * len(entries) > moved[group].shape[1]:
            rows = changed.nonzero()[:, 0]
            self.cost[rows] = self._costs(current, rows)
            return
        assert self.seen is not None
        now, before = (_select(self.moving[0], axis, own[group][0, entries]) for own in (current, self.seen))
        fixed = _select(self.fixed, axis, entries).flatten(1)
        self.cost[0] += (now - before).flatten(1) @ fixed.T

    def _costs(self, current: Stacked, rows: Int[Tensor, "rows"]) -> Float[Tensor, "rows size size"]:
        return self._moved(current, rows).reshape(len(rows), self.size, -1) @ self.fixed.reshape(self.size, -1).T

    def _moved(self, current: Stacked, rows: Int[Tensor, "rows"]) -> Tensor:
        """The networks' block with all groups but the own one applied."""
        moved = self.moving if len(rows) == len(self.moving) else self.moving[rows]
        for axis, group in self.others:
            moved = _take(moved, axis + 1, current[group][rows])
        return moved


class _Descent:
    """Coordinate descent for stacked networks towards one reference."""

    def __init__(self, stack: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> None:
        self.terms: dict[str, list[_Term]] = {group: [] for group in symmetry.groups}
        self.networks = len(next(iter(stack.values()))) if stack else 0
        names = [name for name in symmetry.moved if name not in symmetry.buffers and name in reference]
        units = [_unit([tensors[name] for name in names]) for tensors in (stack, reference)]
        for name in names:
            moving, fixed = (
                tensors[name].detach() * unit for tensors, unit in zip((stack, reference), units, strict=True)
            )
            moving, fixed = moving.float().contiguous(), fixed.float().contiguous()
            if not (moving.isfinite().all() and fixed.isfinite().all()):
                raise InputError(f"expected finite weights to match, found NaN or infinity in {name}")
            for block in strided_of(symmetry.axes[name]):
                views = _views(moving, fixed, block)
                for axis, group in enumerate(block.groups):
                    if group is not None:
                        self.terms[group].append(_Term(*views, block, axis))

    def run(self, start: Stacked, *, first_sweep: bool) -> Stacked:
        """Descend from a start until no group moves."""
        current = dict(start)
        for terms in self.terms.values():
            for term in terms:
                term.forget()
        if first_sweep:
            self._sweep_forward(current)
        for _ in range(MAX_SWEEPS):
            if not [group for group in self.terms if self._improve(group, current)]:
                break
        return current

    def values(self, current: Stacked) -> Float[Tensor, "networks"]:
        """The objective of every network."""
        shares = [term.values(current) / (1 + len(term.others)) for terms in self.terms.values() for term in terms]
        return torch.stack(shares).sum(0) if shares else torch.zeros(self.networks, dtype=torch.float64)

    def _sweep_forward(self, current: Stacked) -> None:
        """Visit every group once, looking only at tensors whose other axes have been visited."""
        visited: set[str] = set()
        for group, terms in self.terms.items():
            visited.add(group)
            settled = [
                term for term in terms if all(beside in visited for _, beside in term.others) and not term.doubled
            ]
            if settled and len(settled) < len(terms):
                for term in settled:
                    term.renew(current)
                solved = _solve(_total(settled), current[group])
                current[group] = self._accept(group, current, solved, settled)

    def _improve(self, group: str, current: Stacked) -> bool:
        """Solve one group for every network whose costs have changed; true if some network moved."""
        terms = self.terms[group]
        if not terms:
            return False
        changed = torch.stack([term.renew(current) for term in terms]).any(0)
        rows = changed.nonzero()[:, 0]
        if len(rows) == 0:
            return False
        solved = current[group].clone()
        solved[rows] = _solve(_total(terms, rows), current[group][rows])
        if any(term.doubled for term in terms):
            solved = self._accept(group, current, solved, terms)
        moved = not torch.equal(solved, current[group])
        current[group] = solved
        return moved

    def _accept(
        self, group: str, current: Stacked, solved: Int[Tensor, "networks _"], renewed: list[_Term]
    ) -> Int[Tensor, "networks _"]:
        """What was solved, for the networks whose whole objective it raises; `renewed` terms have their costs."""
        trial = {**current, group: solved}
        before, after = torch.zeros(len(solved), dtype=torch.float64), torch.zeros(len(solved), dtype=torch.float64)
        for term in self.terms[group]:
            for total, orders in ((before, current), (after, trial)):
                if term in renewed and not term.doubled:
                    total += term.cost.cpu().gather(1, orders[group][:, None])[:, 0].double().sum(1)
                else:
                    total += term.values(orders) / (1 + sum(beside == group for _, beside in term.others))
        better = after > before + SMALLEST_GAIN * before.abs()
        return torch.where(better[:, None], solved, current[group])


def _require_fit(stack: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry) -> None:
    """Refuse networks that the symmetry is not of; the reference may lack tensors."""
    shapes = {name: shape_of(symmetry.axes[name]) for name in symmetry.moved}
    missing = [name for name in shapes if name not in stack]
    shapes_found = [{name: tuple(stack[name].shape[1:]) for name in shapes if name in stack}]
    shapes_found.append({name: tuple(reference[name].shape) for name in shapes if name in reference})
    wrong = {
        name: (shapes[name], shape)
        for network in shapes_found
        for name, shape in network.items()
        if shape != shapes[name]
    }
    if missing or wrong:
        raise WeightsMismatch(missing, [], wrong)


def _unit(tensors: list[Tensor]) -> float:
    """A factor that brings weights far from 1 to where float32 can multiply them; 1 for ordinary ones."""
    largest = max((float(own.detach().abs().max()) for own in tensors if own.numel()), default=1.0)
    return 1 / largest if 0 < largest < math.inf and not SMALL < largest < LARGE else 1.0


def _views(moving: Tensor, fixed: Tensor, block: Strided) -> tuple[Tensor, Tensor]:
    """A block of stacked networks and of the reference, without copying."""
    whole = fixed.numel()
    return (
        moving.as_strided((len(moving), *block.sizes), (whole, *block.strides), moving.storage_offset() + block.offset),
        fixed.as_strided(block.sizes, block.strides, fixed.storage_offset() + block.offset),
    )


def _total(terms: list[_Term], rows: Int[Tensor, "rows"] | None = None) -> Float[Tensor, "rows size size"]:
    total = terms[0].cost.clone() if rows is None else terms[0].cost[rows]
    for term in terms[1:]:
        total += term.cost if rows is None else term.cost[rows]
    return total


def _solve(cost: Float[Tensor, "rows size size"], current: Int[Tensor, "rows size"]) -> Int[Tensor, "rows size"]:
    """The best permutation for every network; the current one unless another is better beyond rounding."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, for which commands that match nothing wait

    cost = cost.cpu()
    highest, solved = cost.max(1)
    now = cost.gather(1, current[:, None])[:, 0]
    margin = SMALLEST_GAIN * highest.abs().sum(1)
    best = (highest - now).sum(1) <= margin
    readable = (solved.sort(1).values == torch.arange(solved.shape[1])).all(1)
    for row in (~(best | readable)).nonzero()[:, 0].tolist():
        _, columns = linear_sum_assignment(cost[row].T.numpy(), maximize=True)
        solved[row] = torch.from_numpy(columns)
    gain = (cost.gather(1, solved[:, None])[:, 0] - now).sum(1)
    keep = best | (gain <= margin)
    return torch.where(keep[:, None], current, solved)


def _select(tensor: Tensor, dim: int, index: Int[Tensor, "size"]) -> Tensor:
    """Permutations are on the CPU, where they are solved for; the tensors they reorder may be elsewhere."""
    return tensor.index_select(dim, index.to(tensor.device))


def _take(stack: Tensor, dim: int, index: Int[Tensor, "networks size"]) -> Tensor:
    """Reorder axis `dim` of every network by its own index."""
    if len(stack) == 1:
        return _select(stack, dim, index[0])
    moved = stack.movedim(dim, 1)
    return moved[torch.arange(len(moved))[:, None], index].movedim(1, dim)
