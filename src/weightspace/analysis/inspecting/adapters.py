"""The adapters of a folder: what each changes, and which of them stand for the same change, or for changes alike.

Changes are compared, never tensors: other factors, another rank or another writer's names leave no trace in a change.
Inner products of changes are those of their factors, so that no change is ever formed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from weightspace.analysis.inspecting.checkpoints import Inspection
from weightspace.analysis.inspecting.twins import MergedTwin, merged_twins
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.weights.adapters.changes import Adapter, Change, Factors, flat_name, same_change
from weightspace.weights.adapters.opening import open_adapter
from weightspace.zoo.importing.source import Source

# Changes smaller than this are none.
NOTHING = 1e-7
# Of 14,400 pairs of adapters of two tasks and two beginnings 99 % are below; those of one training, earlier and later,
# are at .48 or more, and what was trained on at .89 (benchmarks/adapters.py: alike, relatives).
ALIKE = 0.3
# Numbers in the factors that are compared at once: 64 MiB, in double precision.
NUMBERS_AT_ONCE = 8 * 2**20


class AdapterView(NamedTuple):
    """What one adapter is.

    Attributes:
        path: of the file below the folder.
        method, known, base: see `Adapter`.
        changes: how many tensors it changes; modules: the last words of their names.
        rank: the highest of its factors; used: the highest of its changes; 0 where no product is stored.
        size: Frobenius norm of all changes that the file tells; None if it tells none.
        note: what else there is to say.
    """

    path: str
    method: str
    known: str
    base: str
    changes: int
    modules: str
    rank: int
    used: int
    size: float | None
    note: str


class AdapterKinship(NamedTuple):
    """How the changes of two adapters are related.

    Attributes:
        cosine: of the angle between all their changes; scale: length of the second over that of the first.
        told: what that says.
    """

    first: str
    second: str
    cosine: float
    scale: float
    told: str


@dataclass(frozen=True)
class AdapterStudy:
    """The adapters of a folder and what they have to do with each other, nearest pairs first; and with its networks."""

    seen: Sequence[AdapterView] = ()
    alike: Sequence[AdapterKinship] = ()
    merged: Sequence[MergedTwin] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        rows: dict[str, Sequence[Any]] = {"seen": self.seen, "alike": self.alike, "merged": self.merged}
        return {name: [row._asdict() for row in part] for name, part in rows.items()}


def study_adapters(address: str | Path, inspection: Inspection) -> AdapterStudy:
    """Look at every adapter that was found in a folder, and compare them.

    Those in archives are looked at, but not compared.
    """
    paths = [checkpoint.path for checkpoint in inspection.checkpoints if checkpoint.adapter]
    source, seen, opened = Source(address), [], {}
    with progress_bar("looking at adapters", len(paths), shown=bool(paths)) as advance:
        for path in paths:
            with source.local(path) as place:
                adapter = open_adapter(place)
                try:
                    seen.append(_view(path, adapter))
                except InputError as error:
                    seen.append(_view(path, adapter, str(error)))
            if source.is_local:
                opened[path] = adapter
            advance()
    alike = _compare({path: one for path, one in opened.items() if one.known == "from the file"})
    return AdapterStudy(seen, alike, merged_twins(address, inspection, opened))


def _view(path: str, adapter: Adapter, problem: str = "") -> AdapterView:
    stored, used, squares, told = 0, 0, 0.0, False
    for change in adapter.changes.values() if not problem else ():
        stored = max(stored, change.stored_rank)
        if change.factors is not None:
            form = change.canonical()
            used, squares, told = max(used, form.rank), squares + form.norm**2, True
    size = squares**0.5 if told else None
    notes = [problem] if problem else list(adapter.remarks)
    if size is not None and size <= NOTHING and not adapter.replaced:
        notes.append("this one changes nothing")
    if adapter.replaced:
        notes.append(f"{len(adapter.replaced)} tensors are replaced")
    modules = dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in adapter.changes)
    return AdapterView(
        path=path,
        method=adapter.method,
        known=adapter.known,
        base=adapter.base or "",
        changes=len(adapter.changes),
        modules=", ".join(modules),
        rank=stored,
        used=used,
        size=size,
        note="; ".join(notes),
    )


def _compare(adapters: Mapping[str, Adapter]) -> list[AdapterKinship]:
    """All pairs whose changes are the same, or alike; for each adapter its nearest ones first."""
    paths = list(adapters)
    if len(paths) < 2:
        return []
    products = inner_products(list(adapters.values()))
    sizes = np.sqrt(np.diag(products))
    related = []
    for first, second in zip(*np.triu_indices(len(paths), 1), strict=True):
        if min(sizes[first], sizes[second]) <= NOTHING:
            continue
        cosine = float(products[first, second] / (sizes[first] * sizes[second]))
        scale = float(sizes[second] / sizes[first])
        told = same_change(cosine, scale) or "alike: of one beginning, or of the same data"
        if cosine >= ALIKE:
            related.append(AdapterKinship(paths[first], paths[second], min(cosine, 1.0), scale, told))
    return sorted(related, key=lambda pair: -pair.cosine)


class _Run(NamedTuple):
    """Changes of one tensor by some adapters, side by side: factors, and where each adapter's begin."""

    adapters: list[int]
    left: np.ndarray
    right: np.ndarray
    starts: list[int]

    def products_with(self, other: "_Run") -> np.ndarray:
        """Of every change here with every one there: sums over blocks of the factors' own inner products."""
        entries = (self.left.T @ other.left) * (self.right @ other.right.T)
        return np.add.reduceat(np.add.reduceat(entries, self.starts, axis=0), other.starts, axis=1)


