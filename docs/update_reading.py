"""Render the tables and the figure of reading networks from `docs/tables/`: `python docs/update_reading.py`.

Writes the blocks of `docs/pages/results/reading.md` and `reading-zoos.md`, and the figure beside them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from update_readme import replace_block

from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent
TABLES, RESULTS = ROOT / "tables", ROOT / "pages" / "results"
PAGES, FIGURE = (RESULTS / "reading.md", RESULTS / "reading-zoos.md"), RESULTS / "reading.svg"
TARGETS = {"test_accuracy": "test accuracy", "epoch": "epoch", "generalization_gap": "generalisation gap"}
STATISTICS, EMBEDDING, ASKED = "s(W)", "SANE (readout)", "r(W)"
BOTH = f"{EMBEDDING} + {ASKED}"
NOT_WORSE, BETTER = -0.02, 0.0
DRAWN = (STATISTICS, EMBEDDING, ASKED, BOTH)
SEEN, PREDICTED = "SANE with responses (readout)", "SANE of predicted responses (readout)"
JOINED = (STATISTICS, EMBEDDING, PREDICTED, f"{STATISTICS} + {ASKED}", BOTH, SEEN)
MODELS = {"linear": "lines", "trees": "trees"}
EPOCHS = 8
Row = dict[str, Any]


def load(table: str) -> list[dict[str, Any]]:
    """All files of one table, in the order of the zoos' names."""
    return [json.loads(path.read_text()) for path in sorted(TABLES.glob(f"reading-{table}-*.json"))]


def by(model: str, rows: Sequence[Row]) -> list[Row]:
    """Those rows that lines, or trees, read."""
    return [row for row in rows if row.get("model", "linear") == model]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def with_interval(row: Row | None) -> str:
    """R², or the share guessed right, with its interval."""
    if row is None:
        return "–"
    if row.get("accuracy") is not None:
        return f"{row['accuracy']:.2f} [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
    if row["r2_low"] is None:
        return number(row["r2"])
    return f"{row['r2']:.3f} [{row['r2_low']:.2f}, {row['r2_high']:.2f}]"


def column_of(row: Row) -> tuple[str, Any]:
    """What is predicted, and on which epochs."""
    return row["target"], row["epoch"]


def heading(column: tuple[str, Any]) -> str:
    """A column in words."""
    target, epoch = column
    return f"{TARGETS.get(target, target.replace('_', ' '))}{'' if epoch == 'all' else f', epoch {epoch}'}"


def cross(rows: Sequence[Row], cell: Callable[[Row | None], str] = with_interval) -> str:
    """Representations down, targets across."""
    columns = list(dict.fromkeys(map(column_of, rows)))
    body = []
    for name in dict.fromkeys(row["representation"] for row in rows):
        own = {column_of(row): row for row in rows if row["representation"] == name}
        body.append([name, *(cell(own.get(column)) for column in columns)])
    return markdown(["representation", *map(heading, columns)], body)


def zoo_table(found: dict[str, Any]) -> str:
    """Results of one zoo by lines and by trees, then its hyper-parameters, then Kendall's tau."""
    (name,) = found["zoos"]
    rows = found["rows"]
    results = [row for row in rows if row["target"] in TARGETS]
    drawn = [row for row in rows if row["target"] not in TARGETS]
    members = max(row.get("members") or 0 for row in results)
    parts = [
        f"### {name}",
        f"R² with its 95 % interval; {members} members, each tested once (`{found['command']}`, {found['date']}).",
    ]
    for model, word in MODELS.items():
        parts += [f"By {word}:", cross(by(model, results))]
    ranks: Callable[[Row | None], str] = lambda row: "–" if row is None or row["tau"] is None else f"{row['tau']:.2f}"  # noqa: E731
    parts += ["Kendall's τ of the lines:", cross(by("linear", results), ranks)]
    if drawn:
        chances = {row["target"]: row["chance"] for row in drawn if row.get("chance")}
        guess = ", ".join(f"{value:.2f} ({name})" for name, value in chances.items())
        parts += [
            f"Hyper-parameters, at the last epoch, by lines: R², or the share guessed right (chance {guess}).",
            cross(drawn),
        ]
    return "\n\n".join(parts)


