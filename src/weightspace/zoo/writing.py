"""Write a zoo, shard by shard, so that it never has to be in memory as a whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from weightspace.outputs import write_json
from weightspace.weights import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import FORMAT, PLACE_COLUMNS, SHARD_FOLDER, TABLE_FILE, ZOO_FILE


class ZooWriter:
    """Collects stacks of checkpoints into a folder in the zoo format.

    Example:
        writer = ZooWriter(folder)
        writer.add(architecture, stack, table)   # as often as you like
        writer.finish(about={"seed": 0})
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: list[pd.DataFrame] = []
        self._architectures: dict[str, Architecture] = {}
        (folder / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)

    def add(self, architecture: Architecture, stack: Weights, table: pd.DataFrame) -> None:
        """Write one shard: checkpoints stacked per tensor, and their rows (`member`, `epoch`, properties)."""
        shard = f"{architecture.id}-{len(self._tables):05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in stack.items()}, self.folder / SHARD_FOLDER / shard)
        self._architectures[architecture.id] = architecture
        self._tables.append(
            table.reset_index(drop=True).assign(architecture=architecture.id, shard=shard, row=range(len(table)))
        )

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the table, `zoo.json` and the card."""
        table = pd.concat(self._tables, ignore_index=True)
        table = table[[*PLACE_COLUMNS, *(name for name in table.columns if name not in PLACE_COLUMNS)]]
        table.to_parquet(self.folder / TABLE_FILE, index=False)
        architectures = [architecture.to_json() for architecture in self._architectures.values()]
        write_json(self.folder / ZOO_FILE, {"format": FORMAT, **about, "architectures": architectures})
        (self.folder / "README.md").write_text(_card(table, self._architectures.values()))


def _card(table: pd.DataFrame, architectures: Iterable[Architecture]) -> str:
    lines = ["---", "tags: [weight-space, model-zoo]", "---", "# A zoo of trained networks", ""]
    lines.append(f"{table['member'].nunique()} members, {len(table)} checkpoints, written by weightspace.")
    lines += ["", "| architecture | numbers | checkpoints |", "|---|---|---|"]
    for entry in architectures:
        lines.append(f"| {entry.id} | {entry.parameters:,} | {(table['architecture'] == entry.id).sum():,} |")
    lines += [
        "",
        "`models.parquet` has one row per checkpoint; its `shard` and `row` say where in `shards/` the",
    ]
    lines.append("weights are: each shard stacks every tensor over its checkpoints.")
    return "\n".join(lines) + "\n"
