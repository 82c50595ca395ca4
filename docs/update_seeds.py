"""Render the paper's tables on the paper's kind of population, and the scaling curves: `python docs/update_seeds.py`.

Writes the blocks of `docs/pages/results/seeds.md` and `scaling.md` from `docs/tables/seeds-*.json`, and the figure
beside them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from update_reading import markdown, number
from update_readme import replace_block

from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent
TABLES, RESULTS = ROOT / "tables", ROOT / "pages" / "results"
SEEDS, SCALING, FIGURE = RESULTS / "seeds.md", RESULTS / "scaling.md", RESULTS / "scaling.svg"
# Our zoos, and the published one beside which each may stand.
PUBLISHED = {"mnist-cnn-s-seed": "MNIST", "usps-cnn-s-seed": "", "cifar10-cnn-l-seed": "CIFAR-10"}
DRAWN = "mnist-cnn-s-seed"
TARGETS = {"test_accuracy": "test accuracy", "epoch": "epoch", "generalization_gap": "generalisation gap"}
# Representation -> how it is called here, and its column in the published tables.
READ: dict[str, tuple[str, int | None]] = {
    "W": ("weights W", 0),
    "W (PCA)": ("weights W, principal components", 0),
    "s(W)": ("layer statistics s(W)", 1),
    "SANE (mean)": ("SANE, aggregated", 2),
    "SANE (sequence, PCA)": ("SANE, full sequence", 3),
    "hyper-representation": ("hyper-representation", 4),
    "SANE (readout)": ("SANE, readout (ours)", None),
    "t(W)": ("token statistics t(W)", None),
    "r(W)": ("responses r(W)", None),
    "SANE (readout) + r(W)": ("readout beside r(W)", None),
    "untrained SANE (mean+spread)": ("SANE, untrained", None),
}
# Our method -> the published one.
WRITTEN = {
    "from scratch": "from scratch",
    "hyper-representation, kernel density": "S_KDE30 (2022)",
    "SANE_KDE30": "SANE_KDE30",
    "SANE_SUB": "SANE_SUB",
    "SANE_BOOT": "SANE_BOOT",
    "SANE_GAUSS": "SANE_GAUSS",
    "SANE_KDE30, published sampler": "",
    "SANE, best of 50 around the 10 best": "",
    "anchors as they are": "",
    "anchors, encoded and decoded": "",
    "anchor + noise": "",
    "anchor + noise, same functional novelty": "",
    "anchors, shrunk and perturbed": "",
    "anchors, interpolated": "",
    "anchors, interpolated, as new": "",
    "average of anchors": "",
    "PCA + kernel density": "",
    "random zoo members": "",
}
# Alignment, first and second view -> reconstruction loss in training and on test members (table 6).
VIEWS = {
    (False, "permuted", "permuted"): (0.304, 0.167),
    (True, "permuted", "permuted"): (0.148, 0.082),
    (True, "as prepared", "permuted"): (0.107, 0.082),
    (True, "as prepared", "as prepared"): (0.072, 0.082),
}
# Differences of less than these are none: R², and points of accuracy.
LEVEL_READ, LEVEL_WRITTEN = 0.05, 3.0
# Representation and target (any, if None) -> why ours is lower, and why it is higher; the first that fits counts.
WHY_READ: dict[tuple[str | None, str | None], tuple[str, str]] = {
    ("hyper-representation", None): ("3,000 steps on a CPU, not tuned", ""),
    (None, "generalization_gap"): ("", "few training images: gaps grow with training, and tell the epoch"),
    ("W", None): ("nine epochs kept of each member, theirs 50", "lines bound by ridge, as validation members choose"),
    ("W (PCA)", None): (
        "principal components of scaled weights tell nothing",
        "lines on components, theirs on every weight of few members",
    ),
    (None, "epoch"): ("", "nine epochs, further apart than theirs (not measured)"),
}
AUTOENCODER, FASTER = "the autoencoder: see anchors, decoded", "this recipe learns faster"
# Zoo, method, epochs (any, if None) -> why ours is lower, and why it is higher; the first that fits counts.
WHY_WRITTEN: dict[tuple[str | None, str | None, int | None], tuple[str, str]] = {
    (None, "hyper-representation, kernel density", None): ("3,000 steps on a CPU, not tuned", ""),
    (None, "SANE_KDE30", 0): (AUTOENCODER, ""),
    (None, "SANE_SUB", 0): (AUTOENCODER, ""),
    ("cifar10-cnn-l-seed", None, None): ("2,000 training images: members end at 40 %, scratch there at 57", ""),
    (None, "from scratch", None): ("", FASTER),
    (None, "SANE_KDE30", None): ("", FASTER),
}
UNKNOWN = "not known"
Row = dict[str, Any]


def why_read(label: str, target: str, ours: float | None, theirs: float | None) -> str:
    """Why a figure of reading is another than the published one."""
    if ours is None or theirs is None:
        return ""
    if abs(ours - theirs) <= LEVEL_READ:
        return "level"
    fitting = ((label, None), (None, target))
    return next(
        (why for place, words in WHY_READ.items() if place in fitting and (why := words[ours > theirs])), UNKNOWN
    )


def why_written(zoo: str, method: str, epochs: int, points: float | None) -> str:
    """Why an accuracy is another than the published one."""
    if points is None:
        return ""
    if abs(points) <= LEVEL_WRITTEN:
        return "level"
    asked = (zoo, method, epochs)
    fitting = [
        words[points > 0]
        for place, words in WHY_WRITTEN.items()
        if all(wanted in (None, one) for wanted, one in zip(place, asked, strict=True))
    ]
    return next(filter(None, fitting), UNKNOWN)


def load(table: str) -> dict[str, list[Row]]:
    """Zoo -> the rows of a table."""
    paths = {zoo: TABLES / f"seeds-{table}-{zoo}.json" for zoo in PUBLISHED}
    return {zoo: json.loads(path.read_text())["rows"] for zoo, path in paths.items() if path.exists()}


def published(table: str) -> list[Row]:
    """Rows of the published tables."""
    rows: list[Row] = json.loads((TABLES / f"published-{table}.json").read_text())["rows"]
    return rows


def difference(ours: float | None, theirs: float | None) -> str:
    """Ours minus the published figure."""
    return "–" if ours is None or theirs is None else f"{ours - theirs:+.3f}"


def by_zoo(table: str, render: Callable[[str, list[Row]], str]) -> str:
    """A table for every zoo."""
    return "\n\n".join(f"**{zoo}**\n\n{render(zoo, rows)}" for zoo, rows in load(table).items())


def population(zoo: str, rows: list[Row]) -> str:
    """Test accuracy over members, epoch by epoch, and what they were grown with."""
    shares = ("lowest", "quarter", "median", "three_quarters", "highest", "gap")
    body = [[str(row["epoch"]), *(f"{100 * row[name]:.1f}" for name in shares)] for row in rows]
    first = rows[0]
    said = (
        f"{first['members']:,} members, {first['architecture']}, {first['parameters']:,} parameters; {first['recipe']}"
    )
    columns = ["epoch", "lowest, %", "a quarter below", "median", "three quarters", "highest", "median gap"]
    return f"{said}\n\n{markdown(columns, body)}"


def reading(zoo: str, rows: list[Row]) -> str:
    """R² of lines and trees beside the published one."""
    known = {row["target"]: row["values"] for row in published("reading") if row["zoo"] == PUBLISHED[zoo]}

    def value(label: str, target: str, model: str, *, last: bool) -> float | None:
        for row in rows:
            same = (row["representation"], row["target"], row["model"]) == (label, target, model)
            if same and (row["epoch"] != "all") == last:
                return row["r2"]
        return None

    labels = [label for label in READ if value(label, "test_accuracy", "linear", last=False) is not None]
    body = []
    for target, name in TARGETS.items():
        for label in labels:
            column = READ[label][1]
            theirs = known[target][column] if known and column is not None else None
            ours = value(label, target, "linear", last=False)
            cells = [number(theirs), number(ours), difference(ours, theirs), why_read(label, target, ours, theirs)]
            cells += [number(value(label, target, model, last=last)) for model, last in OTHERS]
            body.append([name, READ[label][0], *cells])
    columns = ["what is read", "from", "published", "ours, lines", "difference", "why", "trees"]
    return markdown([*columns, "last epoch, lines", "last epoch, trees"], body)


OTHERS = (("trees", False), ("linear", True), ("trees", True))


def writing(zoo: str, rows: list[Row]) -> str:
    """Accuracy of generated networks in percent, beside the published one."""
    theirs = {
        row["method"]: row["values"]
        for row in published("writing")
        if (row["table"], row["zoo"]) == ("3", PUBLISHED[zoo])
    }
    body = []
    for epochs in (0, 1, 5, 25):
        for method, name in WRITTEN.items():
            row = next((row for row in rows if (row["method"], row["epochs"]) == (method, epochs)), None)
            if row is None:
                continue
            there = theirs.get(name, {}).get(str(epochs))
            ours = 100 * row["accuracy"]
            low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
            body.append(
                [
                    str(epochs),
                    method,
                    "–" if there is None else f"{there:.1f}",
                    f"{ours:.1f} [{low:.1f}, {high:.1f}]",
                    "–" if there is None else f"{ours - there:+.1f}",
                    why_written(zoo, method, epochs, None if there is None else ours - there),
                    f"{row['novelty']:.2f}",
                    f"{row['functional_novelty']:.2f}",
                ]
            )
    columns = ["epochs", "method", "published", "ours, % [95 %]", "difference", "why"]
    return markdown([*columns, "new in weights", "in function"], body)


def views(zoo: str, rows: list[Row]) -> str:
    """Reconstruction loss beside the published one, which counts padding."""
    body = []
    for row in rows:
        training, test = VIEWS[row["aligned"], row["view_1"], row["view_2"]]
        cells = ["yes" if row["aligned"] else "no", row["view_1"], row["view_2"]]
        body.append([*cells, number(training), number(row["training"]), number(test), number(row["test"])])
    columns = ["aligned", "view 1", "view 2", "training, published", "ours", "test, published", "ours"]
    return markdown(columns, body)


def halo(zoo: str, rows: list[Row]) -> str:
    """Accuracy in percent with context and without."""
    body = []
    for method in ("naive", "haloed"):
        found = {row["epochs"]: row for row in rows if row["method"] == method}
        cells = [f"{100 * found[epochs]['accuracy']:.1f}" for epochs in (0, 5)]
        body.append([method, *cells])
    return markdown(["windows of 32 tokens", "no training", "5 epochs"], body)


def rows_of(rows: Sequence[Row], **equal: Any) -> list[Row]:
    """Those that have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in equal.items())]


