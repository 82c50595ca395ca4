"""How checkpoints are related: equal up to an order of units, or trained from one another.

Distances are relative: 0 for equal weights, about 1.4 (the root of 2) for networks from different starts, which have
nothing in common: tables that are computed alike for all (positions, masks), running statistics and what a tensor's
entries are around (the ones of a norm) are no common past. Of a known architecture, pairs that are far apart are
aligned first.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.analysis.pairs.diffing import diff_weights
from weightspace.progress import progress_bar
from weightspace.symmetry.axes import Symmetry, permute
from weightspace.symmetry.matching import match_weights
from weightspace.weights.files import numbers_of
from weightspace.weights.values import Weights, is_computed, is_statistic

RELATED = 0.7
MOST_ALIGNED = 500
# So many networks of one architecture are compared all with all; others with these, so many at a time.
MOST_COMPARED, BLOCK = 2_000, 500
# Of many pairs fewer rows of each tensor are looked at than of one.
FEW_ROWS = 32
NUMBERS_AT_ONCE = 64 * 2**20
SMALLEST = 1e-12


@dataclass(frozen=True)
class Reordered:
    """Checkpoints with the same numbers in another order.

    Attributes:
        paths: of the checkpoints.
        confirmed: whether alignment made them equal, so that they compute the same; otherwise the architecture is
            not known, or the search did not find the order.
    """

    paths: list[str]
    confirmed: bool


@dataclass(frozen=True)
class Kinship:
    """Two checkpoints next to each other in a tree.

    Attributes:
        first, second: their paths.
        distance: relative to their norms.
        aligned: whether they had to be aligned.
        told: what one is to the other, in a sentence.
        kind: of that; see `Verdict`.
        parent: the path of the one that was first, where weights tell; guessed: whether that is a guess.
    """

    first: str
    second: str
    distance: float
    aligned: bool
    told: str = ""
    kind: str = ""
    parent: str = ""
    guessed: bool = False


@dataclass(frozen=True)
class Relations:
    """What checkpoints have to do with each other.

    Attributes:
        reordered: groups of the same numbers in another order.
        trees: of every family of related checkpoints the shortest tree through them, a list of its edges.
        alone: how many checkpoints have neither a relative nor a copy.
        notes: what was not compared, and why.
    """

    reordered: list[Reordered] = field(default_factory=list)
    trees: list[list[Kinship]] = field(default_factory=list)
    alone: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON value with everything."""
        return asdict(self)


def relate(
    networks: Mapping[str, Mapping[str, Tensor]], symmetry: Symmetry | None, fingerprints: Mapping[str, str]
) -> Relations:
    """Relate the checkpoints of one architecture.

    Args:
        networks: weights by path, read as they are needed; two are in memory at a time, and slices of all.
        symmetry: of the architecture, if it is known: without it nothing is aligned.
        fingerprints: by path, equal for networks with the same numbers in any order (see `inspect_folder`).
    """
    reordered, copies = _reordered(networks, symmetry, fingerprints)
    paths = [path for path in networks if path not in copies]
    if not any(tensor.is_floating_point() for tensor in networks[paths[0]].values()):
        return Relations(reordered, notes=["not compared: they have no floating-point numbers"])
    if len(paths) < 2:
        return Relations(reordered)
    notes = []
    compared = dict.fromkeys(_spaced(paths))
    paths, others = list(compared), [path for path in paths if path not in compared]
    if others:
        every = len(paths) + len(others)
        notes.append(f"{len(paths):,} of {every:,} networks were compared with all others, the rest with these")
    names = learned_names([networks[path] for path in paths])
    distances = relative_distances([networks[path] for path in paths], names)
    aligned = np.zeros_like(distances, dtype=bool)
    apart = distances > RELATED
    far = int(apart.sum()) // 2
    if symmetry is None and far:
        notes.append("compared as they are: without --architecture, or a SANE that knows it, nothing is aligned")
    elif far > MOST_ALIGNED:
        notes.append(f"{far - MOST_ALIGNED:,} of {far:,} pairs were compared without being aligned")
    if symmetry is not None and symmetry.groups:
        with progress_bar("aligning", min(far, MOST_ALIGNED)) as advance:
            for first, second in itertools.islice(_pairs(apart), MOST_ALIGNED):
                after = aligned_distance(networks[paths[first]], networks[paths[second]], symmetry, names)
                if after < distances[first, second]:
                    distances[first, second] = distances[second, first] = after
                    aligned[first, second] = aligned[second, first] = True
                advance()
    edges, strangers = _shortest(paths, distances, aligned)
    for start in range(0, len(others), BLOCK):
        block = others[start : start + BLOCK]
        nearest, lonely = _attached(block, paths, networks, names)
        edges, strangers = edges + nearest, strangers + lonely
    with progress_bar("telling families", len(edges)) as advance:
        for number, edge in enumerate(edges):
            edges[number] = tell(edge, networks)
            advance()
    trees = families_of(edges)
    related = {path for tree in trees for edge in tree for path in (edge.first, edge.second)}
    strangers = [path for path in strangers if path not in related]
    counts = Counter(fingerprints.values())
    alone = sum(counts[fingerprints[path]] == 1 for path in strangers)
    return Relations(reordered, trees, alone, notes)


