"""A zoo: checkpoints with a table of their properties.

On disk (and on a hub, unchanged): `README.md`, `zoo.json` (architectures), `models.parquet` (one row per
checkpoint) and `shards/*.safetensors` (tensors stacked over checkpoints). Never a pickle.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from weightspace.errors import InputError, require_between
from weightspace.fetching import nearby
from weightspace.randomness import derive_share
from weightspace.weights.safetensors_files import SafetensorsFile
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import (
    DIGEST,
    PLACE_COLUMNS,
    SHARD_FOLDER,
    TABLE_FILE,
    ZOO_FILE,
    check_places,
    read_about,
    read_zoo_table,
    require_zoo,
)
from weightspace.zoo.fitting import known_as
from weightspace.zoo.lineages import LINEAGE, lineages_of

NO_PROPERTIES = (*PLACE_COLUMNS, DIGEST, LINEAGE)


class Checkpoints(NamedTuple):
    """Stacked checkpoints of one architecture, and their rows of the table, in the same order."""

    architecture: Architecture
    table: pd.DataFrame
    stack: Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Zoo:
    """An immutable handle on a zoo, or on a part of one; opening reads the table and no weights.

    Attributes:
        folder: where it is.
        table: one row per checkpoint: `member`, `epoch`, `architecture`, the place of its weights (`shard`,
            `row`) and its properties.
        architectures: `id -> Architecture`.
        about: everything else in `zoo.json` (image set, command, seed).
        parts: folders of the zoos that this one was concatenated from.

    Examples:
        >>> zoo = Zoo.open(zoo_folder)
        >>> train, validation, test = zoo.split(0.5, 0.25, 0.25, seed=0)
        >>> len(train) + len(validation) + len(test) == len(zoo)
        True
    """

    folder: Path
    table: pd.DataFrame
    architectures: dict[str, Architecture]
    about: dict[str, Any]
    parts: tuple[Path, ...] = ()

    @classmethod
    def open(cls, folder: str | Path, given: Sequence[Architecture] = ()) -> "Zoo":
        """Open a zoo's folder.

        Args:
            folder: of the zoo, or an address of one, such as `hf://datasets/org/name`, which is fetched first.
            given: architectures that the caller vouches for, of networks that nobody knew how to build (`known_as`).

        Raises:
            InputError: no zoo there, a damaged file, rows without weights or weights without a row.
        """
        folder = nearby(folder, holding=ZOO_FILE)
        require_zoo(folder)
        about, architectures = read_about(folder / ZOO_FILE)
        table = read_zoo_table(folder / TABLE_FILE)
        check_places(folder, table, architectures)
        return cls(folder=folder, table=table, architectures=known_as(architectures, given), about=about)

    def __len__(self) -> int:
        """How many checkpoints."""
        return len(self.table)

    @property
    def trusted(self) -> list[Architecture]:
        """The architectures that the caller vouches for."""
        return [architecture for architecture in self.architectures.values() if architecture.trusted]

    @property
    def folders(self) -> list[Path]:
        """Where its weights are: its folder, or those of the zoos it was concatenated from."""
        return list(self.parts) or [self.folder]

    @property
    def origins(self) -> pd.Series:
        """For every checkpoint the folder of the zoo it comes from."""
        return self.table["shard"].map(lambda shard: str((self.folder / SHARD_FOLDER / str(shard)).parent.parent))

    @property
    def members(self) -> list[str]:
        """The members' names, in the table's order."""
        return list(dict.fromkeys(self.table["member"]))

    @property
    def checkpoints(self) -> list[list[Any]]:
        """Member and epoch of every checkpoint, in the order of the table, as JSON has them."""
        return [[str(m), int(e)] for m, e in zip(self.table["member"], self.table["epoch"], strict=True)]

    @property
    def properties(self) -> list[str]:
        """The columns that are not places: `epoch` and everything recorded about a checkpoint."""
        return ["epoch", *(name for name in self.table.columns if name not in NO_PROPERTIES)]

    @cached_property
    def digests(self) -> pd.Series:
        """For every checkpoint a digest of its weights: what it is, wherever it lies and whatever it is called.

        Zoos that we write hold it as a column; of others the weights are read.
        """
        digests = self.table.get(DIGEST, pd.Series(None, index=self.table.index, dtype=object)).copy()
        unknown = self._take(digests.isna())
        for piece in unknown.stacks():
            digests[piece.table.index] = digest_stack(piece.stack)
        return digests

    @property
    def lineages(self) -> pd.Series:
        """For every checkpoint the lineage it is of: checkpoints that share weights at some moment.

        A member is a lineage, unless the zoo's table says that several are one, or checkpoints after the start (in a
        zoo of several, say) have the same weights.
        """
        return lineages_of(self.table, self.table.get(DIGEST))

    def values(self, name: str) -> pd.Series:
        """One property of every checkpoint.

        Raises:
            InputError: no such property; the message lists those there are.
        """
        if name not in self.table.columns:
            raise InputError(f"expected a property among {', '.join(self.properties)}, found '{name}'")
        return self.table[name]

    def where(self, condition: Callable[[pd.DataFrame], pd.Series] | None = None, **equal: Any) -> "Zoo":
        """The part of the zoo that meets a condition on the table and has the given values.

        Example: `zoo.where(lambda table: table.test_accuracy > 0.9, activation="tanh")`.

        Raises:
            InputError: an unknown property.
        """
        keep = pd.Series(True, index=self.table.index)
        if condition is not None:
            keep &= condition(self.table)
        for name, value in equal.items():
            keep &= self.values(name) == value
        return self._take(keep)

    def last(self) -> "Zoo":
        """Every member's checkpoint at its last epoch."""
        return self._take(self.table["epoch"] == self.table.groupby("member")["epoch"].transform("max"))

    def best(self, count: int, *, by: str) -> "Zoo":
        """The best checkpoint of each of the `count` best members; missing values are never chosen.

        Raises:
            InputError: an unknown property, or fewer members than asked for.
        """
        ranked = self.table.assign(_by=self.values(by)).dropna(subset=["_by"])
        ranked = ranked.sort_values("_by", ascending=False, kind="stable").drop_duplicates("member")
        if len(ranked) < count or count < 1:
            raise InputError(f"expected between 1 and {len(ranked)} members to choose by {by}, found {count}")
        return replace(self, table=self.table.loc[ranked.index[:count]])

    def first(self, count: int) -> "Zoo":
        """The checkpoints of the first `count` members."""
        return self._take(self.table["member"].isin(self.members[:count]))

    def split(self, *shares: float, seed: int, fold: int = 0) -> tuple["Zoo", ...]:
        """Split by lineage: all epochs of a member, and members that share weights, fall into one part.

        A lineage's part depends on its name, `seed` and `fold` only, never on the order of files, so sizes are
        approximate. From fold to fold the parts move on by the last share, so that the last parts of so many folds
        as it goes into 1 have no member in common.

        Raises:
            InputError: shares that are not positive or do not sum to 1, or a part that stays empty.
        """
        if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise InputError(f"expected positive shares that sum to 1, found {', '.join(map(str, shares))}")
        bounds = [sum(shares[: number + 1]) for number in range(len(shares))]
        bounds[-1] = 1.0
        moved = fold * shares[-1]
        lineages = self.lineages
        place = {name: (derive_share(seed, "split", name) + moved) % 1 for name in lineages.unique()}
        part_of = {name: sum(share >= bound for bound in bounds) for name, share in place.items()}
        parts = lineages.map(part_of)
        empty = [str(share) for number, share in enumerate(shares) if not (parts == number).any()]
        if empty:
            count, alike = len(self.members), lineages.nunique()
            forks = f" of {alike} lineage{'s' * (alike != 1)}, which are never split," if alike < count else ""
            raise InputError(
                f"expected members in every part, found {count} members{forks} and none in the part of share "
                f"{', '.join(empty)}; take another seed, other shares or more members"
            )
        return tuple(self._take(parts == number) for number in range(len(shares)))

    def weights(self, row: int) -> Weights:
        """The weights of the checkpoint in the table's `row` (by place, from 0)."""
        place, index = self.table.iloc[row], int(self.table["row"].iloc[row])
        shard = SafetensorsFile(self.folder / SHARD_FOLDER / str(place["shard"]))
        architecture = self.architectures[str(place["architecture"])]
        stack = {name: shard.part(name, 0, index, index + 1) for name in architecture.shapes}
        _compare_digests(stack, self.table.iloc[row : row + 1])
        return {name: stack[name][0] for name in architecture.order or architecture.shapes}

    def stacks(self) -> Iterator[Checkpoints]:
        """All checkpoints, shard by shard: stacked weights with their rows of the table."""
        for (architecture, name), table in self.table.groupby(["architecture", "shard"], sort=False):
            rows = torch.from_numpy(table["row"].to_numpy(np.int64, copy=True))
            shard = SafetensorsFile(self.folder / SHARD_FOLDER / str(name))
            shapes = self.architectures[str(architecture)].shapes
            stack = {tensor: _take_rows(shard.read(tensor), rows) for tensor in shapes}
            _compare_digests(stack, table)
            yield Checkpoints(self.architectures[str(architecture)], table, stack)

    def batches(self, size: int) -> Iterator[Checkpoints]:
        """All checkpoints, at most `size` of them at a time: stacked weights with their rows of the table.

        Raises:
            InputError: a size below 1.
        """
        require_between("the size of a batch", size, 1)
        for piece in self.stacks():
            for start in range(0, len(piece.table), size):
                rows = slice(start, start + size)
                stack = {name: tensor[rows] for name, tensor in piece.stack.items()}
                yield Checkpoints(piece.architecture, piece.table.iloc[rows], stack)

    def load(self) -> list[Checkpoints]:
        """All checkpoints in memory, one stack per architecture."""
        pieces: dict[str, list[Checkpoints]] = {}
        for piece in self.stacks():
            pieces.setdefault(piece.architecture.id, []).append(piece)
        return [
            Checkpoints(
                parts[0].architecture,
                pd.concat([part.table for part in parts]),
                {name: torch.cat([part.stack[name] for part in parts]) for name in parts[0].stack},
            )
            for parts in pieces.values()
        ]

    def _take(self, keep: pd.Series) -> "Zoo":
        return replace(self, table=self.table[keep])