def curve(rows: Sequence[Row], field: str, equal: str, **where: Any) -> tuple[list[int], list[float]]:
    """A figure by training members; most members are trained once, for both curves."""
    kept = rows_of(rows, **where)
    most = max(row["members"] for row in kept)
    kept = [row for row in kept if row["equal"] == equal or row["members"] == most]
    kept.sort(key=lambda row: row["members"])
    return [row["members"] for row in kept], [row[field] for row in kept]


SAMPLED = {
    "SANE": "SANE",
    "anchor + noise": "noise, as new in weights",
    "anchor + noise, same functional novelty": "noise, as new in function",
    "PCA + kernel density": "PCA, kernel density",
}


def scaling(zoo: str, rows: list[Row]) -> str:
    """A row for every number of members, a column for every figure."""
    body = []
    for equal in ("steps", "passes"):
        counts = sorted({row["members"] for row in rows_of(rows, equal=equal)})
        for count in counts:
            own = rows_of(rows, equal=equal, members=count)
            (kept,) = rows_of(own, what="kept")
            read = {row["representation"]: row["r2"] for row in rows_of(own, what="read", target="test_accuracy")}
            sampled = {row["method"]: row for row in rows_of(own, what="sampled")}
            lines = {row["space"]: row for row in rows_of(own, what="between", where="unseen")}
            body.append(
                [
                    str(count),
                    equal,
                    f"{kept['r2']:.3f}",
                    f"{kept['reconstructed'] / kept['original']:.1%} / {kept['distilled'] / kept['original']:.1%}",
                    " / ".join(number(read[label]) for label in ("readout", "s(W)", "r(W)")),
                    " / ".join(f"{100 * sampled[method]['accuracy']:.1f}" for method in SAMPLED),
                    " / ".join(f"{sampled[method]['novelty']:.2f}" for method in SAMPLED),
                    " / ".join(f"{100 * lines[space]['accuracy_0.5']:.1f}" for space in ("latents", "weights")),
                    " / ".join(f"{100 * lines[space]['barrier_accuracy']:.1f}" for space in ("latents", "weights")),
                ]
            )
    columns = ["members", "at equal", "R² of weights", "accuracy kept, before / after distilling"]
    columns += ["reads accuracy: readout / s(W) / r(W)", "samples, %: SANE / noise / noise, function / PCA"]
    columns += ["new in weights: the same", "halfway, %: latents / weights", "below the ends, points"]
    return markdown(columns, body)