def cells(files: Sequence[dict[str, Any]], representation: str, model: str) -> list[Row]:
    """The rows of one representation that is held against s(W)."""
    rows = [row for found in files for row in by(model, found["rows"])]
    return [row for row in rows if row["representation"] == representation and row["target"] in TARGETS]


def verdict(row: Row) -> str:
    """What a paired interval says."""
    low, high = row["over_statistics_low"], row["over_statistics_high"]
    if low > BETTER:
        return "better"
    if low > NOT_WORSE:
        return "not worse"
    return "worse" if high < 0 else "open"


def verdicts(files: Sequence[dict[str, Any]], representation: str, model: str) -> str:
    """R² minus that of s(W) in every cell, with the verdict; counted below."""
    rows = cells(files, representation, model)
    columns = [(target, pooled) for pooled in (True, False) for target in TARGETS if pooled or target != "epoch"]
    body = []
    for name in dict.fromkeys(row["zoo"] for row in rows):
        by_column = {(row["target"], row["epoch"] == "all"): row for row in rows if row["zoo"] == name}
        body.append([name, *(difference(by_column[column]) for column in columns)])
    table = markdown(["zoo", *(TARGETS[t] + ("" if pooled else ", last epoch") for t, pooled in columns)], body)
    return f"{table}\n\nOf {len(rows)} cells: {counted(rows)}."


def counted(rows: Sequence[Row]) -> str:
    """How many cells are better than s(W), not worse, open and worse."""
    counts = {kind: sum(verdict(row) == kind for row in rows) for kind in ("better", "not worse", "open", "worse")}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def bounding(files: Sequence[dict[str, Any]]) -> str:
    """What bounding features does: R² on validation members by width, and the verdicts with and without it."""
    body = []
    measured = [row for found in load("bounds") for row in found["rows"]]
    for place in dict.fromkeys((row["zoo"], row["representation"]) for row in measured):
        mine = [row for row in measured if (row["zoo"], row["representation"]) == place]
        body.append([*place, *(number(row["validation_r2"]) for row in mine)])
    widths = dict.fromkeys(row["width"] for row in measured)
    columns = ["zoo", "representation", *("not bounded" if width is None else f"{width:g} spreads" for width in widths)]
    bounded_too = {next(iter(found["zoos"])) for found in files}
    unbounded = [found for found in load("unbounded") if next(iter(found["zoos"])) in bounded_too]
    before = [row for found in unbounded for row in found["rows"] if row["target"] in TARGETS]
    lines = []
    for name in (EMBEDDING, ASKED, "t(W)"):
        old = counted([row for row in before if row["representation"] == name])
        lines.append([name, old, counted(cells(files, name, "linear"))])
    after = [row for found in files for row in by("linear", found["rows"]) if row["target"] in TARGETS]
    means = [np.mean([row["r2"] for row in rows if row["representation"] == STATISTICS]) for rows in (before, after)]
    said = f"Of s(W), by lines, the mean R² over all cells is {means[0]:.3f} unbounded and {means[1]:.3f} bounded."
    verdicts_ = markdown(["against s(W), by lines", "not bounded, as before", "bounded"], lines)
    return f"{verdicts_}\n\n{said}\n\n{markdown(columns, body)}"


def difference(row: Row) -> str:
    """R² minus that of s(W) with its paired interval; bold where it is better."""
    shown = f"{row['over_statistics']:+.3f} [{row['over_statistics_low']:+.2f}, {row['over_statistics_high']:+.2f}]"
    return f"**{shown}**" if verdict(row) == "better" else f"{shown} ({verdict(row)})"