def tell(edge: Kinship, networks: Mapping[str, Mapping[str, Tensor]]) -> Kinship:
    """A pair with what one is to the other; of those that had to be aligned only that."""
    if edge.aligned:
        return replace(edge, told=f"{edge.second} is near {edge.first} once its units are in the other's order")
    verdict = diff_weights(networks[edge.first], networks[edge.second], rows=FEW_ROWS, shown=False).verdict
    parent = {"first": edge.first, "second": edge.second, "": ""}[verdict.parent]
    told = verdict.sentence.format(first=edge.first, second=edge.second)
    return replace(edge, told=told, kind=verdict.kind, parent=parent, guessed=verdict.guessed)


def relative_distances(
    networks: Sequence[Mapping[str, Tensor]], names: Sequence[str] | None = None, rows: int | None = None
) -> Float[np.ndarray, "rows networks"]:
    """Distance of every pair over the root mean square of their norms, each tensor around its mean entry.

    Inner products are summed slice by slice in float64, so that the networks need not fit into memory.

    Args:
        networks: of one architecture.
        names: of the tensors that count; those of `learned_names` without.
        rows: only of the first so many networks to all; all without.
    """
    rows = len(networks) if rows is None else rows
    products, squares = np.zeros((rows, len(networks))), np.zeros(len(networks))
    for name in learned_names(networks) if names is None else names:
        size = networks[0][name].numel()
        center = sum(float(network[name].double().mean()) for network in networks) / len(networks)
        step = max(1, NUMBERS_AT_ONCE // len(networks))
        for start in range(0, size, step):
            parts = [numbers_of(network, name, start, min(start + step, size)).double() for network in networks]
            stacked = torch.stack(parts)
            stacked -= center if size > 1 else 0.0
            products += (stacked[:rows] @ stacked.T).numpy()
            squares += stacked.square().sum(1).numpy()
    # In place: with many networks each copy is hundreds of megabytes.
    products *= -2
    products += squares[:rows, None]
    products += squares[None]
    np.maximum(products, 0, out=products)
    products[np.arange(rows), np.arange(rows)] = 0
    means = (squares[:rows, None] + squares[None]) / 2
    return np.sqrt(np.divide(products, np.maximum(means, SMALLEST, out=means), out=products), out=products)


def learned_names(networks: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """The tensors that networks of one architecture may have learned: floating-point numbers, no running statistics,
    and no table that was computed, the same for all.

    All of floating-point numbers, if nothing else is left.
    """
    names = [name for name, tensor in networks[0].items() if tensor.is_floating_point() and tensor.numel()]
    learned = [
        name
        for name in names
        if not is_statistic(name)
        and not (is_computed(networks[0][name]) and all(_same(networks[0], other, name) for other in networks[1:]))
    ]
    return learned or names


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], name: str) -> bool:
    return torch.equal(first[name], second[name])


def aligned_distance(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], symmetry: Symmetry, names: Sequence[str] | None = None
) -> float:
    """The relative distance of two networks after the first was aligned to the second; see `relative_distances`."""
    one, other = _read_all(first), _read_all(second)
    moved = permute(one, symmetry, match_weights(one, other, symmetry))
    return float(relative_distances([moved, other], names)[0, 1])


def _reordered(
    networks: Mapping[str, Mapping[str, Tensor]], symmetry: Symmetry | None, fingerprints: Mapping[str, str]
) -> tuple[list[Reordered], set[str]]:
    """Groups of the same numbers in different orders, and all of their paths but the first of each."""
    groups: dict[str, list[str]] = {}
    for path in networks:
        groups.setdefault(fingerprints[path], []).append(path)
    reordered, copies = [], set()
    for paths in groups.values():
        others = [path for path in paths[1:] if not _equal(networks[paths[0]], networks[path])]
        copies |= set(paths[1:])
        if others:
            reordered.append(Reordered([paths[0], *others], _confirmed(networks, paths[0], others, symmetry)))
    return reordered, copies


def _confirmed(
    networks: Mapping[str, Mapping[str, Tensor]], first: str, others: Sequence[str], symmetry: Symmetry | None
) -> bool:
    if symmetry is None or not symmetry.groups:
        return False
    reference = _read_all(networks[first])
    for path in others:
        own = _read_all(networks[path])
        if not _equal(permute(own, symmetry, match_weights(own, reference, symmetry)), reference):
            return False
    return True