def limits(zoo: str, rows: list[Row]) -> str:
    """One thing changed at a time."""
    body = [
        [
            *(str(row[name]) for name in ("model_width", "layers", "latent_width")),
            f"{row['latents_per_weight']:.2f}",
            f"{row['steps']:,}",
            f"{row['r2']:.3f}",
            f"{row['reconstructed'] / row['original']:.1%}",
            f"{100 * row['barrier_in_latents']:.1f} / {100 * row['barrier_in_weights']:.1f}",
        ]
        for row in rows
    ]
    columns = ["width", "layers", "latents a token", "a weight", "steps", "R² of weights", "accuracy kept"]
    return markdown([*columns, "barrier, points: latents / weights"], body)


def ensembles(zoo: str, rows: list[Row]) -> str:
    """Twenty networks as one."""
    body = []
    for row in rows:
        cells = [
            row["method"],
            str(row["networks"]),
            f"{100 * row['member_accuracy']:.1f}",
            f"{100 * row['accuracy']:.1f}",
        ]
        cells += [f"{row['nll']:.3f}", f"{row['calibration_error']:.3f}"]
        joined = [row.get(f"with_anchors_{name}") for name in ("accuracy", "nll", "calibration_error")]
        shown = ["–" if value is None else f"{value:.3f}" for value in joined]
        if joined[0] is not None:
            shown[0] = f"{100 * joined[0]:.1f}"
        body.append([*cells, " / ".join(shown), f"{row['dispersion']:.2f}", f"{row['novelty']:.2f}"])
    columns = [
        "networks",
        "how many",
        "each, %",
        "together, %",
        "NLL",
        "calibration error",
        "with the anchors: the same",
    ]
    return markdown([*columns, "dispersion", "new in weights"], body)


