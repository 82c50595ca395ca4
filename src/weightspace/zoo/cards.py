"""What is in a zoo: as a JSON value, and as the card that a hub shows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from weightspace.plain_text import LONGEST_NAME, markdown_cell
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import TABLE_FILE
from weightspace.zoo.zoo import NO_PROPERTIES, Zoo

CARD_FILE = "README.md"
LONGEST_SOURCE = 2_000
UNKNOWN_EPOCH = "an epoch is not known and counts as 0"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, kw_only=True)
class CardText:
    """What a card says that the zoo itself does not know."""

    title: str = "A zoo of trained networks"
    license: str = ""
    source: str = ""


def write_card(folder: Path, table: pd.DataFrame, architectures: Sequence[Architecture], about: CardText) -> None:
    """Write `README.md`: a dataset card with its YAML header, as Hugging Face reads it."""
    lines = [*_header(len(table), about), f"# {markdown_cell(about.title, LONGEST_NAME)}", ""]
    lines += [f"{table['member'].nunique():,} members, {len(table):,} checkpoints, written by weightspace.", ""]
    if about.source:
        lines += [markdown_cell(about.source, LONGEST_SOURCE), ""]
    lines += ["## Architectures", "", "| architecture | numbers | checkpoints |", "|---|---|---|"]
    counts = table["architecture"].value_counts()
    lines += [
        f"| {markdown_cell(entry.id)} | {entry.parameters:,} | {counts.get(entry.id, 0):,} |" for entry in architectures
    ]
    lines += ["", "## Properties", "", "| property | values | missing |", "|---|---|---|"]
    lines += [_property_row(name, table[name]) for name in table.columns if name not in NO_PROPERTIES]
    lines += ["", *_reading()]
    (folder / CARD_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _header(checkpoints: int, about: CardText) -> list[str]:
    size = next((name for limit, name in SIZES if checkpoints < limit), "n>1M")
    return [
        "---",
        f"pretty_name: {json.dumps(about.title)}",
        *([f"license: {json.dumps(about.license)}"] if about.license else []),
        "tags: [weight-space-learning, model-zoo]",
        f"size_categories: [{size}]",
        "configs:",
        "- config_name: default",
        f"  data_files: {TABLE_FILE}",
        "---",
    ]


def _property_row(name: str, values: pd.Series) -> str:
    present = values.dropna()
    if pd.api.types.is_numeric_dtype(values) and len(present):
        shown = f"{present.min():.4g} to {present.max():.4g}"
    else:
        kinds = sorted(set(map(str, present)))
        shown = ", ".join(map(markdown_cell, kinds[:6])) + (f" and {len(kinds) - 6} more" if len(kinds) > 6 else "")
    return f"| {markdown_cell(name)} | {shown} | {len(values) - len(present):,} |"


def _reading() -> list[str]:
    return [
        "## Reading it",
        "",
        f"`{TABLE_FILE}` has one row per checkpoint; its `shard` and `row` say where in `shards/` the weights are:",
        "each shard stacks every tensor over its checkpoints. `zoo.json` describes the architectures. In Python:",
        "",
        "```python",
        "import weightspace as ws",
        "",
        'zoo = ws.Zoo.open("THIS_FOLDER")',
        "weights = zoo.weights(0)  # of the table's first row",
        "```",
    ]


def summarize(zoo: Zoo) -> dict[str, Any]:
    """Members, checkpoints, bytes; architectures; every property with its range and missing values."""
    counts = zoo.table["architecture"].value_counts()
    return {
        "members": len(zoo.members),
        "checkpoints": len(zoo),
        "bytes": sum(path.stat().st_size for folder in zoo.folders for path in folder.rglob("*") if path.is_file()),
        "architectures": [
            {
                "id": architecture.id,
                "numbers": architecture.parameters,
                "tensors": len(architecture.shapes),
                "checkpoints": int(counts.get(architecture.id, 0)),
                "factory": architecture.factory,
            }
            for architecture in zoo.architectures.values()
        ],
        "properties": [_summarize_property(name, zoo.table[name], _unknown(zoo, name)) for name in zoo.properties],
    }


def _unknown(zoo: Zoo, name: str) -> int:
    """Of how many checkpoints of an imported zoo nobody knew the epoch: the table has 0 there."""
    imported = zoo.about.get("imported") if name == "epoch" else None
    return int(imported.get("notes", {}).get(UNKNOWN_EPOCH, 0)) if isinstance(imported, dict) else 0


def _summarize_property(name: str, values: pd.Series, unknown: int = 0) -> dict[str, Any]:
    missing = int(values.isna().sum()) + min(unknown, len(values))
    if unknown >= len(values) > 0:
        return {"name": name, "values": [], "missing": missing}
    if pd.api.types.is_numeric_dtype(values):
        low, middle, high = (float(value) for value in (values.min(), values.median(), values.max()))
        return {"name": name, "low": low, "median": middle, "high": high, "missing": missing}
    return {"name": name, "values": sorted(map(str, values.dropna().unique())), "missing": missing}
