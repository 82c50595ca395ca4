"""Result rows as tables: for the page, and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

Row = Mapping[str, Any]
WIDTH = 130


class Table(NamedTuple):
    """A table of text: a title, a sentence that says how to read it, columns and rows."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def reading_tables(rows: Sequence[Row]) -> list[Table]:
    """One table per subset: representations down, targets across."""
    tables = []
    for subset in dict.fromkeys(row["subset"] for row in rows):
        own = [row for row in rows if row["subset"] == subset]
        targets = list(dict.fromkeys(row["target"] for row in own))
        body = []
        for name in dict.fromkeys(row["representation"] for row in own):
            cells = {row["target"]: row for row in own if row["representation"] == name}
            body.append([name, *(_score(cells.get(target)) for target in targets)])
        where = "all kept epochs" if subset == "pooled" else "last epoch only"
        tables.append(
            Table(
                f"Reading networks: R² on unseen members, {where}",
                "Linear probes; in brackets the 95 % interval by bootstrap over members. 1 is perfect.",
                ["representation", *(target.replace("_", " ") for target in targets)],
                body,
            )
        )
    return tables


def writing_table(rows: Sequence[Row]) -> Table:
    """Methods down, epochs of fine-tuning across, with novelty."""
    epochs = list(dict.fromkeys(row["epochs"] for row in rows))
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["epochs"]: row for row in rows if row["method"] == method}
        first = next(iter(cells.values()))
        body.append(
            [
                method,
                *(_accuracy(cells.get(epoch)) for epoch in epochs),
                _number(first["novelty"]),
                _number(first["functional_novelty"]),
                _number(first["latents_per_weight"]) if first["latents_per_weight"] else "–",
            ]
        )
    return Table(
        "Writing networks: test accuracy after fine-tuning",
        "Mean over networks with its 95 % interval. Novelty: distance to the nearest training checkpoint over the "
        "median distance of two members, in standardised, aligned weights, and the same for predictions.",
        [
            "method",
            *(f"epoch {epoch}" for epoch in epochs),
            "novelty",
            "functional novelty",
            "latents per weight",
        ],
        body,
    )


def zoo_tables(summary: Mapping[str, Any]) -> list[Table]:
    """The architectures and the properties of a zoo's summary."""
    architectures = [
        [entry["id"], f"{entry['numbers']:,}", str(entry["tensors"]), f"{entry['checkpoints']:,}"]
        for entry in summary["architectures"]
    ]
    properties = []
    for entry in summary["properties"]:
        if "values" in entry:
            shown = ", ".join(entry["values"][:6]) + (", …" if len(entry["values"]) > 6 else "")
        else:
            shown = f"{entry['low']:.4g} … {entry['median']:.4g} … {entry['high']:.4g}"
        properties.append([entry["name"], shown, str(entry["missing"])])
    return [
        Table("Architectures", "", ["architecture", "numbers", "tensors", "checkpoints"], architectures),
        Table("Properties", "Lowest, median and highest value.", ["property", "values", "missing"], properties),
    ]


def print_table(table: Table) -> None:
    """Print a table to the terminal."""
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        drawn.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(drawn)


def _score(row: Row | None) -> str:
    if row is None or row["r2"] is None:
        return "–"
    return f"{row['r2']:.3f} [{row['r2_low']:.2f}, {row['r2_high']:.2f}]"


def _accuracy(row: Row | None) -> str:
    return "–" if row is None else f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
