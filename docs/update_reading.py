"""Render the tables and the figure of reading networks from `docs/tables/`: `python docs/update_reading.py`.

Writes the blocks of `docs/pages/results/reading.md` and the figure beside it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from update_readme import replace_block

from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent
TABLES, PAGE = ROOT / "tables", ROOT / "pages" / "results" / "reading.md"
FIGURE = PAGE.with_name("reading.svg")
TARGETS = {"test_accuracy": "test accuracy", "epoch": "epoch", "generalization_gap": "generalisation gap"}
EMBEDDING = "SANE (readout)"
NOT_WORSE, BETTER = -0.02, 0.0
DRAWN = ("W", "s(W)", "SANE (mean)", EMBEDDING)
Row = dict[str, Any]


def load(table: str) -> list[dict[str, Any]]:
    """All files of one table, in the order of the zoos' names."""
    return [json.loads(path.read_text()) for path in sorted(TABLES.glob(f"reading-{table}*.json"))]


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
    """Results of one zoo, then its hyper-parameters, then Kendall's tau."""
    (name,) = found["zoos"]
    rows = found["rows"]
    results = [row for row in rows if row["target"] in TARGETS]
    drawn = [row for row in rows if row["target"] not in TARGETS]
    members = max(row.get("members") or 0 for row in results)
    parts = [
        f"### {name}",
        f"R² with its 95 % interval; {members} members, each tested once (`{found['command']}`, {found['date']}).",
        cross(results),
        "Kendall's τ of the same probes:",
        cross(results, lambda row: "–" if row is None or row["tau"] is None else f"{row['tau']:.2f}"),
    ]
    if drawn:
        chances = {row["target"]: row["chance"] for row in drawn if row.get("chance")}
        guess = ", ".join(f"{value:.2f} ({name})" for name, value in chances.items())
        parts += [
            f"Hyper-parameters, at the last epoch: R², or the share guessed right (chance {guess}).",
            cross(drawn),
        ]
    return "\n\n".join(parts)


def cells(files: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of the one embedding that is held against s(W)."""
    rows = [row for found in files for row in found["rows"]]
    return [row for row in rows if row["representation"] == EMBEDDING and row["target"] in TARGETS]


def verdict(row: Row) -> str:
    """What a paired interval says."""
    low, high = row["over_statistics_low"], row["over_statistics_high"]
    if low > BETTER:
        return "better"
    if low > NOT_WORSE:
        return "not worse"
    return "worse" if high < 0 else "open"


def verdicts(files: Sequence[dict[str, Any]]) -> str:
    """R² minus that of s(W) in every cell, with the verdict; counted below."""
    own = cells(files)
    columns = [(target, pooled) for pooled in (True, False) for target in TARGETS if pooled or target != "epoch"]
    body = []
    for name in dict.fromkeys(row["zoo"] for row in own):
        by_column = {(row["target"], row["epoch"] == "all"): row for row in own if row["zoo"] == name}
        body.append([name, *(difference(by_column[column]) for column in columns)])
    counts = {kind: sum(verdict(row) == kind for row in own) for kind in ("better", "not worse", "open", "worse")}
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    table = markdown(["zoo", *(TARGETS[t] + ("" if pooled else ", last epoch") for t, pooled in columns)], body)
    return (
        f"{table}\n\nOf {len(own)} cells: {counted}. In {sum(row['over_statistics'] > 0 for row in own)} R² is higher."
    )


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
            own = {r["representation"]: r["r2"] for r in found["rows"] if column_of(r) == (target, "all")}
            first = own.get("W", own.get("W (PCA)"))
            values = [first, *(own.get(name) for name in names[1:]), own.get(EMBEDDING)]
            body.append(["here", zoo, TARGETS[target], *map(number, values)])
    columns = ["", "zoo", "target", *paper["columns"], EMBEDDING]
    return f"{paper['source']}\n\n{markdown(columns, body)}"


def ranked(row: Row | None) -> str:
    """Kendall's τ, and R²."""
    return "–" if row is None else f"{row['tau']:.2f} ({row['r2']:.2f})"


def labelled(rows: Sequence[Row], by: str, cell: Callable[[Row | None], str] = with_interval) -> str:
    """Small tables: zoo, target and one more column down, representations across."""
    names = list(dict.fromkeys(row["representation"] for row in rows))
    body = []
    for place in dict.fromkeys((row["zoo"], row["target"], row["epoch"], row.get(by)) for row in rows):
        own = {
            row["representation"]: row
            for row in rows
            if (row["zoo"], row["target"], row["epoch"], row.get(by)) == place
        }
        body.append([place[0], heading(place[1:3]), str(place[3]), *(cell(own.get(name)) for name in names)])
    return markdown(["zoo", "target", by.replace("_", " "), *names], body)


def draw(files: Sequence[dict[str, Any]]) -> None:
    """R² of four representations with intervals, a panel for every target, zoos across."""
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
            for row in found["rows"]:
                same = row["representation"].removesuffix(" (PCA)") == name and row["target"] == target
                if same and (row["epoch"] == "all") == pooled:
                    points.append((place + 0.16 * (number_ - 1.5), row["r2"], row["r2_low"], row["r2_high"]))
        x, y, low, high = np.array(points, dtype=float).T
        error = np.abs(np.stack([y - low, high - y]))
        axes.errorbar(x, y, error, fmt="o", markersize=4, linewidth=1, color=COLORS[(7, 1, 8, 0)[number_]], label=name)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8)
    axes.set(ylim=(-0.3, 1.02), ylabel="R²")


