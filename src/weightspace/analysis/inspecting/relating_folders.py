"""What checkpoints have to do with each other, and what a SANE says of each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection, inspect_folder
from weightspace.analysis.inspecting.kinship import Relations, relate
from weightspace.analysis.predicting.predictor import PREDICTOR_FILE, Predictor
from weightspace.analysis.retrieving import find_nearest
from weightspace.autoencoder.sane import SANE, stored_weights
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.symmetry.axes import Symmetry
from weightspace.weights.files import StoredWeights, meta_of, open_weights
from weightspace.weights.state_dicts import shared_prefix
from weightspace.weights.values import Shapes, shapes_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.importing.source import Source


class PrefixedWeights(Mapping[str, Tensor]):
    """Weights under their names without a prefix that all share; read as they are needed."""

    def __init__(self, stored: StoredWeights, prefix: str) -> None:
        self._stored, self._prefix = stored, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._stored)

    def __len__(self) -> int:
        return len(self._stored)


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


class FolderStudy(NamedTuple):
    """A folder's checkpoints one by one, between each other, and in the eyes of a SANE."""

    folder: str
    inspection: Inspection
    related: Mapping[str, Relations]
    seen: Sequence[SaneView]

    def summary(self) -> str:
        """One line with all counts."""
        inspection = self.inspection
        remarked = sum(1 for checkpoint in inspection.checkpoints if checkpoint.remarks())
        twice = len(inspection.equal_files) + len(inspection.equal_tensors)
        reordered = sum(len(relations.reordered) for relations in self.related.values())
        families = sum(len(relations.trees) for relations in self.related.values())
        counts = [
            _counted(len(inspection.checkpoints), "checkpoint"),
            f"{remarked:,} with remarks",
            f"{_counted(twice, 'group')} of duplicates",
            f"{_counted(reordered, 'group')} equal up to order",
            _counted(families, "family", "families"),
        ]
        if inspection.left_out:
            counts.append(f"{len(inspection.left_out):,} other files left out")
        return ", ".join(counts)

    def notes(self) -> list[str]:
        """What was not compared, and why."""
        return [f"{name}: {note}" for name, relations in self.related.items() for note in relations.notes]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        related = {name: relations.to_json() for name, relations in self.related.items()}
        return {**self.inspection.to_json(), "related": related, "seen": [view._asdict() for view in self.seen]}


def _counted(count: int, noun: str, nouns: str = "") -> str:
    """`1 group`, `2 groups`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def study_folder(
    folder: str, sane: Path | None = None, given: Sequence[Architecture] = (), *, device: str = "auto"
) -> FolderStudy:
    """Inspect a folder's checkpoints, relate them, and let a SANE look at them; what `weightspace inspect` does.

    Args:
        folder: or an archive, or an fsspec URL.
        sane: folder of a trained model, whose predictor speaks too if it has one.
        given: architectures whose networks are aligned before they are compared.
        device: where the model encodes; see `choose_device`.
    """
    model = SANE.open(sane, device, stored_weights([folder])) if sane is not None else None
    predictor = Predictor.open(sane) if sane is not None and (sane / PREDICTOR_FILE).exists() else None
    inspection = inspect_folder(folder)
    related = relate_folder(folder, inspection, known_symmetries(model, given))
    seen = look_at_folder(folder, inspection, model, predictor) if model is not None else []
    return FolderStudy(folder, inspection, related, seen)


def relate_folder(
    address: str | Path, inspection: Inspection, known: Sequence[KnownSymmetry] = ()
) -> dict[str, Relations]:
    """Relations between the checkpoints of each architecture of a folder; those that are broken are left out.

    Args:
        address: of the folder, as it was inspected.
        inspection: of the folder.
        known: symmetries of networks by their names and shapes; such checkpoints are aligned.
    """
    groups: dict[str, list[Inspected]] = {}
    for checkpoint in inspection.checkpoints:
        if _whole(checkpoint):
            groups.setdefault(checkpoint.architecture, []).append(checkpoint)
    related = {}
    for architecture, alike in groups.items():
        if len(alike) < 2:
            continue
        with opened(address, alike) as networks:
            first = next(iter(networks.values()))
            fingerprints = {checkpoint.path: checkpoint.fingerprint for checkpoint in alike}
            related[architecture] = relate(networks, _symmetry_of(first, known), fingerprints)
    return related


def look_at_folder(
    address: str | Path, inspection: Inspection, sane: SANE, predictor: Predictor | None
) -> list[SaneView]:
    """Nearest neighbours in the space of a SANE's mean embeddings, and what its predictor says, for every checkpoint
    that is not broken; of those that it cannot embed, why not."""
    whole = [checkpoint for checkpoint in inspection.checkpoints if _whole(checkpoint)]
    vectors: dict[str, np.ndarray] = {}
    said: dict[str, str] = {}
    with opened(address, whole) as networks, progress_bar("embedding", len(whole)) as advance:
        for path, weights in networks.items():
            try:
                vectors[path] = sane.embed_network(weights).vector.numpy()
                said[path] = str(predictor.predict(sane, weights)) if predictor is not None else ""
            except InputError as refusal:
                said[path] = str(refusal)
            advance()
    near = _nearest(vectors)
    nobody: tuple[str, float | None] = ("", None)
    seen = []
    for path, words in said.items():
        nearest, distance = near.get(path, nobody)
        seen.append(SaneView(path, nearest, distance, words))
    return seen


def _nearest(vectors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, float]]:
    """For every network the nearest other one, and how far it is; for none if there is only one."""
    paths = list(vectors)
    if len(paths) < 2:
        return {}
    features = np.stack(list(vectors.values()))
    nearest, neighbors = find_nearest(features, features, 2), {}
    for row, (rows, distances) in enumerate(zip(nearest.rows, nearest.distances, strict=True)):
        column = int(rows[0] == row)  # the first is the network itself, or an equal one
        neighbors[paths[row]] = (paths[rows[column]], float(distances[column]))
    return neighbors


@contextlib.contextmanager
def opened(address: str | Path, checkpoints: Sequence[Inspected]) -> Iterator[dict[str, Mapping[str, Tensor]]]:
    """The weights of checkpoints by path, without what is wrapped around them, while they are in use."""
    source = Source(address)
    with contextlib.ExitStack() as places:
        networks: dict[str, Mapping[str, Tensor]] = {}
        for checkpoint in checkpoints:
            stored = open_weights(places.enter_context(source.local(checkpoint.path)))
            prefix = shared_prefix(stored)
            networks[checkpoint.path] = PrefixedWeights(stored, prefix) if prefix else stored
        yield networks


def known_symmetries(sane: SANE | None, given: Sequence[Architecture]) -> list[KnownSymmetry]:
    """Those of architectures that were given, then those of architectures that a SANE was trained on."""
    known = [
        KnownSymmetry(architecture.shapes, Symmetry.from_json(architecture.symmetry))
        for architecture in given
        if architecture.symmetry
    ]
    if sane is None:
        return known
    for architecture in sane.preparation.architectures.values():
        frame = sane.preparation.frame_of(architecture)
        if frame.symmetry is not None and list(frame.names) == list(architecture.shapes):
            known.append(KnownSymmetry(architecture.shapes, frame.symmetry))
    return known


def _whole(checkpoint: Inspected) -> bool:
    return not checkpoint.problem and not checkpoint.broken


def _symmetry_of(weights: Mapping[str, Tensor], known: Sequence[KnownSymmetry]) -> Symmetry | None:
    shapes = shapes_of(meta_of(weights))
    return next((entry.symmetry for entry in known if entry.shapes == shapes), None)
