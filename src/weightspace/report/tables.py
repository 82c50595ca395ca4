"""Result rows as tables: for the page, and for the terminal."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from weightspace.analysis.inspecting.kinship import rooted
from weightspace.analysis.inspecting.relating_folders import FolderStudy
from weightspace.analysis.layers import FEATURES, LayerStudy
from weightspace.analysis.probing.comparing import ProbeRow
from weightspace.evaluation.comparing import WritingRow
from weightspace.symmetry.axes import Symmetry

Row = Mapping[str, Any]
WIDTH = 160
PLACES_SHOWN = 4
NARROWEST = 13
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


def reading_tables(rows: Sequence[ProbeRow]) -> list[Table]:
    """Representations down, targets across: over all epochs, on last epochs, hyper-parameters, and categories."""
    scored = [row for row in rows if row.chance is None]
    pooled = [row for row in scored if row.subset == "pooled"]
    targets = {row.target for row in pooled}
    last = [row for row in scored if row.subset == "last_epoch"]
    drawn = [row for row in last if row.target not in targets]
    intervals = "Linear probes; in brackets the 95 % interval by bootstrap over members. 1 is perfect."
    tables = [
        _reading_table("Reading networks: R² on unseen members, all kept epochs", intervals, pooled),
        _reading_table(
            "Reading networks: R² on unseen members, last epoch only",
            "Over all epochs R² mostly says whether a network has been trained yet; here all have been.",
            [row for row in last if row.target in targets],
        ),
        _reading_table(
            "Which hyper-parameters can be read: R²",
            f"On last epochs. Predicted as logarithms: {_logarithms(drawn) or 'none'}.",
            drawn,
        ),
    ]
    tables.append(_difference_table(scored))
    if drawn:
        tables.append(_rank_table(scored))
    for subset, where in (("pooled", "all kept epochs"), ("last_epoch", "last epoch only")):
        guessed = [row for row in rows if row.chance is not None and row.subset == subset]
        tables.append(_reading_table(f"Categories: share guessed right, {where}", _chances(guessed), guessed))
    return [part for table in tables if table.rows for part in _narrow(table)]


def _narrow(table: Table) -> list[Table]:
    """A table in several of fewer columns, if it would not fit a terminal."""
    widest = max(NARROWEST, *(len(cell) for row in table.rows for cell in row[1:])) + len(" │ ")
    most = (WIDTH - max(len(row[0]) for row in table.rows)) // widest
    return [
        table._replace(
            title=f"{table.title}{' (continued)' if start > 1 else ''}",
            columns=[table.columns[0], *table.columns[start : start + most]],
            rows=[[row[0], *row[start : start + most]] for row in table.rows],
        )
        for start in range(1, len(table.columns), most)
    ]


def _difference_table(rows: Sequence[ProbeRow]) -> Table:
    """R² minus that of layer statistics, which is what an embedding has to beat."""
    compared = [row for row in rows if row.over_statistics is not None]
    columns, body = _by_task(compared, lambda row: _difference(row) if row is not None else "–")
    note = "Above s(W) if the interval is above 0: a paired bootstrap over members."
    return Table("Reading networks: R² minus that of s(W)", note, columns, body)


def _difference(row: ProbeRow) -> str:
    value, low, high = row.over_statistics, row.over_statistics_low, row.over_statistics_high
    return f"{value:+.2f}" if _unknown(low) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _rank_table(rows: Sequence[ProbeRow]) -> Table:
    """Kendall's tau of the same probes, compactly."""
    columns, body = _by_task(rows, lambda row: _number(row.tau if row is not None else None))
    note = "Kendall's τ between predicted and true: 1 is the right order, 0 a random one."
    return Table("Reading networks: rank correlation", note, columns, body)