def beside_the_paper(files: Sequence[dict[str, Any]]) -> str:
    """The paper's numbers, then ours of the same representations, all epochs."""
    paper = json.loads((TABLES / "published-reading.json").read_text())
    names = ("W", "s(W)", "SANE (mean)", "SANE (sequence, PCA)", "hyper-representation")
    body = [["paper", row["zoo"], TARGETS[row["target"]], *map(number, row["values"]), "–"] for row in paper["rows"]]
    for found in files:
        (zoo,) = found["zoos"]
        for target in TARGETS:
            own = {r["representation"]: r["r2"] for r in by("linear", found["rows"]) if column_of(r) == (target, "all")}
            first = own.get("W", own.get("W (PCA)"))
            values = [first, *(own.get(name) for name in names[1:]), own.get(EMBEDDING)]
            body.append(["here", zoo, TARGETS[target], *map(number, values)])
    columns = ["", "zoo", "target", *paper["columns"], EMBEDDING]
    return f"{paper['source']}\n\n{markdown(columns, body)}"


def ranked(row: Row | None) -> str:
    """Kendall's τ, and R²."""
    return "–" if row is None else f"{row['tau']:.2f} ({row['r2']:.2f})"


def labelled(rows: Sequence[Row], column: str, cell: Callable[[Row | None], str] = with_interval) -> str:
    """Small tables: zoo, target, the model and one more column down, representations across."""
    names = list(dict.fromkeys(row["representation"] for row in rows))
    body = []

    def place_of(row: Row) -> tuple[Any, ...]:
        return row["zoo"], row["target"], row["epoch"], row.get("model", "linear"), row.get(column)

    for place in dict.fromkeys(map(place_of, rows)):
        here = {row["representation"]: row for row in rows if place_of(row) == place}
        about = [place[0], heading(place[1:3]), MODELS[place[3]], str(place[4])]
        body.append([*about, *(cell(here.get(name)) for name in names)])
    return markdown(["zoo", "target", "by", column.replace("_", " "), *names], body)


def few_labels(files: Sequence[dict[str, Any]]) -> str:
    """Of every number of labels the better of lines and trees, test accuracy only; which it was is in the table."""
    rows = [row for found in files for row in found["rows"] if row["target"] == "test_accuracy"]
    return labelled(rows, "labels", lambda row: number(row["r2"] if row else None))


def inputs_table(files: Sequence[dict[str, Any]]) -> str:
    """How many inputs, and of which kind: representations down; zoos, epochs and models across."""
    rows = [row for found in files for row in found["rows"]]
    columns = list(dict.fromkeys((row["zoo"], row["epoch"] == "all", row["model"]) for row in rows))
    body = []
    for name in dict.fromkeys(row["representation"] for row in rows):
        mine = {(row["zoo"], row["epoch"] == "all", row["model"]): row for row in rows if row["representation"] == name}
        body.append([name, *(number(mine[column]["r2"]) for column in columns)])
    heads = [f"{zoo}, {'all' if pooled else 'last'}, {MODELS[model]}" for zoo, pooled, model in columns]
    return markdown(["asked with", *heads], body)


def stress_table(files: Sequence[dict[str, Any]]) -> str:
    """Representations down; how far predictions move and R², by what was done to test members."""
    rows = [row for found in files for row in found["rows"]]
    changes = [change for change in dict.fromkeys(row["change"] for row in rows) if change != "none"]
    places = list(dict.fromkeys((row["zoo"], row["model"], row["representation"]) for row in rows))
    body = []
    for place in places:
        mine = {row["change"]: row for row in rows if (row["zoo"], row["model"], row["representation"]) == place}
        moved = [f"{mine[change]['moved']:.3f} ({mine[change]['r2']:.2f})" for change in changes]
        body.append([place[0], MODELS[place[1]], place[2], number(mine["none"]["r2"]), *moved])
    return markdown(["zoo", "by", "representation", "R² as they are", *changes], body)


def forecasts(files: Sequence[dict[str, Any]]) -> str:
    """R² of the last accuracy by epochs seen: the mean over zoos that kept as many."""
    rows = [row for found in files for row in found["rows"] if len({r["epoch"] for r in found["rows"]}) == EPOCHS]
    seen, body = sorted({row["epoch"] for row in rows}), []
    for name in dict.fromkeys(row["representation"] for row in rows):
        means = [[row["r2"] for row in rows if (row["representation"], row["epoch"]) == (name, end)] for end in seen]
        body.append([name, *(number(float(np.mean(values))) for values in means)])
    held = np.nanmean([row["coverage"] for row in rows if row["coverage"] is not None])
    zoos = ", ".join(dict.fromkeys(row["zoo"] for row in rows))
    head = f"Means over {zoos} (`{files[0]['command']}`); intervals of 90 % hold for {held:.0%}."
    return f"{head}\n\n{markdown(['known', *(f'to epoch {epoch}' for epoch in seen)], body)}"


