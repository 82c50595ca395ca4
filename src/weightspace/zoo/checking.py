"""Whether the files of a zoo's folder are what they say, before any of its weights are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weightspace.errors import InputError
from weightspace.inputs import read_object, read_table
from weightspace.remote import located
from weightspace.weights.safetensors_files import SafetensorsFile
from weightspace.zoo.architecture import Architecture

ZOO_FILE, TABLE_FILE, SHARD_FOLDER = "zoo.json", "models.parquet", "shards"
PLACE_COLUMNS = ("member", "epoch", "architecture", "shard", "row")
DIGEST = "digest"
FORMAT = 1
# What all whole numbers of a table fit into, floats of 64 bits included.
LARGEST = 2**53


def is_zoo(folder: str | Path) -> bool:
    """Whether a folder, also one behind an address, says that it is a zoo."""
    return (located(folder) / ZOO_FILE).is_file()


def require_zoo(folder: Path) -> None:
    """Raise `InputError` unless a zoo's two files are in a folder."""
    if not (folder / ZOO_FILE).is_file() or not (folder / TABLE_FILE).is_file():
        raise InputError(f"expected a zoo ({ZOO_FILE} and {TABLE_FILE}) in {folder}, found {_contents(folder)}")


def read_about(path: Path) -> tuple[dict[str, Any], dict[str, Architecture]]:
    """What `zoo.json` says, and its architectures by id.

    Raises:
        InputError: another format, or entries that are no architectures.
    """
    value = read_object(path)
    if value.pop("format", None) != FORMAT:
        raise InputError(f"expected a zoo of format {FORMAT} in {path}, found another format")
    entries = value.pop("architectures", None)
    if not isinstance(entries, list):
        raise InputError(f"expected a list of architectures in {path}, found {type(entries).__name__}")
    architectures = [Architecture.from_json(entry) for entry in entries]
    if len({architecture.id for architecture in architectures}) < len(architectures):
        raise InputError(f"expected every architecture of {path} once, found one id twice")
    return value, {architecture.id: architecture for architecture in architectures}


def read_zoo_table(path: Path) -> pd.DataFrame:
    """The table of a zoo: names as text, places as whole numbers, values that are lists or the like as text.

    Raises:
        InputError: columns are missing or of another kind, or a member is at an epoch twice.
    """
    table = read_table(path).rename(columns=str)
    missing = [name for name in PLACE_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"expected the columns {', '.join(PLACE_COLUMNS)} in {path}, found none named {missing[0]}")
    for name in ("row", "epoch"):
        numbers = table[name]
        if not pd.api.types.is_integer_dtype(numbers) or numbers.isna().any() or not numbers.between(0, LARGEST).all():
            raise InputError(f"expected whole numbers from 0 in the column {name} of {path}, found others")
        # Of 64 bits, whatever they were stored as: eight would be taken for a mask.
        table[name] = numbers.astype(np.int64)
    for name in ("member", "architecture", "shard"):
        wrong = table[name][~table[name].map(lambda value: isinstance(value, str) and value != "").astype(bool)]
        if len(wrong):
            raise InputError(f"expected names in the column {name} of {path}, found {wrong.iloc[0]!r:.80}")
    for name in table.columns.difference([*PLACE_COLUMNS]):
        if table[name].map(lambda value: isinstance(value, np.ndarray | list | dict | tuple | bytes)).any():
            table[name] = table[name].map(str, na_action="ignore")
    twice = table[table.duplicated(["member", "epoch"])]
    if len(twice):
        first = twice.iloc[0]
        raise InputError(
            f"expected one row per member and epoch in {path}, found {first['member']} at {first['epoch']} twice"
        )
    return table.reset_index(drop=True)


def check_places(folder: Path, table: pd.DataFrame, architectures: dict[str, Architecture]) -> None:
    """Every row has weights and all weights have a row."""
    shards = folder / SHARD_FOLDER
    present = {path.name for path in shards.glob("*.safetensors")}
    listed = table.groupby("shard").size()
    for name in sorted(set(listed.index) - present):
        rows = int(listed[name])
        raise InputError(f"expected the shard {shards / name} for {rows} rows of {TABLE_FILE}, found no such file")
    for name in sorted(present - set(listed.index)):
        raise InputError(f"expected rows in {TABLE_FILE} for {shards / name}, found none")
    unknown = sorted(set(table["architecture"]) - set(architectures))
    if unknown:
        raise InputError(f"expected every architecture of {TABLE_FILE} in {ZOO_FILE}, found no entry for {unknown[0]}")
    for name, rows_of_shard in table.groupby("shard"):
        _check_shard(shards / str(name), rows_of_shard, architectures)


def _check_shard(path: Path, rows: pd.DataFrame, architectures: dict[str, Architecture]) -> None:
    """A shard holds every tensor of its architecture, of its type, stacked over as many checkpoints as it has rows."""
    if rows["architecture"].nunique() > 1:
        raise InputError(f"expected checkpoints of one architecture in {path}, found several")
    architecture = architectures[str(rows["architecture"].iloc[0])]
    stored = SafetensorsFile(path).tensors
    count = max((tensor.shape[0] for tensor in stored.values() if tensor.shape), default=0)
    if sorted(rows["row"]) != list(range(count)):
        raise InputError(
            f"expected one row of {TABLE_FILE} for each of the {count} checkpoints in {path}, found {len(rows)} rows "
            f"up to number {rows['row'].max()}"
        )
    for name, shape in architecture.shapes.items():
        tensor = stored.get(name)
        if tensor is None or tensor.shape != (count, *shape):
            there = "none" if tensor is None else tensor.shape
            raise InputError(f"expected {name} of shape {(count, *shape)} in {path}, found {there}")
        kind, dtype = architecture.dtypes.get(name, "float32"), str(tensor.dtype).removeprefix("torch.")
        if kind != dtype:
            raise InputError(f"expected {name} of type {kind} in {path}, as {ZOO_FILE} says, found {dtype}")


def _contents(folder: Path) -> str:
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file"
    names = sorted(entry.name for entry in folder.iterdir())
    return "an empty folder" if not names else ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")