def inner_products(adapters: Sequence[Adapter]) -> np.ndarray:
    """Of all changes of every two adapters, tensor by tensor; memory holds two runs of factors of one tensor."""
    products = np.zeros((len(adapters), len(adapters)))
    named = [{flat_name(name): change for name, change in adapter.changes.items()} for adapter in adapters]
    for target in dict.fromkeys(name for changes in named for name in changes):
        changes = {number: held[target] for number, held in enumerate(named) if target in held}
        earlier: dict[tuple[int, int], list[list[int]]] = {}
        for run in _runs(changes):
            products[np.ix_(run.adapters, run.adapters)] += run.products_with(run)
            before = earlier.setdefault((len(run.left), run.right.shape[1]), [])
            for numbers in before:
                there = next(_runs({number: changes[number] for number in numbers}))
                block = run.products_with(there)
                products[np.ix_(run.adapters, numbers)] += block
                products[np.ix_(numbers, run.adapters)] += block.T
            before.append(run.adapters)
    return products


def _runs(changes: Mapping[int, Change]) -> Iterator[_Run]:
    """Changes of one shape together, as many as memory is to hold."""
    waiting: dict[tuple[int, int], list[tuple[int, Factors]]] = {}
    for number, change in changes.items():
        if change.factors is None or not (factors := change.product()).left.shape[1]:
            continue
        shape = (len(factors.left), factors.right.shape[1])
        together = waiting.setdefault(shape, [])
        together.append((number, factors))
        if sum(held.left.numel() + held.right.numel() for _, held in together) >= NUMBERS_AT_ONCE:
            yield _side_by_side(waiting.pop(shape))
    yield from map(_side_by_side, waiting.values())


def _side_by_side(together: Sequence[tuple[int, Factors]]) -> _Run:
    ranks = [factors.left.shape[1] for _, factors in together]
    left = torch.cat([factors.left.double() for _, factors in together], dim=1)
    right = torch.cat([factors.right.double() for _, factors in together])
    starts = [0, *np.cumsum(ranks)[:-1].tolist()]
    return _Run([number for number, _ in together], left.numpy(), right.numpy(), starts)
