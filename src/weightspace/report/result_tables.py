"""Results as tables of text: what reading, writing and a look into layers measured."""

import math
from collections.abc import Callable, Sequence

from weightspace.analysis.config import ForecastConfig
from weightspace.analysis.forecasting import ForecastRow
from weightspace.analysis.layers import FEATURES, LayerStudy
from weightspace.analysis.probing.comparing import ProbeRow
from weightspace.evaluation.comparing import WritingRow
from weightspace.report.tables import WIDTH, Table

NARROWEST = 13


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


def forecast_tables(rows: Sequence[ForecastRow], config: ForecastConfig) -> list[Table]:
    """What is known down, how many checkpoints were seen across: R², then how often intervals held and how wide."""
    seen = {row.seen: row.epoch for row in rows}
    columns = ["known", *(f"to epoch {epoch}" for epoch in seen.values())]
    names = list(dict.fromkeys(row.representation for row in rows))

    def body(show: Callable[[ForecastRow], str]) -> list[list[str]]:
        return [[name, *(show(row) for row in rows if row.representation == name)] for name in names]

    def share(row: ForecastRow) -> str:
        return "–" if _unknown(row.coverage) else f"{row.coverage:.0%}, ± {row.width / 2:.2f}"

    target, level = config.target.replace("_", " "), f"{config.level:.0%}"
    told = "On unseen members; in brackets the 95 % interval by bootstrap. 1 is perfect."
    tables = [
        Table(
            f"Last {target}: R² by what was seen", told, columns, body(lambda row: _r2(row.r2, row.r2_low, row.r2_high))
        ),
        Table(f"Intervals for {level} of members: held, and half width", "", columns, body(share)),
    ]
    return [part for table in tables for part in _narrow(table)]


def _forecast(row: ForecastRow) -> str:
    return _r2(row.r2, row.r2_low, row.r2_high)


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


def _score(row: ProbeRow | None) -> str:
    if row is None:
        return "–"
    numbers = (row.r2, row.r2_low, row.r2_high)
    return _r2(*(numbers if row.chance is None else (row.accuracy, row.accuracy_low, row.accuracy_high)))


def _r2(value: float | None, low: float | None, high: float | None) -> str:
    return _number(value, 3) if _unknown(low) else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _accuracy(row: WritingRow | None) -> str:
    return "–" if row is None else f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or _unknown(value) else f"{value:.{digits}f}"


def _unknown(value: float | None) -> bool:
    """None in what was read from a file, NaN in what was just computed."""
    return value is None or math.isnan(value)