def draw(files: Sequence[dict[str, Any]]) -> None:
    """R² of four representations by trees, with intervals: a panel for every target, zoos across."""
    zoos = [next(iter(found["zoos"])) for found in files]
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(9.6, 7.6), layout="constrained")
        panels = figure.subplots(3, 2, sharex=True)
        for row, target in enumerate(TARGETS):
            for column, pooled in enumerate((True, False)):
                axes = panels[row, column]
                if target == "epoch" and not pooled:
                    axes.axis("off")
                    continue
                draw_panel(axes, files, target, pooled)
                axes.set_title(f"{TARGETS[target]}, {'all epochs' if pooled else 'last epoch'}", fontsize=10)
                axes.set_xticks(range(len(zoos)), zoos, rotation=30, ha="right", fontsize=8)
                axes.tick_params(labelbottom=row == len(TARGETS) - 1)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(DRAWN))
        figure.savefig(FIGURE, facecolor="white", metadata={"Date": None})


def draw_panel(axes: Any, files: Sequence[dict[str, Any]], target: str, pooled: bool) -> None:
    """One target: zoos across, representations side by side."""
    for number_, name in enumerate(DRAWN):
        points = []
        for place, found in enumerate(files):
            for row in by("trees", found["rows"]):
                same = row["representation"] == name and row["target"] == target
                if same and (row["epoch"] == "all") == pooled:
                    points.append((place + 0.16 * (number_ - 1.5), row["r2"], row["r2_low"], row["r2_high"]))
        x, y, low, high = np.array(points, dtype=float).T
        error = np.abs(np.stack([y - low, high - y]))
        axes.errorbar(x, y, error, fmt="o", markersize=4, linewidth=1, color=COLORS[(7, 1, 8, 0)[number_]], label=name)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8)
    axes.set(ylim=(-0.3, 1.02), ylabel="R²")


def short(files: Sequence[dict[str, Any]], joined: Sequence[dict[str, Any]]) -> str:
    """What opens the page: test accuracy by trees, all epochs and the last one, of what is compared most."""
    more = {next(iter(found["zoos"])): found["rows"] for found in joined}
    rows = {zoo: [*found["rows"], *more.get(zoo, [])] for found in files for zoo in found["zoos"]}
    return accuracies(rows, [*DRAWN, SEEN], "trees")


def accuracies(rows_of: Mapping[str, Sequence[Row]], names: Sequence[str], model: str) -> str:
    """R² of test accuracy, all epochs / the last one: zoos down, representations across, and their means."""
    body, values = [], []
    for zoo, rows in rows_of.items():
        told = [row for row in rows if row.get("target") == "test_accuracy" and row.get("model") == model]
        pairs = []
        for name in names:
            mine = {row["epoch"] == "all": row["r2"] for row in told if row["representation"] == name}
            pairs.append((mine.get(True, np.nan), mine.get(False, np.nan)))
        values.append(pairs)
        body.append([zoo, *("–" if np.isnan(pair[0]) else f"{pair[0]:.3f} / {pair[1]:.3f}" for pair in pairs)])
    means = np.nanmean(values, axis=0)
    body.append(["**mean**", *(f"**{pooled:.3f} / {last:.3f}**" for pooled, last in means)])
    return markdown(["zoo", *names], body)


