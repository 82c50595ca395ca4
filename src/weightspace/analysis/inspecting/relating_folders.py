"""What the checkpoints of a folder have to do with each other."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection
from weightspace.analysis.inspecting.kinship import (
    RELATED,
    Kinship,
    Relations,
    learned_names,
    relate,
    relative_distances,
    rooted,
    tell,
)
from weightspace.progress import progress_bar
from weightspace.symmetry.axes import Symmetry
from weightspace.weights.files import meta_of, open_weights
from weightspace.weights.values import Shapes, shapes_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_stored
from weightspace.zoo.importing.source import Source

# Between architectures so many of each are compared with so many of another, by their largest tensors in common.
MOST_HEADS, MOST_NEAR, TELLING = 20, 50, 3


class KnownSymmetry(NamedTuple):
    """The symmetry of networks of some names and shapes."""

    shapes: Shapes
    symmetry: Symmetry


class SaneView(NamedTuple):
    """What a SANE says of one checkpoint.

    Attributes:
        path: of the checkpoint.
        nearest: the checkpoint of the folder whose embedding is nearest, and how far it is; nothing if it is alone.
        prediction: in words, if the SANE has a predictor.
    """

    path: str
    nearest: str
    distance: float | None
    prediction: str


def relate_folder(
    address: str | Path,
    inspection: Inspection,
    known: Sequence[KnownSymmetry] = (),
    given: Sequence[Architecture] = (),
) -> dict[str, Relations]:
    """Relations between the checkpoints of each architecture of a folder; those that are broken are left out.

    Args:
        address: of the folder, as it was inspected.
        inspection: of the folder.
        known: symmetries of networks by their names and shapes; such checkpoints are aligned.
        given: architectures that networks are fitted to, as they were inspected.
    """
    related = {}
    for architecture, alike in _whole_by_architecture(inspection).items():
        if len(alike) < 2:
            continue
        with opened(address, alike, inspection.key) as stored:
            networks = {path: fit_stored(weights, given) for path, weights in stored.items()}
            first = next(iter(networks.values()))
            fingerprints = {checkpoint.path: checkpoint.fingerprint for checkpoint in alike}
            related[architecture] = relate(networks, _symmetry_of(first, known), fingerprints)
    return related


def relate_across(
    address: str | Path,
    inspection: Inspection,
    related: Mapping[str, Relations],
    given: Sequence[Architecture] = (),
) -> list[Kinship]:
    """Kinship between checkpoints of different architectures: another head, more layers, a longer vocabulary.

    The first of every family, and those without one, are compared with all checkpoints of each architecture before
    theirs that has half of their numbers under the same names, in the same shapes.

    Args:
        address, inspection, given: as for `relate_folder`.
        related: what that found.
    """
    groups, edges = _whole_by_architecture(inspection), list[Kinship]()
    if len(groups) < 2:
        return edges
    with opened(address, [one for alike in groups.values() for one in alike], inspection.key) as stored:
        networks = {path: fit_stored(weights, given) for path, weights in stored.items()}
        before: list[list[str]] = []
        heads = {name: _heads([one.path for one in alike], related.get(name)) for name, alike in groups.items()}
        with progress_bar("relating architectures", sum(map(len, heads.values()))) as advance:
            for name, alike in groups.items():
                for path in heads[name]:
                    edges += [edge for paths in before if (edge := _nearest(path, paths, networks)) is not None]
                    advance()
                before.append([one.path for one in alike])
    return edges


def _whole_by_architecture(inspection: Inspection) -> dict[str, list[Inspected]]:
    groups: dict[str, list[Inspected]] = {}
    for checkpoint in inspection.checkpoints:
        if is_whole(checkpoint):
            groups.setdefault(checkpoint.architecture, []).append(checkpoint)
    return groups


def _heads(paths: Sequence[str], relations: Relations | None) -> list[str]:
    """The first of every family, and who has none; at most so many."""
    trees = relations.trees if relations is not None else []
    within = {path for tree in trees for edge in tree for path in (edge.first, edge.second)}
    firsts = [rooted(tree)[0][1] for tree in trees]
    return [*firsts, *(path for path in paths if path not in within)][:MOST_HEADS]


def _nearest(path: str, others: Sequence[str], networks: Mapping[str, Mapping[str, Tensor]]) -> Kinship | None:
    """The nearest of some networks of another architecture, if the two are derived from one another."""
    some = [others[place] for place in range(0, len(others), -(-len(others) // MOST_NEAR))]
    mine, theirs = meta_of(networks[path]), meta_of(networks[some[0]])
    shared = [name for name, tensor in mine.items() if name in theirs and theirs[name].shape == tensor.shape]
    sizes = [sum(tensor.numel() for tensor in meta.values()) for meta in (mine, theirs)]
    if not shared or 2 * sum(mine[name].numel() for name in shared) < min(sizes):
        return None
    compared = sorted(shared, key=lambda name: -mine[name].numel())[:TELLING]
    both = [{name: networks[one][name] for name in compared} for one in (path, *some)]
    distances = relative_distances(both, learned_names(both), rows=1)[0, 1:]
    edge = Kinship(some[int(distances.argmin())], path, float(distances.min()), aligned=False)
    told = tell(edge, networks) if edge.distance <= RELATED else edge
    return told if told.kind not in ("", "independent", "unknown") else None


@contextlib.contextmanager
def opened(
    address: str | Path, checkpoints: Sequence[Inspected], key: str = ""
) -> Iterator[dict[str, Mapping[str, Tensor]]]:
    """The weights of checkpoints by path, without what is wrapped around them, while they are in use."""
    source = Source(address)
    with contextlib.ExitStack() as places:
        networks: dict[str, Mapping[str, Tensor]] = {}
        for checkpoint in checkpoints:
            networks[checkpoint.path] = open_weights(
                places.enter_context(source.local(checkpoint.path)), key, keep=False
            )
        yield networks


def given_symmetries(given: Sequence[Architecture]) -> list[KnownSymmetry]:
    """Those of architectures that were given."""
    return [
        KnownSymmetry(architecture.shapes, Symmetry.from_json(architecture.symmetry))
        for architecture in given
        if architecture.symmetry
    ]


def is_whole(checkpoint: Inspected) -> bool:
    """Whether a checkpoint is a network that could be read and has no broken numbers."""
    return not checkpoint.problem and not checkpoint.broken and not checkpoint.adapter


def _symmetry_of(weights: Mapping[str, Tensor], known: Sequence[KnownSymmetry]) -> Symmetry | None:
    shapes = shapes_of(meta_of(weights))
    return next((entry.symmetry for entry in known if entry.shapes == shapes), None)
