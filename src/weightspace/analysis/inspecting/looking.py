"""What a SANE says of the checkpoints of a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weightspace.analysis.inspecting.checkpoints import Inspection
from weightspace.analysis.inspecting.relating_folders import KnownSymmetry, SaneView, is_whole, opened
from weightspace.analysis.predicting.predictor import PREDICTOR_FILE
from weightspace.analysis.predicting.telling import Predictors
from weightspace.analysis.retrieving import find_nearest
from weightspace.autoencoder.sane import SANE, stored_weights
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.zoo.architecture import Architecture


class FolderView(NamedTuple):
    """What a model says of checkpoints, and the symmetries of the architectures that it was trained on."""

    seen: list[SaneView]
    symmetries: list[KnownSymmetry]


def look_with(
    model: Path, folder: str, inspection: Inspection, device: str = "auto", given: Sequence[Architecture] = ()
) -> FolderView:
    """`look_at_folder` with the model in a folder, and its predictor if it has one."""
    sane = SANE.open(model, device, stored_weights([folder]), given)
    predictors = Predictors.open(model) if (model / PREDICTOR_FILE).exists() else None
    return FolderView(look_at_folder(folder, inspection, sane, predictors), symmetries_of(sane))


def look_at_folder(
    address: str | Path, inspection: Inspection, sane: SANE, predictors: Predictors | None
) -> list[SaneView]:
    """Nearest neighbours in the space of a SANE's mean embeddings, and what its predictor says, for every checkpoint
    that is not broken; of those that it cannot embed, why not."""
    whole = [checkpoint for checkpoint in inspection.checkpoints if is_whole(checkpoint)]
    vectors: dict[str, np.ndarray] = {}
    said: dict[str, str] = {}
    with opened(address, whole, inspection.key) as networks, progress_bar("embedding", len(whole)) as advance:
        for path, weights in networks.items():
            try:
                vectors[path] = sane.embed_network(weights, ask=False).vector.numpy()
                said[path] = ""
                if predictors is not None:
                    said[path] = str(predictors.choose(sane, weights)[0].predict(sane, weights))
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


def symmetries_of(sane: SANE) -> list[KnownSymmetry]:
    """Those of the architectures that a model was trained on, where their tensors are not shared with others."""
    known = []
    for architecture in sane.preparation.architectures.values():
        frame = sane.preparation.frame_of(architecture)
        if frame.symmetry is not None and list(frame.names) == list(architecture.shapes):
            known.append(KnownSymmetry(architecture.shapes, frame.symmetry))
    return known
