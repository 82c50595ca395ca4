"""What the checkpoints of a folder have to do with each other."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection
from weightspace.analysis.inspecting.kinship import Relations, relate
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
        if is_whole(checkpoint):
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


def given_symmetries(given: Sequence[Architecture]) -> list[KnownSymmetry]:
    """Those of architectures that were given."""
    return [
        KnownSymmetry(architecture.shapes, Symmetry.from_json(architecture.symmetry))
        for architecture in given
        if architecture.symmetry
    ]


def is_whole(checkpoint: Inspected) -> bool:
    """Whether a checkpoint could be read and has no broken numbers."""
    return not checkpoint.problem and not checkpoint.broken


def _symmetry_of(weights: Mapping[str, Tensor], known: Sequence[KnownSymmetry]) -> Symmetry | None:
    shapes = shapes_of(meta_of(weights))
    return next((entry.symmetry for entry in known if entry.shapes == shapes), None)