def joined_tables(files: Sequence[dict[str, Any]]) -> str:
    """SANE that sees responses, or predicts them, beside s(W) and r(W); and what is left of what it decodes."""
    rows = {zoo: [row for row in found["rows"] if "target" in row] for found in files for zoo in found["zoos"]}
    parts = []
    for model, word in MODELS.items():
        parts += [f"By {word}:", accuracies(rows, JOINED, model)]
    whole = [row for found in files for row in found["rows"] if row.get("representation") == SEEN]
    for model, word in MODELS.items():
        parts.append(f"Against s(W), by {word}, over accuracy, epoch and gap: {counted(by(model, whole))}.")
    body = []
    for found in files:
        (zoo,) = found["zoos"]
        line = [zoo]
        for kind in ("none", "seen", "predicted"):
            mine = [row for row in found["rows"] if row.get("decoded") == kind]
            kept = [row["reconstructed"] / row["original"] for row in mine if row["original"]]
            left = f"{np.mean(kept):.1%}" if kept else "–"  # a zoo that does not name its images
            line.append(f"{np.mean([row['r2'] for row in mine]):.3f}, {left}")
        body.append(line)
    names = ["zoo", "SANE", "with responses", "of predicted responses"]
    parts += [
        "R² of the weights of decoded test members, and how much of their accuracy is left:",
        markdown(names, body),
    ]
    return "\n\n".join(parts)


def predictions(found: dict[str, Any]) -> str:
    """How often intervals of 90 % held, and what was taken for unlike the zoo; of weights alone, and asking."""
    head = f"`{found['command']}`, four folds; one with fewer than nine calibration members has no interval of 90 %."
    parts = [head]
    for asking, words in ((False, "Of weights alone:"), (True, "Asking networks as well:")):
        rows = [row for row in found["held"] if row.get("asking", False) == asking]
        parts += [words, _held(rows)] if rows else []
    shares = found["unlike"]["shares"]
    by_way = shares if isinstance(next(iter(shares.values())), dict) else {"weights alone": shares}
    body = [[kind, *(f"{by_way[way][kind]:.0%}" for way in by_way)] for kind in next(iter(by_way.values()))]
    parts.append(f"Taken for unlike the zoo, by predictors of `{found['unlike']['zoo']}`:")
    return "\n\n".join([*parts, markdown(["networks", *by_way], body)])


def _held(rows: Sequence[Row]) -> str:
    body = []
    for zoo in dict.fromkeys(row["zoo"] for row in rows):
        mine = [row for row in rows if row["zoo"] == zoo]
        line = [zoo]
        for target in TARGETS:
            told = [row for row in mine if row["target"] == target]
            bounded = [row for row in told if row["usual_radius"] is not None]
            weights = [row["members"][2] for row in bounded]
            held = np.average([row["coverage"] for row in bounded], weights=weights)
            radius = np.average([row["usual_radius"] for row in bounded], weights=weights)
            without = f" ({len(told) - len(bounded)} folds without)" if len(bounded) < len(told) else ""
            line.append(f"{held:.0%}, ± {radius:.2g}{without}")
        line.append(f"{np.average([row['outlier_share'] for row in mine]):.1%}")
        body.append(line)
    return markdown(["zoo", *(f"{name}: held, usual width" for name in TARGETS.values()), "unlike the zoo"], body)


def main() -> None:
    """Rewrite all tables and the figure."""
    files = load("properties")
    across = json.loads((TABLES / "reading-across.json").read_text())["rows"]
    blocks = {
        "short": short(files, load("joined")),
        "asked": verdicts(files, ASKED, "trees"),
        "both": verdicts(files, BOTH, "trees"),
        "readout-lines": verdicts(files, EMBEDDING, "linear"),
        "readout-trees": verdicts(files, EMBEDDING, "trees"),
        "bounding": bounding(files),
        "few": few_labels(load("few")),
        "inputs": inputs_table(load("inputs")),
        "predictions": predictions(json.loads((TABLES / "predicting.json").read_text())),
        "paper": beside_the_paper(files),
        "zoos": "\n\n".join(map(zoo_table, files)),
        "across": labelled(across, "trained_on", ranked),
        "epochs": labelled([row for found in load("epochs") for row in found["rows"]], "epoch"),
        "control": labelled([row for found in load("control") for row in found["rows"]], "labels"),
    }
    drawn = {"stress": stress_table, "forecast": forecasts, "joined": joined_tables}  # where these tables were made
    blocks |= {name: render(load(name)) for name, render in drawn.items() if load(name)}
    for page in PAGES:
        text = page.read_text()
        for name, block in blocks.items():
            if f"<!-- {name} -->" in text:
                text = replace_block(text, name, block)
        page.write_text(text)
    draw(files)


if __name__ == "__main__":
    main()
