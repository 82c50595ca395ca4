"""What the checkpoints of a folder have to do with each other."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection
from weightspace.analysis.inspecting.kinship import Relations, relate
from weightspace.symmetry.axes import Symmetry
from weightspace.weights.files import meta_of, open_weights
from weightspace.weights.values import Shapes, shapes_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_stored
from weightspace.zoo.importing.source import Source


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
    groups: dict[str, list[Inspected]] = {}
    for checkpoint in inspection.checkpoints:
        if is_whole(checkpoint):
            groups.setdefault(checkpoint.architecture, []).append(checkpoint)
    related = {}
    for architecture, alike in groups.items():
        if len(alike) < 2:
            continue
        with opened(address, alike, inspection.key) as stored:
            networks = {path: fit_stored(weights, given) for path, weights in stored.items()}
            first = next(iter(networks.values()))
            fingerprints = {checkpoint.path: checkpoint.fingerprint for checkpoint in alike}
            related[architecture] = relate(networks, _symmetry_of(first, known), fingerprints)
    return related


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
    """Whether a checkpoint could be read and has no broken numbers."""
    return not checkpoint.problem and not checkpoint.broken


def _symmetry_of(weights: Mapping[str, Tensor], known: Sequence[KnownSymmetry]) -> Symmetry | None:
    shapes = shapes_of(meta_of(weights))
    return next((entry.symmetry for entry in known if entry.shapes == shapes), None)
