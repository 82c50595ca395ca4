"""Finished pieces of a zoo in the making, so that interrupted work can go on where it stopped."""

import ctypes
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from safetensors.torch import save_file

from weightspace.inputs import read_object, read_table
from weightspace.outputs import write_json, write_table
from weightspace.weights.safetensors_files import read_safetensors
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.writing import ZooWriter, tidy
from weightspace.zoo.zoo import Checkpoints

PART_FOLDER, PART_FILE = "parts", "part.json"
# There as soon as one part is, which makes unfinished work worth keeping.
BEGUN = f"{PART_FOLDER}/begun"


class Part(NamedTuple):
    """What one task contributes to a zoo.

    Attributes:
        pieces: stacked checkpoints, one entry per architecture.
        left_out: `{"what": ..., "why": ...}` for everything that could not be used.
        notes: sentences about how files were understood, with how often.
    """

    pieces: list[Checkpoints]
    left_out: list[dict[str, str]]
    notes: Mapping[str, int] = {}


class PartStore:
    """Parts in a folder, each there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._begun = folder / PART_FOLDER, folder / BEGUN
        self.folder.mkdir(parents=True, exist_ok=True)

    def has(self, key: str) -> bool:
        """Whether the part is finished."""
        return (self.folder / key / PART_FILE).is_file()

    def save(self, key: str, part: Part) -> None:
        """Write a part; it is there once its folder has its name."""
        unfinished = self.folder / f".{key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for number, piece in enumerate(part.pieces):
            save_file(piece.stack, unfinished / f"{number}.safetensors")
            write_table(unfinished / f"{number}.parquet", tidy(piece.table.copy()))
        architectures = [piece.architecture.to_json() for piece in part.pieces]
        about = {"architectures": architectures, "left_out": part.left_out, "notes": dict(part.notes)}
        write_json(unfinished / PART_FILE, about)
        unfinished.replace(self.folder / key)
        self._begun.touch()

    def load(self, key: str) -> Part:
        """Read a part back."""
        folder = self.folder / key
        about = read_object(folder / PART_FILE)
        pieces = [
            Checkpoints(
                Architecture.from_json(entry),
                read_table(folder / f"{number}.parquet"),
                read_safetensors(folder / f"{number}.safetensors"),
            )
            for number, entry in enumerate(about["architectures"])
        ]
        return Part(pieces, about["left_out"], about["notes"])

    def tables(self, keys: Iterable[str]) -> list[pd.DataFrame]:
        """The table of every piece of the parts, in the order of `keys`, without weights."""
        folders = [self.folder / key for key in keys]
        counts = [len(read_object(folder / PART_FILE)["architectures"]) for folder in folders]
        return [
            read_table(folder / f"{number}.parquet")
            for folder, count in zip(folders, counts, strict=True)
            for number in range(count)
        ]

    def merge(
        self, keys: Iterable[str], writer: ZooWriter, tables: Iterable[pd.DataFrame] | None = None
    ) -> tuple[list[dict[str, str]], dict[str, int]]:
        """Copy the parts into a zoo, in the order of `keys`, one in memory at a time.

        Args:
            keys: of the parts.
            writer: of the zoo.
            tables: rows that take the place of those of each piece, in the order of `tables`; their index says which
                checkpoints are kept.

        Returns:
            What was left out, and the notes.
        """
        given = iter(tables) if tables is not None else None
        left_out: list[dict[str, str]] = []
        notes: dict[str, int] = {}
        seen: set[tuple[str, int]] = set()
        for key in keys:
            part = self.load(key)
            for piece in part.pieces:
                new, repeated = _without(piece if given is None else _only(piece, next(given)), seen)
                left_out += repeated
                if len(new.table):
                    writer.add(new.architecture, new.stack, new.table)
            left_out += part.left_out
            for note, count in part.notes.items():
                notes[note] = notes.get(note, 0) + count
            _return_memory()
        return left_out, notes

    def give_up(self) -> None:
        """Nothing of this is worth keeping."""
        self._begun.unlink()


def _only(piece: Checkpoints, table: pd.DataFrame) -> Checkpoints:
    """The checkpoints of a piece whose places are in the index of a table, with its rows."""
    rows = torch.tensor(table.index.to_numpy(), dtype=torch.long)
    return Checkpoints(piece.architecture, table, {name: tensor[rows] for name, tensor in piece.stack.items()})


def _without(piece: Checkpoints, seen: set[tuple[str, int]]) -> tuple[Checkpoints, list[dict[str, str]]]:
    """The checkpoints whose member and epoch are new, which are noted in `seen`, and what the others are."""
    places = list(zip(map(str, piece.table["member"]), map(int, piece.table["epoch"]), strict=True))
    new, repeated = [], []
    for row, (member, epoch) in enumerate(places):
        if (member, epoch) in seen:
            why = "another checkpoint has the same member and epoch"
            repeated.append({"what": f"{member} at epoch {epoch}", "why": why})
        else:
            seen.add((member, epoch))
            new.append(row)
    if not repeated:
        return piece, []
    stack = {name: tensor[new] for name, tensor in piece.stack.items()}
    return Checkpoints(piece.architecture, piece.table.iloc[new], stack), repeated


def _return_memory() -> None:
    """Give freed memory back to the system: glibc keeps what lies below small objects that live on.

    Without this a zoo of 1.2 GB left 1.1 GB behind; elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