def _spaced(paths: Sequence[str]) -> list[str]:
    """At most `MOST_COMPARED` of the paths, from all over their order."""
    if len(paths) <= MOST_COMPARED:
        return list(paths)
    return [paths[place] for place in np.linspace(0, len(paths) - 1, MOST_COMPARED).astype(int)]


def _pairs(apart: Bool[np.ndarray, "n n"]) -> Iterator[tuple[int, int]]:
    """The pairs for which it is so, row by row: a list of all would be far larger than what it is of."""
    for first, row in enumerate(apart):
        yield from ((first, int(second)) for second in np.flatnonzero(row[first + 1 :]) + first + 1)


def _shortest(
    paths: Sequence[str], distances: Float[np.ndarray, "n n"], aligned: Bool[np.ndarray, "n n"]
) -> tuple[list[Kinship], list[str]]:
    """The edges of the shortest trees through related checkpoints, and who has no relative."""
    from scipy.sparse import csr_matrix  # takes a third of a second, and few folders need it
    from scipy.sparse.csgraph import minimum_spanning_tree

    # Zero means no edge to scipy: equal weights would be strangers.
    near = np.where(distances <= RELATED, np.maximum(distances, SMALLEST), 0)
    np.fill_diagonal(near, 0)
    tree = minimum_spanning_tree(csr_matrix(near)).tocoo()
    edges = [
        Kinship(paths[first], paths[second], float(distances[first, second]), bool(aligned[first, second]))
        for first, second in zip(tree.row.tolist(), tree.col.tolist(), strict=True)
    ]
    return edges, [path for path, row in zip(paths, near, strict=True) if not row.any()]


def _attached(
    block: Sequence[str], paths: Sequence[str], networks: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]
) -> tuple[list[Kinship], list[str]]:
    """Each network of a block beside the nearest of those that are compared with all; and those near to none."""
    both = [networks[path] for path in (*block, *paths)]
    distances = relative_distances(both, names, rows=len(block))[:, len(block) :]
    nearest = distances.argmin(1)
    edges, strangers = [], []
    for path, place, row in zip(block, nearest.tolist(), distances, strict=True):
        if row[place] <= RELATED:
            edges.append(Kinship(path, paths[place], float(row[place]), False))
        else:
            strangers.append(path)
    return edges, strangers


def families_of(edges: Sequence[Kinship]) -> list[list[Kinship]]:
    """Edges that hang together, nearest first; the largest family first.

    What joins two that hang together already, by edges before it, is left out: families are trees.
    """
    family: dict[str, str] = {}

    def head(path: str) -> str:
        while family.setdefault(path, path) != path:
            family[path] = family[family[path]]
            path = family[path]
        return path

    joining = []
    for edge in edges:
        if head(edge.first) != head(edge.second):
            family[head(edge.first)] = head(edge.second)
            joining.append(edge)
    trees: dict[str, list[Kinship]] = {}
    for edge in joining:
        trees.setdefault(head(edge.first), []).append(edge)
    return sorted((sorted(tree, key=lambda edge: edge.distance) for tree in trees.values()), key=len, reverse=True)


def _read_all(weights: Mapping[str, Tensor]) -> Weights:
    return {name: weights[name] for name in weights}


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def rooted(tree: Sequence[Kinship]) -> list[tuple[int, str, Kinship | None]]:
    """A tree as an indented list: depth, path, and the edge to the one above.

    It begins with the checkpoint that is the parent of most and the child of fewest neighbours, as far as weights tell;
    of several with the one that has most neighbours, which are nearest.
    """
    neighbors: dict[str, list[Kinship]] = {}
    for kinship in tree:
        neighbors.setdefault(kinship.first, []).append(kinship)
        neighbors.setdefault(kinship.second, []).append(kinship)
    reach = {
        path: (
            sum(edge.parent not in ("", path) for edge in edges) - sum(edge.parent == path for edge in edges),
            -len(edges),
            math.fsum(edge.distance for edge in edges),
        )
        for path, edges in neighbors.items()
    }
    lines: list[tuple[int, str, Kinship | None]] = []
    waiting: list[tuple[int, str, Kinship | None]] = [(0, min(reach, key=lambda path: reach[path]), None)]
    seen = set()
    while waiting:
        depth, path, edge = waiting.pop()
        lines.append((depth, path, edge))
        seen.add(path)
        for branch in sorted(neighbors[path], key=lambda edge: -edge.distance):
            neighbor = branch.second if branch.first == path else branch.first
            if neighbor not in seen:
                waiting.append((depth + 1, neighbor, branch))
    return lines
