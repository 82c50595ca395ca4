"""Write a zoo, shard by shard, so that it never has to be in memory as a whole; and publish one.

What is published is the same zoo with a card, in shards of bounded size, so that a hub takes and shows it as it is.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from weightspace.errors import InputError, require_between
from weightspace.outputs import Existing, new_folder, write_json, write_manifest, write_table
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.cards import CardText, write_card
from weightspace.zoo.checking import DIGEST, FORMAT, PLACE_COLUMNS, SHARD_FOLDER, TABLE_FILE, ZOO_FILE
from weightspace.zoo.zoo import Zoo, digest_stack

SHARD_BYTES = 15 * 2**20
SHARDS_BUFFERED = 4
LONGEST_ID = 60
LOCAL_PATH = re.compile(r"(?<![\w.:/])(/|[A-Za-z]:\\)[^\s'\"]+")


class ZooWriter:
    """Collects stacks of checkpoints into a folder in the zoo format.

    Shards hold checkpoints of one architecture and at most `shard_bytes` of weights, except where one
    checkpoint alone is larger. Four shards' worth is held in memory.

    Examples:
        writer = ZooWriter(folder)
        writer.add(architecture, stack, table)   # as often as you like
        writer.finish(about={"seed": 0})
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._tables: list[pd.DataFrame] = []
        self._architectures: dict[str, Architecture] = {}
        self._waiting: dict[str, list[tuple[pd.DataFrame, Weights]]] = {}
        self._bytes: dict[str, int] = {}
        shutil.rmtree(folder / SHARD_FOLDER, ignore_errors=True)
        (folder / SHARD_FOLDER).mkdir(parents=True)

    def add(self, architecture: Architecture, stack: Weights, table: pd.DataFrame) -> None:
        """Take checkpoints, stacked per tensor, and their rows (`member`, `epoch`, properties)."""
        known = self._architectures.setdefault(architecture.id, architecture)
        if known != architecture:
            raise InputError(f"expected one architecture of the id {architecture.id}, found two that differ")
        self._waiting.setdefault(architecture.id, [])
        each = max(1, sum(tensor[0].nbytes for tensor in stack.values()))
        start = 0
        while start < len(table):
            room = (self.shard_bytes - self._bytes.get(architecture.id, 0)) // each
            if room < 1 and self._waiting[architecture.id]:
                self._flush(architecture.id)
                continue
            rows = slice(start, start + max(1, room))
            taken = table.iloc[rows]
            self._waiting[architecture.id].append((taken, {name: tensor[rows] for name, tensor in stack.items()}))
            self._bytes[architecture.id] = self._bytes.get(architecture.id, 0) + len(taken) * each
            start += len(taken)
        while sum(self._bytes.values()) > SHARDS_BUFFERED * self.shard_bytes:
            self._flush(max(self._bytes, key=lambda name: self._bytes[name]))

    def finish(self, about: Mapping[str, Any], text: CardText | None = None) -> pd.DataFrame:
        """Write what waits, the table, `zoo.json` and the card; returns the table."""
        for name in list(self._waiting):
            self._flush(name)
        table = tidy(pd.concat(self._tables, ignore_index=True))
        table = table[[*PLACE_COLUMNS, *(name for name in table.columns if name not in PLACE_COLUMNS)]]
        write_table(self.folder / TABLE_FILE, table)
        architectures = [architecture.to_json() for architecture in self._architectures.values()]
        write_json(self.folder / ZOO_FILE, {"format": FORMAT, **about, "architectures": architectures})
        write_card(self.folder, table, list(self._architectures.values()), text or CardText())
        return table

    def _flush(self, name: str) -> None:
        waiting, self._waiting[name] = self._waiting[name], []
        self._bytes[name] = 0
        if not waiting:
            return
        # The id may be a stranger's: of it only what is harmless in a file's name.
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:LONGEST_ID].strip("-") or "networks"
        shard = f"{plain}-{len(self._tables):05d}.safetensors"
        tables, stacks = [table for table, _ in waiting], [stack for _, stack in waiting]
        # In the architecture's order, in which a zoo is read: digests are of tensors in their order.
        shapes = self._architectures[name].shapes
        joined = {tensor: torch.cat([stack[tensor] for stack in stacks]).contiguous() for tensor in shapes}
        save_file(joined, self.folder / SHARD_FOLDER / shard)
        table = pd.concat(tables, ignore_index=True)
        places = {"architecture": name, "shard": shard, "row": range(len(table)), DIGEST: digest_stack(joined)}
        self._tables.append(table.assign(**places))


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """One type a column: where text and numbers mix, as settings in other people's zoos do, all become text."""
    for name in table.select_dtypes(["object", "string"]).columns:
        present = table[name].dropna()
        if (
            any(isinstance(value, Sequence | Mapping | set) and not isinstance(value, str) for value in present)
            or len({type(value) for value in present}) > 1
            or any(isinstance(value, int) and abs(value) >= 2**63 for value in present)
        ):
            table[name] = table[name].map(str, na_action="ignore")
    return table


def _public(value: Any) -> Any:
    """What a zoo says of itself, with the last names of paths of this machine only."""
    if isinstance(value, Mapping):
        return {name: _public(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "./", "../", "~")) or value.endswith(".npz"):
        return PurePath(value).name
    return LOCAL_PATH.sub(lambda path: PurePath(path[0]).name, value)


def _public_architecture(architecture: Architecture) -> Architecture:
    """How a network is built, by the last names of paths of this machine only."""
    told = {name: getattr(architecture, name) for name in ("factory", "arguments", "inputs_from", "note")}
    return replace(architecture, **_public(told))


def _public_table(table: pd.DataFrame) -> pd.DataFrame:
    """Properties, of texts those parts that are paths of this machine by their last names only."""
    texts = [name for name in table.select_dtypes(["object", "string"]).columns if name != "member"]
    return table.assign(**{name: table[name].map(_public, na_action="ignore") for name in texts})


def publish(
    zoo: Zoo, out: str | Path, about: CardText, *, shard_mib: int = 15, existing: Existing = "refuse"
) -> dict[str, Any]:
    """Write a zoo, or a part of one, for others.

    Args:
        zoo: what is published.
        out: a folder that does not exist yet; `huggingface-cli upload --repo-type dataset NAME OUT` takes it.
        about: what the card says that the zoo does not know.
        shard_mib: bound of a shard's weights in MiB; a larger single checkpoint makes a larger shard.
        existing: `replace` an existing `out`.

    Returns:
        `checkpoints`, `shards` and `bytes` of what was written.

    Examples:
        >>> publish(zoo, "for-the-hub", CardText(title="CNNs on MNIST", license="mit"))  # doctest: +SKIP
    """
    require_between("the size of a shard", shard_mib, 1)
    with new_folder(out, existing=existing) as folder:
        writer = ZooWriter(folder, shard_mib * 2**20)
        for piece in zoo.stacks():
            places = [name for name in PLACE_COLUMNS if name not in ("member", "epoch")]
            writer.add(
                _public_architecture(piece.architecture), piece.stack, _public_table(piece.table.drop(columns=places))
            )
        writer.finish(_public(zoo.about), about)
        write_manifest(folder, configuration={"shard_mib": shard_mib}, seed=0, public=True)
    shards = list((Path(out) / SHARD_FOLDER).iterdir())
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    return {"checkpoints": len(zoo), "shards": len(shards), "bytes": size}
