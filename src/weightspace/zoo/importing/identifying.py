"""Say which layout a folder has, and which architecture a network has, by what is known of it and by its tensors."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from weightspace.errors import InputError
from weightspace.weights.values import Weights, infinite_masks, natural_key, shapes_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import TABLE_FILE, ZOO_FILE
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.importing.baselines import BaselinesReader
from weightspace.zoo.importing.lightning import LightningReader
from weightspace.zoo.importing.mlflow_runs import MlflowReader
from weightspace.zoo.importing.plain import PlainReader
from weightspace.zoo.importing.ray_train import RayTrainReader
from weightspace.zoo.importing.ray_tune import RayTuneReader
from weightspace.zoo.importing.reader import FileReader, Kind, Reader, RecognizingReader
from weightspace.zoo.importing.skorch import SkorchReader
from weightspace.zoo.importing.small_cnn_zoo import SmallCnnZooReader
from weightspace.zoo.importing.source import Source
from weightspace.zoo.importing.trainer import AccelerateReader, TrainerReader

NO_FACTORY = "nobody said how to build it: --architecture my_nets:Net --example SHAPE does"


# Layouts that are known by their files, asked in this order; whatever no one knows is plain files.
READERS: list[type[RecognizingReader]] = [
    SmallCnnZooReader,
    RayTuneReader,
    RayTrainReader,
    LightningReader,
    TrainerReader,
    AccelerateReader,
    SkorchReader,
    BaselinesReader,
    MlflowReader,
]


def recognize(source: Source, *, pattern: str = "", table: str = "", by: str = "", key: str = "") -> Reader:
    """The reader for a folder; a pattern or a table means plain files.

    Raises:
        InputError: a key for a layout whose files hold one network each.
        InputError: an empty folder, or one that is a zoo of this package already.
    """
    files = source.files
    if not files:
        raise InputError(f"expected checkpoints below {source.address}, found {_nothing(source)}")
    if ZOO_FILE in files and TABLE_FILE in files:
        raise InputError(
            f"expected a folder of another layout, found {source.address} to be a zoo already: use it as it is"
        )
    if not pattern and not table and not by:
        for reader in READERS:
            if reader.recognizes(files):
                return _with_key(reader(source), key)
    return _with_key(PlainReader(source, pattern, table, by), key)


def _nothing(source: Source) -> str:
    """What is there instead of files that can be read."""
    if not source.refused:
        return "an empty folder"
    first = source.refused[0]
    return f"{first['what']} ({first['why']}) and nothing that can be read"


def _with_key(reader: Reader, key: str) -> Reader:
    if key and not isinstance(reader, FileReader):
        raise InputError(f"expected --key for files that may hold several networks, found the layout {reader.layout}")
    if isinstance(reader, FileReader):
        reader.key = key
    return reader


class Identified(NamedTuple):
    """An architecture, and why none of those that were given is it."""

    architecture: Architecture
    refusals: tuple[str, ...] = ()


def identify(kind: Kind, weights: Weights, given: Sequence[Architecture] = ()) -> Identified:
    """The architecture of weights.

    Tried in turn: an architecture that was given (see `fit_weights`), the network of ours that the layout names, and,
    if neither has the weights' names and shapes, a description of the tensors alone, in natural order and without a
    factory.
    """
    refusals = []
    for architecture in given:
        try:
            fit_weights(weights, architecture)
        except InputError as refusal:
            refusals.append(str(refusal))
        else:
            return Identified(architecture)
    return Identified(_ours(kind, weights) or _anonymous(kind, weights), tuple(refusals))


def _ours(kind: Kind, weights: Weights) -> Architecture | None:
    if kind.recipe is None:
        return None
    choices = kind.recipe.choices
    activation = kind.activation if "activation" in choices else None
    dropout = kind.dropout if "dropout" in choices else None
    try:
        # Built without memory: sizes that a file states may be anything.
        with torch.device("meta"):
            found = kind.recipe.architecture(activation, dropout)
    except (InputError, ValueError, RuntimeError, OverflowError, TypeError):
        return None
    return replace(found, note=kind.note) if _fits(found, weights) else None


def _fits(architecture: Architecture, weights: Weights) -> bool:
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in weights.items()}
    own = {name: architecture.dtypes.get(name, "float32") for name in architecture.shapes}
    return shapes_of(weights) == architecture.shapes and dtypes == own


def _anonymous(kind: Kind, weights: Weights) -> Architecture:
    names = sorted(weights, key=natural_key)  # one network has one identity, whatever the order of its files
    shapes = {name: tuple(weights[name].shape) for name in names}
    dtypes = {name: str(weights[name].dtype).removeprefix("torch.") for name in names}
    digest = hashlib.sha256(json.dumps([shapes, dtypes]).encode()).hexdigest()[:6]
    drop = f"dropout{kind.dropout:g}" if kind.dropout else ""
    parts = [kind.name, re.sub(r"[^A-Za-z0-9]+", "", kind.activation or ""), drop, digest]
    return Architecture(
        id="-".join(part for part in parts if part),
        shapes=shapes,
        dtypes={name: dtype for name, dtype in dtypes.items() if dtype != "float32"},
        note=f"{kind.note}; {NO_FACTORY}" if kind.note else NO_FACTORY,
        masks=infinite_masks(weights),
        order=tuple(weights) if list(weights) != names else (),
    )