def _by_task(rows: Sequence[ProbeRow], show: Callable[[ProbeRow | None], str]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of a table with representations down and tasks across."""
    tasks = list(dict.fromkeys((row.target, row.subset) for row in rows))
    places = {"pooled": "all epochs", "last_epoch": "last epoch"}
    body = []
    for name in dict.fromkeys(row.representation for row in rows):
        cells = {(row.target, row.subset): row for row in rows if row.representation == name}
        body.append([name, *(show(cells.get(task)) for task in tasks)])
    return ["representation", *(f"{target.replace('_', ' ')}, {places[subset]}" for target, subset in tasks)], body


def _reading_table(title: str, note: str, rows: Sequence[ProbeRow]) -> Table:
    targets = list(dict.fromkeys(row.target for row in rows))
    body = []
    for name in dict.fromkeys(row.representation for row in rows):
        cells = {row.target: row for row in rows if row.representation == name}
        body.append([name, *(_score(cells.get(target)) for target in targets)])
    return Table(title, note, ["representation", *(target.replace("_", " ") for target in targets)], body)


def _chances(rows: Sequence[ProbeRow]) -> str:
    chance = {row.target: row.chance for row in rows}
    return "Always guessing the most frequent gives " + ", ".join(f"{v:.2f} ({k})" for k, v in chance.items()) + "."


def _logarithms(rows: Sequence[ProbeRow]) -> str:
    return ", ".join(dict.fromkeys(row.target.replace("_", " ") for row in rows if row.scale == "log10"))


ACCURACY_NOTE = "Mean over networks with its 95 % interval, by epochs of fine-tuning; 0 is untrained."
NOVELTY_NOTE = (
    "Novelty: distance to the nearest training checkpoint over the median distance of two members, in standardised, "
    "aligned weights, and the same for predictions. Diversity: median distance to the other networks, likewise. "
    "Together: accuracy of the first networks' mean answer. Shared errors: of the images that either of two networks "
    "gets wrong, the share that both do."
)
MEASURES = ("novelty", "functional_novelty", "diversity", "ensemble", "error_overlap", "latents_per_weight")
HEADINGS = {"ensemble": "together", "error_overlap": "shared errors"}


def writing_tables(rows: Sequence[WritingRow]) -> list[Table]:
    """Methods down: accuracy by epochs of fine-tuning; then how new and how different networks are, untrained."""
    epochs = sorted({row.epochs for row in rows})
    accuracies, measures = [], []
    for method in dict.fromkeys(row.method for row in rows):
        cells = {row.epochs: row for row in rows if row.method == method}
        first = cells[min(cells)]
        accuracies.append([method, *(_accuracy(cells.get(epoch)) for epoch in epochs)])
        known = first._replace(latents_per_weight=first.latents_per_weight or math.nan)
        measures.append([method, *(_number(getattr(known, name)) for name in MEASURES)])
    columns = ["method", *(f"epoch {epoch}" for epoch in epochs)]
    names = ["method", *(HEADINGS.get(name, name.replace("_", " ")) for name in MEASURES)]
    return [
        Table("Writing networks: test accuracy", ACCURACY_NOTE, columns, accuracies),
        Table("Writing networks: how new they are, untrained", NOVELTY_NOTE, names, measures),
    ]


def neighbor_table(network: str, rows: Sequence[Row]) -> Table:
    """The nearest networks, nearest first, with what is known of them."""
    shown = [name for name in NEIGHBOR_COLUMNS if rows and name in rows[0]]
    body = [[f"{row['distance']:.3g}", *(_shown(row[name]) for name in shown)] for row in rows]
    columns = ["distance", *(name.replace("_", " ") for name in shown)]
    words = tuple(name for name in columns if name in ("member", "network", "architecture"))
    return Table(f"Nearest to {network}", "Distance between standardised embeddings.", columns, body, words)


def layer_table(study: LayerStudy) -> Table:
    """Means of every network's layers, feature by feature, for those features that some network has."""
    means = study.to_json()["means"]
    features = [name for name in FEATURES if any(math.isfinite(own[name]) for own in means.values())]
    body = [[name, str(len(study.layers[name])), *(f"{own[f]:.3g}" for f in features)] for name, own in means.items()]
    columns = ["network", "layers", *(name.replace("_", " ") for name in features)]
    note = (
        "Means over layers: spread of its latents, size of their mean; α, stable rank and log-norm are WeightWatcher's."
    )
    return Table("Layers", note, columns, body, ("network",))


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
            shown = ", ".join(entry["values"][:6]) + (", …" if len(entry["values"]) > 6 else "")
        else:
            shown = f"{entry['low']:.4g} … {entry['median']:.4g} … {entry['high']:.4g}"
        properties.append([entry["name"], shown, str(entry["missing"])])
    return [
        Table("Architectures", "", ["architecture", "numbers", "tensors", "checkpoints"], architectures),
        Table("Properties", "Lowest, median and highest value.", ["property", "values", "missing"], properties),
    ]


def draw_table(table: Table) -> RichTable:
    """A table for the terminal."""
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if number == 0 or column in table.words else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def print_table(table: Table) -> None:
    """Print a table to the terminal; a pipe or file counts as 160 columns wide."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(draw_table(table))


def _score(row: ProbeRow | None) -> str:
    if row is None:
        return "–"
    numbers = (row.r2, row.r2_low, row.r2_high)
    value, low, high = numbers if row.chance is None else (row.accuracy, row.accuracy_low, row.accuracy_high)
    return _number(value, 3) if _unknown(low) else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _accuracy(row: WritingRow | None) -> str:
    return "–" if row is None else f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or _unknown(value) else f"{value:.{digits}f}"


def _unknown(value: float | None) -> bool:
    """None in what was read from a file, NaN in what was just computed."""
    return value is None or math.isnan(value)


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
    shown = sorted(checkpoints, key=lambda checkpoint: not remarks[checkpoint["path"]])[:limit]
    rows = [
        [
            checkpoint["path"] or ".",
            checkpoint["format"],
            f"{checkpoint['bytes']:,}",
            checkpoint["wrapping"],
            "; ".join(remarks[checkpoint["path"]]),
        ]
        for checkpoint in shown
    ]
    note = f"The first {limit} of {len(checkpoints)}; --json has all." if len(checkpoints) > limit else ""
    twice = [["same file", ", ".join(group)] for group in inspection["equal_files"]]
    twice += [["same tensors", ", ".join(group)] for group in inspection["equal_tensors"]]
    tables = [
        Table(
            "Architectures by names and shapes", "", ["architecture", "numbers", "types", "checkpoints"], architectures
        ),
        Table("Checkpoints", note, ["file", "format", "bytes", "wrapped in", "remarks"], rows, ("remarks",)),
        Table("There more than once", "", ["", "files"], twice[:limit], ("files",)),
    ]
    return [table for table in tables if table.rows]


def folder_tables(study: FolderStudy, limit: int) -> list[Table]:
    """What is in a folder of checkpoints: all tables, each of at most so many rows."""
    remarks = {checkpoint.path: checkpoint.remarks() for checkpoint in study.inspection.checkpoints}
    tables = inspection_tables(study.inspection.to_json(), remarks, limit)
    tables += relation_tables(study.related, limit)
    return [*tables, seen_table(study.seen, limit)] if study.seen else tables


def relation_tables(related: Mapping[str, Any], limit: int) -> list[Table]:
    """Checkpoints with the same numbers in another order, and families as indented trees."""
    reordered, families = [], []
    for architecture, relations in related.items():
        for group in relations.reordered:
            reordered.append([architecture, "yes" if group.confirmed else "not confirmed", ", ".join(group.paths)])
        for tree in relations.trees:
            for depth, path, edge in rooted(tree):
                distance = "" if edge is None else f"{edge.distance:.3g}{' aligned' if edge.aligned else ''}"
                families.append([f"{NARROW * depth}└ {path}" if depth else path, distance])
    note = "The same numbers in another order; it computes the same if an alignment makes it equal."
    near = (
        "Each below the one it is nearest to, with the distance relative to their norms: 0 is equal, 1.4 has nothing "
        "in common. Which came first the weights do not tell."
    )
    tables = [
        Table(
            "Equal up to an order of units", note, ["architecture", "aligned", "files"], reordered[:limit], ("files",)
        ),
        Table("Related checkpoints", near, ["file", "distance"], families[:limit]),
    ]
    return [table for table in tables if table.rows]


def seen_table(seen: Sequence[Any], limit: int) -> Table:
    """What a SANE says of checkpoints: the nearest other, and its prediction."""
    rows = [
        [own.path, own.nearest or "–", "–" if own.distance is None else f"{own.distance:.3g}", own.prediction or "–"]
        for own in seen
    ]
    columns = ["file", "nearest", "distance", "prediction"]
    words = ("nearest", "prediction")
    return Table("What SANE says", "Distance between standardised embeddings.", columns, rows[:limit], words)


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


def _some(places: Sequence[str], every: bool) -> str:
    shown = places if every else places[:PLACES_SHOWN]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
