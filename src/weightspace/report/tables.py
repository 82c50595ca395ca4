"""Result rows as tables: for the page, and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from weightspace.analysis.inspecting.adapters import AdapterStudy
from weightspace.analysis.inspecting.kinship import Kinship, Relations, rooted
from weightspace.analysis.inspecting.studying import FolderStudy
from weightspace.plain_text import one_line
from weightspace.symmetry.axes import Symmetry

Row = Mapping[str, Any]
WIDTH, LONGEST_TEXT = 160, 2_000
PLACES_SHOWN, SHORT_HASH = 4, 10
HASHES = "Hashes begin with these letters: of the tensors' values, and of their numbers in any order."
NARROW = "\u00a0\u00a0"  # blanks that a page keeps
NEIGHBOR_COLUMNS = (
    *("member", "network", "epoch", "architecture", "test_accuracy", "generalization_gap", "learning_rate"),
    "activation",
)


class Table(NamedTuple):
    """A table of text: a title, a sentence that says how to read it, columns and rows; `words` are columns of words."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    words: tuple[str, ...] = ()


def neighbor_table(network: str, rows: Sequence[Row]) -> Table:
    """The nearest networks, nearest first, with what is known of them."""
    shown = [name for name in NEIGHBOR_COLUMNS if rows and name in rows[0]]
    body = [[f"{row['distance']:.3g}", *(_shown(row[name]) for name in shown)] for row in rows]
    columns = ["distance", *(name.replace("_", " ") for name in shown)]
    words = tuple(name for name in columns if name in ("member", "network", "architecture"))
    return Table(f"Nearest to {network}", "Distance between standardised embeddings.", columns, body, words)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def zoo_tables(summary: Mapping[str, Any]) -> list[Table]:
    """The architectures and the properties of a zoo's summary."""
    architectures = [
        [entry["id"], f"{entry['numbers']:,}", str(entry["tensors"]), f"{entry['checkpoints']:,}"]
        for entry in summary["architectures"]
    ]
    properties = []
    for entry in summary["properties"]:
        if "values" in entry:
            shown = _some(entry["values"], False, 6)
        else:
            shown = f"{entry['low']:.4g} … {entry['median']:.4g} … {entry['high']:.4g}"
        properties.append([entry["name"], shown, str(entry["missing"])])
    return [
        Table("Architectures", "", ["architecture", "numbers", "tensors", "checkpoints"], architectures),
        Table("Properties", "Lowest, median and highest value.", ["property", "values", "missing"], properties),
    ]


def draw_table(table: Table) -> RichTable:
    """A table for the terminal."""
    title = Text(one_line(table.title, LONGEST_TEXT), style="bold")
    drawn = RichTable(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for number, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "left" if number == 0 or column in table.words else "right"
        drawn.add_column(Text(one_line(column)), justify=justify, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(one_line(cell, LONGEST_TEXT)) for cell in row))
    return drawn