def short(files: Sequence[dict[str, Any]]) -> str:
    """What opens the page: s(W), the paper's mean embedding and our readout, test accuracy and gap."""
    body = []
    for found in files:
        (zoo,) = found["zoos"]
        line = [zoo]
        for column in (("test_accuracy", "all"), ("test_accuracy", None), ("generalization_gap", "all")):
            own = {
                row["representation"]: row["r2"]
                for row in found["rows"]
                if row["target"] == column[0] and (row["epoch"] == "all") == (column[1] == "all")
            }
            line.append(" / ".join(number(own.get(name)) for name in ("s(W)", "SANE (mean)", EMBEDDING)))
        body.append(line)
    columns = ["zoo", "test accuracy, all epochs", "test accuracy, last epoch", "generalisation gap, all epochs"]
    return markdown(columns, body)


def predictions(found: dict[str, Any]) -> str:
    """How often intervals of 90 % held, and what was taken for unlike the zoo."""
    body = []
    for zoo in dict.fromkeys(row["zoo"] for row in found["held"]):
        own = [row for row in found["held"] if row["zoo"] == zoo]
        line = [zoo]
        for target in TARGETS:
            rows = [row for row in own if row["target"] == target]
            bounded = [row for row in rows if row["usual_radius"] is not None]
            weights = [row["members"][2] for row in bounded]
            held = np.average([row["coverage"] for row in bounded], weights=weights)
            radius = np.average([row["usual_radius"] for row in bounded], weights=weights)
            without = f" ({len(rows) - len(bounded)} folds without)" if len(bounded) < len(rows) else ""
            line.append(f"{held:.0%}, ± {radius:.2g}{without}")
        line.append(f"{np.average([row['outlier_share'] for row in own]):.1%}")
        body.append(line)
    table = markdown(["zoo", *(f"{name}: held, usual width" for name in TARGETS.values()), "unlike the zoo"], body)
    unlike = found["unlike"]
    shares = markdown(["networks", "taken for unlike the zoo"], [[k, f"{v:.0%}"] for k, v in unlike["shares"].items()])
    head = f"`{found['command']}`, four folds; one with fewer than nine calibration members has no interval of 90 %."
    return f"{head}\n\n{table}\n\nPredictors of `{unlike['zoo']}`:\n\n{shares}"


def main() -> None:
    """Rewrite all tables and the figure."""
    files = load("properties")
    text = PAGE.read_text()
    blocks = {
        "short": short(files),
        "verdicts": verdicts(files),
        "paper": beside_the_paper(files),
        "zoos": "\n\n".join(map(zoo_table, files)),
        "few": labelled([row for found in load("few") for row in found["rows"]], "labels"),
        "across": labelled([row for found in load("across") for row in found["rows"]], "trained_on", ranked),
        "epochs": labelled([row for found in load("epochs") for row in found["rows"]], "epoch"),
        "control": labelled([row for found in load("control") for row in found["rows"]], "labels"),
        "trees": "\n\n".join(f"{next(iter(f['zoos']))}:\n\n{cross(f['rows'])}" for f in load("trees")),
    }
    predicted = TABLES / "predicting.json"
    if predicted.exists():
        blocks["predictions"] = predictions(json.loads(predicted.read_text()))
    for name, block in blocks.items():
        text = replace_block(text, name, block)
    PAGE.write_text(text)
    draw(files)


if __name__ == "__main__":
    main()
