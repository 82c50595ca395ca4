"""Adapters of one base together: where their changes meet, and their sum or average as one adapter.

Nothing of a base is needed: changes are compared, and added, as products of small factors.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from weightspace.errors import InputError
from weightspace.outputs import Existing, new_folder, write_manifest
from weightspace.weights.adapters.changes import Adapter, Canonical, Factors, canonical_form, flat_name, same_change
from weightspace.weights.adapters.pairs import write_adapter
from weightspace.weights.files import WEIGHT_SUFFIXES
from weightspace.weights.values import some_of

Joining = Literal["sum", "average"]


class OverlapRow(NamedTuple):
    """Where two adapters' changes of one tensor meet.

    Attributes:
        tensor: of the base.
        ranks: of both changes.
        sizes: Frobenius norms of both.
        cosine: of the angle between them.
        outputs: the share of one change's square sum that is written into directions the other writes to (column
            spaces), the mean of both ways; inputs: that is read from directions the other reads (row spaces); both:
            read from and written to.
        by_chance: what changes of these ranks in directions drawn at random would have for `both`.
    """

    tensor: str
    ranks: tuple[int, int]
    sizes: tuple[float, float]
    cosine: float
    outputs: float
    inputs: float
    both: float
    by_chance: float


class Overlap(NamedTuple):
    """What two adapters have in common.

    Attributes:
        first, second: as they were named.
        rows: tensors that both change.
        alone: how many tensors only the first, and only the second, changes.
        cosine: of the angle between all their changes; scale: size of the second over that of the first.
        outputs, inputs, both, by_chance: as in a row, of all changes, by their square sums; of a tensor that only one
            of them changes nothing meets.
    """

    first: str
    second: str
    rows: list[OverlapRow]
    alone: tuple[int, int]
    cosine: float
    scale: float
    outputs: float
    inputs: float
    both: float
    by_chance: float

    def describe(self) -> str:
        """One sentence."""
        pair = f"{self.first} and {self.second}"
        if told := same_change(self.cosine, self.scale):
            return f"{pair} are {told}: their sum is that change once more, not something of both"
        if not self.rows:
            return f"{pair} change no tensor in common: their sum does to each tensor what one of them does"
        meets = (
            f"{self.both:.1%} of what they change is read from and written to the same directions "
            f"({self.by_chance:.1%} by chance)"
        )
        direction = "the same way" if self.cosine > 0 else "opposite ways"
        return f"{pair} change {len(self.rows)} tensors in common; {meets}; cosine {self.cosine:.2f}, {direction}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        return {**self._asdict(), "rows": [row._asdict() for row in self.rows], "told": self.describe()}


class Joined(NamedTuple):
    """Adapters as one.

    Attributes:
        how: `sum` or `average`; parts: as they were named.
        ranks: of the change of every tensor.
        overlaps: of every two of them.
    """

    how: Joining
    parts: Sequence[str]
    ranks: Mapping[str, int]
    overlaps: list[Overlap]

    def describe(self) -> str:
        """One sentence."""
        said = f"the {self.how} of {' and '.join(self.parts)}, of rank {max(self.ranks.values(), default=0)} at most"
        return f"{said}; {self.overlaps[0].describe()}" if len(self.overlaps) == 1 else said

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        return {**self._asdict(), "overlaps": [overlap.to_json() for overlap in self.overlaps]}


def overlap(first: Adapter, second: Adapter) -> Overlap:
    """Where the changes of two adapters of one base meet.

    How much of each lies in the directions that the other reads from and writes to is told beside what chance would
    have. It is a statement about weights: what their sum is worth only data tells. On adapters of five tasks of a small
    transformer, sums lost less the more their parts met (`benchmarks/adapters.py`).

    Raises:
        InputError: a change that its file does not tell, or changes of one tensor that have different shapes.
    """
    forms = [
        {flat_name(target): change.canonical() for target, change in one.changes.items()} for one in (first, second)
    ]
    names = {flat_name(target): target for target in first.changes}
    shared = [target for target in forms[0] if target in forms[1]]
    rows = [_row(names[target], forms[0][target], forms[1][target]) for target in shared]
    squares = [sum(form.norm**2 for form in one.values()) for one in forms]
    total = max(sum(squares), 1e-300)

    def meeting(values: list[float]) -> float:
        # Every row's share counts as much as both changes of its tensor do.
        return sum(v * (row.sizes[0] ** 2 + row.sizes[1] ** 2) for v, row in zip(values, rows, strict=True)) / total

    inner = sum(row.cosine * row.sizes[0] * row.sizes[1] for row in rows)
    length = max((squares[0] * squares[1]) ** 0.5, 1e-300)
    return Overlap(
        first=first.path.name,
        second=second.path.name,
        rows=sorted(rows, key=lambda row: -row.both),
        alone=(len(forms[0]) - len(shared), len(forms[1]) - len(shared)),
        cosine=min(inner / length, 1.0),
        scale=(squares[1] / max(squares[0], 1e-300)) ** 0.5,
        outputs=meeting([row.outputs for row in rows]),
        inputs=meeting([row.inputs for row in rows]),
        both=meeting([row.both for row in rows]),
        by_chance=meeting([row.by_chance for row in rows]),
    )


def _row(target: str, one: Canonical, other: Canonical) -> OverlapRow:
    if len(one.left) != len(other.left) or one.right.shape[1] != other.right.shape[1]:
        shapes = [f"{len(form.left)} x {form.right.shape[1]}" for form in (one, other)]
        raise InputError(f"expected adapters of one base, found changes of {target} of {shapes[0]} and {shapes[1]}")
    columns, rows = one.left.T @ other.left, one.right @ other.right.T
    # Of either change the square sum, and what of it lies in the other's spaces: nothing larger than ranks is formed.
    one_in = [(one.values[:, None] * columns).square().sum(), (one.values[:, None] * rows).square().sum()]
    other_in = [(columns * other.values).square().sum(), (rows * other.values).square().sum()]
    both = [((columns.T * one.values) @ rows).square().sum(), ((columns * other.values) @ rows.T).square().sum()]
    squares = [max(form.norm**2, 1e-300) for form in (one, other)]

    def mean(of_one: torch.Tensor, of_other: torch.Tensor) -> float:
        return min(float(of_one / squares[0] + of_other / squares[1]) / 2, 1.0)

    size = len(one.left) * one.right.shape[1]
    inner = float((one.values[:, None] * columns * other.values * rows).sum())
    return OverlapRow(
        tensor=target,
        ranks=(one.rank, other.rank),
        sizes=(one.norm, other.norm),
        cosine=inner / (squares[0] * squares[1]) ** 0.5,
        outputs=mean(one_in[0], other_in[0]),
        inputs=mean(one_in[1], other_in[1]),
        both=mean(both[0], both[1]),
        by_chance=(one.rank**2 + other.rank**2) / 2 / size,
    )


def join_adapters(adapters: Sequence[Adapter], how: Joining, out: Path, *, existing: Existing = "refuse") -> Joined:
    """Write the sum, or the average, of adapters of one base as one adapter, as PEFT writes LoRA.

    The sum of products of rank r and s is one of rank r + s at most, and exact; pairs that cancel leave no trace.

    Args:
        adapters: two or more, whose files tell their changes.
        how: their sum, or their sum over their number.
        out: a folder that does not exist yet.

    Raises:
        InputError: changes that files do not tell, or that LoRA's files cannot hold; adapters of several bases.
    """
    if out.suffix in WEIGHT_SUFFIXES:
        raise InputError(f"expected a folder to write an adapter into, found {out.name}")
    for one in adapters:
        if one.replaced:
            raise InputError(
                f"expected adapters whose changes can be added, found {one.path.name}, which replaces "
                f"{some_of(list(one.replaced))} of the base"
            )
        wide = next((change for change in one.changes.values() if change.known == "from the file" and change.why), None)
        if wide is not None:
            raise InputError(
                f"expected changes of known widths to add, found {one.path.name} ({wide.method}), {wide.why}"
            )
    bases = list(dict.fromkeys(one.base for one in adapters if one.base))
    if len(bases) > 1:
        raise InputError(f"expected adapters of one base, found adapters of {' and of '.join(bases)}")
    overlaps = [overlap(one, other) for n, one in enumerate(adapters) for other in adapters[n + 1 :]]
    weight = 1.0 if how == "sum" else 1.0 / len(adapters)
    products: dict[str, list[Factors]] = {}
    called: dict[str, str] = {}  # as the first that changes a tensor calls it
    for one in adapters:
        for target, change in one.changes.items():
            products.setdefault(called.setdefault(flat_name(target), target), []).append(change.product())
    changes = {target: canonical_form(_added(held, weight)) for target, held in products.items()}
    with new_folder(out, existing=existing) as folder:
        write_adapter(folder, changes, adapters)
        names = [one.path.name for one in adapters]
        write_manifest(folder, configuration={"adapters": names, "how": how}, seed=0)
    return Joined(how, names, {target: change.rank for target, change in changes.items()}, overlaps)


def _added(products: Sequence[Factors], weight: float) -> Factors:
    """A weighted sum of products as one."""
    kind = functools.reduce(torch.promote_types, (one.left.dtype for one in products), torch.float32)
    left, right = (
        torch.cat([weight * one.left.to(kind) for one in products], 1),
        torch.cat([one.right.to(kind) for one in products]),
    )
    return Factors(left, right)