Line = tuple[str, int, str, dict[str, Any]]


def draw(axes: Axes, rows: list[Row], lines: Sequence[Line], title: str, ylabel: str) -> None:
    """Curves by training members, at equal steps drawn through and at equal passes dotted."""
    for label, color, field, where in lines:
        for equal, style in (("steps", "-"), ("passes", ":")):
            members, values = curve(rows, field, equal, **where)
            axes.plot(
                members,
                values,
                style,
                marker="o",
                markersize=3,
                color=COLORS[color],
                label=label if style == "-" else None,
            )
    axes.set(xscale="log", xlabel="training members")
    axes.set_xticks(members, [str(count) for count in members])
    axes.minorticks_off()
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.legend(fontsize=6.5)


def panels(figure: Figure, rows: list[Row]) -> None:
    """What more members bring, in four panels."""
    first, second, third, fourth = figure.subplots(1, 4)
    for row in rows_of(rows, what="kept"):
        row["share"], row["share_distilled"] = (row[name] / row["original"] for name in ("reconstructed", "distilled"))
    kept: list[Line] = [
        ("accuracy kept, distilled", 0, "share_distilled", {"what": "kept"}),
        ("accuracy kept, before", 2, "share", {"what": "kept"}),
        ("R² of weights", 7, "r2", {"what": "kept"}),
    ]
    draw(first, rows, kept, "Unseen members, decoded", "share")
    reads = (("readout", "SANE", 0), ("s(W)", "layer statistics", 1), ("r(W)", "asked with noise", 2))
    told: list[Line] = [
        (label, color, "r2", {"what": "read", "target": "test_accuracy", "representation": name})
        for name, label, color in reads
    ]
    draw(second, rows, told, "Reading test accuracy", "R², lines")
    made: list[Line] = [
        (label, color, "accuracy", {"what": "sampled", "method": method})
        for (method, label), color in zip(SAMPLED.items(), (0, 1, 2, 7), strict=True)
    ]
    draw(third, rows, made, "Networks around 10 anchors", "test accuracy")
    gaps: list[Line] = [
        (f"{space}, {where} members", color, "accuracy_0.5", {"what": "between", "space": space, "where": where})
        for color, (space, where) in enumerate(
            (("latents", "unseen"), ("weights", "unseen"), ("latents", "training"), ("weights", "training"))
        )
    ]
    draw(fourth, rows, gaps, "Halfway between two members", "test accuracy")
    fourth.set_ylim(0, 1)


def main() -> None:
    """Rewrite the blocks and the figure."""
    page = SEEDS.read_text()
    for name, render in {
        "population": population,
        "reading": reading,
        "writing": writing,
        "views": views,
        "halo": halo,
    }.items():
        page = replace_block(page, name, by_zoo(name, render))
    SEEDS.write_text(page)
    page = SCALING.read_text()
    for name, render in {"scaling": scaling, "limits": limits, "ensembles": ensembles}.items():
        page = replace_block(page, name, by_zoo(name, render))
    SCALING.write_text(page)
    with mpl.rc_context({**PRINTED, "svg.hashsalt": "scaling"}):
        figure = Figure(figsize=(11, 2.9), layout="constrained")
        panels(figure, load("scaling")[DRAWN])
        figure.savefig(FIGURE, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