def print_table(table: Table) -> None:
    """Print a table to the terminal; a pipe or file counts as 160 columns wide."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(draw_table(table))


def inspection_tables(inspection: Mapping[str, Any], remarks: Mapping[str, list[str]], limit: int) -> list[Table]:
    """Architectures, then checkpoints, those with remarks first, then what is there twice."""
    checkpoints = inspection["checkpoints"]
    groups: dict[str, list[Row]] = {}
    for checkpoint in checkpoints:
        groups.setdefault(checkpoint["architecture"] or "not readable", []).append(checkpoint)
    architectures = [
        [name, f"{alike[0]['parameters']:,}", ", ".join(alike[0]["dtypes"]), f"{len(alike):,}"]
        for name, alike in groups.items()
    ]
    shown = sorted(checkpoints, key=lambda checkpoint: not remarks[checkpoint["path"]])
    rows = [
        [
            checkpoint["path"] or ".",
            checkpoint["format"],
            f"{checkpoint['bytes']:,}",
            checkpoint["values_hash"][:SHORT_HASH],
            checkpoint["fingerprint"][:SHORT_HASH],
            checkpoint["wrapping"],
            "; ".join(remarks[checkpoint["path"]]),
        ]
        for checkpoint in shown
    ]
    columns = ["file", "format", "bytes", "values", "any order", "wrapped in", "remarks"]
    twice = [["same file", ", ".join(group)] for group in inspection["equal_files"]]
    twice += [["same tensors", ", ".join(group)] for group in inspection["equal_tensors"]]
    twice += [["same numbers, other names", ", ".join(group)] for group in inspection["equal_numbers"]]
    tables = [
        Table(
            "Architectures by names and shapes", "", ["architecture", "numbers", "types", "checkpoints"], architectures
        ),
        Table("Checkpoints", HASHES, columns, rows, ("remarks",)),
        Table("There more than once", "", ["", "files"], twice, ("files",)),
    ]
    return [cut(table, limit) for table in tables if table.rows]


def cut(table: Table, limit: int) -> Table:
    """The first rows of a table, whose title says how many there are and how to see them."""
    count = len(table.rows)
    if count <= limit:
        return table
    return table._replace(
        title=f"{table.title} (the first {limit:,} of {count:,}; --rows shows more, --json all)",
        rows=table.rows[:limit],
    )


def folder_tables(study: FolderStudy, limit: int) -> list[Table]:
    """What is in a folder of checkpoints: all tables, each of at most so many rows."""
    remarks = {checkpoint.path: checkpoint.remarks() for checkpoint in study.inspection.checkpoints}
    tables = inspection_tables(study.inspection.to_json(), remarks, limit)
    tables += relation_tables(study.related, study.families(), limit)
    tables += adapter_tables(study.adapters, limit)
    tables += [seen_table(study.seen, limit)] if study.seen else []
    return [*tables, asked_table(study.asked, limit)] if study.asked else tables


def relation_tables(related: Mapping[str, Relations], trees: Sequence[Sequence[Kinship]], limit: int) -> list[Table]:
    """Checkpoints with the same numbers in another order, and families as indented trees."""
    reordered, families = [], []
    for architecture, relations in related.items():
        for group in relations.reordered:
            reordered.append([architecture, "yes" if group.confirmed else "not confirmed", ", ".join(group.paths)])
    for tree in trees:
        for depth, path, edge in rooted(tree):
            distance = "" if edge is None else f"{edge.distance:.3g}{' aligned' if edge.aligned else ''}"
            told = "" if edge is None else f"{edge.told}{' (a guess which came first)' if edge.guessed else ''}"
            families.append([f"{NARROW * depth}└ {path}" if depth else path, distance, told])
    note = "The same numbers in another order; it computes the same if an alignment makes it equal."
    near = (
        "Each below the one it is nearest to, with the distance relative to their norms: 0 is equal, 1.4 has nothing "
        "in common. `weightspace diff` says more of any two."
    )
    tables = [
        Table("Equal up to an order of units", note, ["architecture", "aligned", "files"], reordered, ("files",)),
        Table("Related checkpoints", near, ["file", "distance", "how"], families, ("how",)),
    ]
    return [cut(table, limit) for table in tables if table.rows]


def adapter_tables(adapters: AdapterStudy, limit: int) -> list[Table]:
    """What adapters change, and whose changes are the same or alike."""
    rows = [
        [
            view.path,
            view.method,
            view.known,
            f"{view.rank or '–'} / {view.used or '–'}",
            "–" if view.size is None else f"{view.size:.3g}",
            f"{view.changes:,} ({view.modules})",
            view.base or "–",
            view.note,
        ]
        for view in adapters.seen
    ]
    alike = [[pair.first, pair.second, f"{pair.cosine:.3f}", f"{pair.scale:.3g}", pair.told] for pair in adapters.alike]
    merged = [[twin.network, twin.base, twin.adapter, f"{twin.off:.1%}"] for twin in adapters.merged]
    columns = ["file", "method", "change", "rank, stored / used", "size", "tensors", "base", "remarks"]
    words = "Change: what it takes to know it. Size: its length, of what the file tells."
    off = "Off: what is between the network and its base with the adapter, over the adapter's change."
    near = "Of changes, whatever factors they are stored as. Cosine: 1 is one direction; size: of the second's change."
    tables = [
        Table("Adapters", words, columns, rows, ("tensors", "remarks")),
        Table("Adapters alike", near, ["adapter", "and", "cosine", "size", ""], alike, ("adapter", "and", "")),
        Table("Merged adapters", off, ["network", "is", "with", "off"], merged, ("network", "is", "with")),
    ]
    return [cut(table, limit) for table in tables if table.rows]


def seen_table(seen: Sequence[Any], limit: int) -> Table:
    """What a SANE says of checkpoints: the nearest other, and its prediction."""
    rows = [
        [own.path, own.nearest or "–", "–" if own.distance is None else f"{own.distance:.3g}", own.prediction or "–"]
        for own in seen
    ]
    columns = ["file", "nearest", "distance", "prediction"]
    words = ("nearest", "prediction")
    return cut(Table("What SANE says", "Distance between standardised embeddings.", columns, rows, words), limit)


def asked_table(asked: Sequence[Any], limit: int) -> Table:
    """What checkpoints do when they are asked: who answers most alike, and what is wrong; those with remarks first."""
    rows = [
        [view.path, view.nearest or "–", "–" if view.agreement is None else f"{view.agreement:.0%}", view.note or "–"]
        for view in sorted(asked, key=lambda view: not view.note)
    ]
    columns, words = ["file", "does most nearly what this does", "alike", "remarks"], ("remarks",)
    note = "Alike: of noise inputs those that both answer with the same class (or how far outputs vary together)."
    return cut(Table("What they do", note, columns, rows, words), limit)


def symmetry_tables(symmetry: Symmetry, *, every: bool = False) -> list[Table]:
    """Groups with their sizes and the axes they move; operations with the axes they freeze.

    Args:
        symmetry: of a network.
        every: name every axis; without it, a few of each.
    """
    moving = Table(
        "What moves",
        "Each group may be permuted by itself; an axis is written tensor[number].",
        ["group", "size", "axes", "which"],
        [
            [group, str(symmetry.groups[group]), str(len(places)), _some(places, every)]
            for group, places in symmetry.places().items()
        ],
        words=("which",),
    )
    still = Table(
        "What stands still",
        "An operation without a rule freezes what it touches.",
        ["because of", "axes", "which"],
        [[reason, str(len(places)), _some(places, every)] for reason, places in symmetry.frozen.items()],
        words=("which",),
    )
    return [table for table in (moving, still) if table.rows]


def _some(places: Sequence[str], every: bool, most: int = PLACES_SHOWN) -> str:
    shown = places if every else places[:most]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