def _take_rows(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a stack; the stack itself, without a copy, where they are all of them in order."""
    whole = len(rows) == len(tensor) and bool((rows == torch.arange(len(rows))).all())
    return tensor if whole else tensor[rows]


def _compare_digests(stack: Weights, table: pd.DataFrame) -> None:
    """Raise `InputError` unless weights are those that the table was written for, where it says which."""
    if DIGEST not in table:
        return
    for digest, row in zip(digest_stack(stack), table.to_dict("records"), strict=True):
        if isinstance(row[DIGEST], str) and row[DIGEST] != digest:
            raise InputError(
                f"expected the weights that {TABLE_FILE} was written for, found others for {row['member']} at epoch "
                f"{row['epoch']}, in row {row['row']} of {row['shard']}: one of the two was changed or damaged"
            )


def digest_stack(stack: Weights) -> list[str]:
    """A digest of every stacked checkpoint: of types, shapes and numbers in their order, not of names."""
    count = len(next(iter(stack.values()), ()))
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(count)]
    for tensor in stack.values():
        head = f"{tensor.dtype} {list(tensor.shape[1:])}".encode()
        rows = tensor.reshape(count, -1).contiguous()
        numbers = rows.view(torch.uint8).numpy() if rows.numel() else np.empty((count, 0), np.uint8)
        for digest, values in zip(hashes, numbers, strict=True):
            digest.update(head)
            digest.update(values.tobytes())
    return [digest.hexdigest() for digest in hashes]


def require_finite_checkpoints(values: torch.Tensor, table: pd.DataFrame) -> None:
    """Raise `InputError` naming the first checkpoint with a NaN or infinity; `values` has one row for each."""
    broken = ~values.isfinite().all(1)
    if broken.any():
        first = table.iloc[int(broken.nonzero()[0])]
        raise InputError(
            f"expected finite weights, found NaN or infinite values in {int(broken.sum())} checkpoints, first in "
            f"{first['member']} at epoch {first['epoch']}"
        )


def require_finite_zoo(zoo: Zoo) -> None:
    """Raise `InputError` naming the first checkpoint of a zoo with a NaN or infinity; reads all weights once."""
    for piece in zoo.stacks():
        floats = [tensor.reshape(len(tensor), -1) for tensor in piece.stack.values() if tensor.is_floating_point()]
        for tensor in floats:
            require_finite_checkpoints(tensor, piece.table)
