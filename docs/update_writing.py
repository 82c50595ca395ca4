"""Render the tables and the figure of writing networks from `docs/tables/`: `python docs/update_writing.py`.

Writes the blocks of `docs/pages/results/writing.md` and the figure beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from update_reading import markdown
from update_readme import replace_block

from weightspace.report.figures import PRINTED, look_of

ROOT = Path(__file__).parent
TABLES, PAGE = ROOT / "tables", ROOT / "pages" / "results" / "writing.md"
FIGURE = PAGE.with_name("writing.svg")
OURS, ANCHORS, NOISE, SCRATCH = "SANE, subsampled", "anchors as they are", "anchor + noise", "from scratch"
WEIGHTS, MEMBERS = "anchors, interpolated", "random zoo members"
NOISE_FUNCTION, WEIGHTS_NEW = "anchor + noise, same functional novelty", "anchors, interpolated, as new"
ENOUGH = {"mnist-cnn-s": 0.95, "usps-cnn-s": 0.95, "scene_digits-cnn-s": 0.85, "cifar10-cnn-s": 0.85}
MEASURES = ("novelty", "functional_novelty", "diversity", "ensemble", "error_overlap", "latents_per_weight")
WORDS = {
    "functional_novelty": "functional novelty",
    "ensemble": "together",
    "error_overlap": "shared errors",
    "latents_per_weight": "latents per weight",
}
Row = dict[str, Any]


def load(table: str) -> list[dict[str, Any]]:
    """All files of one table, in the order of the zoos' names."""
    return [json.loads(path.read_text()) for path in sorted(TABLES.glob(f"writing-{table}-*.json"))]


def accuracy(row: Row | None) -> str:
    """Accuracy in percent with its interval."""
    if row is None:
        return "–"
    return f"{row['accuracy']:.1%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]".replace("%", "")


def measure(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if not value and value != 0 else f"{value:.2f}"


def methods_table(rows: Sequence[Row], label: str = "method") -> str:
    """Methods down; epochs of fine-tuning, novelty and the rest across."""
    epochs = sorted({row["epochs"] for row in rows})
    body = []
    for name in dict.fromkeys(row[label] for row in rows):
        cells = {row["epochs"]: row for row in rows if row[label] == name}
        first = cells[min(cells)]
        latents = first["latents_per_weight"] or None
        measured = [measure(first.get(own)) for own in MEASURES[:-1]] + [measure(latents)]
        body.append([str(name), *(accuracy(cells.get(epoch)) for epoch in epochs), *measured])
    columns = [label, *(f"epoch {epoch}" for epoch in epochs), *(WORDS.get(own, own) for own in MEASURES)]
    return markdown(columns, body)


def zoo_table(found: dict[str, Any]) -> str:
    """One table of one zoo, or of a pair of zoos."""
    title = " → ".join(found["zoos"])
    made = f"`{found['command']}`, {found['date']}, seed {found['seed']}."
    widths = {row["bandwidth"] for row in found["rows"] if "bandwidth" in row}
    made += "".join(f" Bandwidth {width:g}, the narrowest tried that gives a novelty of 0.3." for width in widths)
    return f"### {title}\n\n{made}\n\n{methods_table(found['rows'])}"


def published(*tables: str) -> str:
    """The paper's figures of some tables."""
    found = json.loads((TABLES / "published-writing.json").read_text())
    rows = [row for row in found["rows"] if row["table"] in tables]
    epochs = sorted({int(epoch) for row in rows for epoch in row["values"]})
    body = [
        [row["zoo"], row["method"], *(f"{row['values'][str(e)]:g}" if str(e) in row["values"] else "–" for e in epochs)]
        for row in rows
    ]
    return f"{found['source']}\n\n{markdown(['zoo', 'method', *(f'epoch {e}' for e in epochs)], body)}"


def cell(rows: Sequence[Row], method: str, epochs: int) -> Row | None:
    """One row."""
    return next((row for row in rows if (row["method"], row["epochs"]) == (method, epochs)), None)


def targets(files: Sequence[dict[str, Any]]) -> str:
    """What was aimed at before it was measured, and what came out."""
    body = []
    for found in files:
        (zoo,) = found["zoos"]
        rows = found["rows"]
        ours, anchors, noise = (cell(rows, name, 0) for name in (OURS, ANCHORS, NOISE))
        in_function, between = cell(rows, NOISE_FUNCTION, 0), cell(rows, WEIGHTS_NEW, 0)
        members, one, scratch = cell(rows, MEMBERS, 0), cell(rows, OURS, 1), cell(rows, SCRATCH, 5)
        assert ours and anchors and noise and in_function and between and members and one and scratch
        share = ours["accuracy"] / anchors["accuracy"]
        trained, alone = ({row["epochs"] for row in rows if row["method"] == own} for own in (OURS, SCRATCH))
        last, length = max(trained), max(alone - trained or alone)  # what scratch alone has is the zoo's own length
        late, full, equal = cell(rows, OURS, last), cell(rows, SCRATCH, length), cell(rows, SCRATCH, last)
        assert late is not None and full is not None and equal is not None
        body.append(
            [
                zoo,
                f"{share:.1%} (aim {ENOUGH[zoo]:.0%}) {_mark(share >= ENOUGH[zoo])}",
                f"{ours['novelty']:.2f} and {ours['functional_novelty']:.2f} "
                f"{_mark(min(ours['novelty'], ours['functional_novelty']) >= 0.3)}",
                f"{ours['diversity']:.2f} of {members['diversity']:.2f} "
                f"{_mark(ours['diversity'] >= members['diversity'] / 2)}",
                _against(ours, noise),
                _against(ours, in_function),
                _against(ours, between),
                f"{one['accuracy']:.1%} against {scratch['accuracy']:.1%} "
                f"{_mark(one['accuracy'] > scratch['accuracy'])}",
                f"{late['accuracy']:.1%} ({last}) against {full['accuracy']:.1%} ({length}), "
                f"{equal['accuracy']:.1%} ({last}) "
                f"{_mark(late['accuracy_high'] >= full['accuracy_low'])}",
            ]
        )
    columns = [
        "zoo",
        "share of the anchors' accuracy",
        "novelty and functional novelty at least 0.3",
        "diversity at least half the zoo's",
        "above anchor + noise as new in weights",
        "above anchor + noise as new in function",
        "above interpolations as new in weights",
        "after 1 epoch above 5 from scratch",
        "at last (epochs) not below scratch at the zoo's length; beside it scratch as long",
    ]
    return markdown(columns, body)


def _against(ours: Row, other: Row) -> str:
    """Two accuracies; open where their intervals overlap."""
    mark = _mark(ours["accuracy"] > other["accuracy"])
    if ours["accuracy_low"] <= other["accuracy_high"] and other["accuracy_low"] <= ours["accuracy_high"]:
        mark = "(open)"
    return f"{ours['accuracy']:.1%} against {other['accuracy']:.1%} {mark}"


def _mark(met: bool) -> str:
    return "(met)" if met else "(**missed**)"


def fidelity(files: Sequence[dict[str, Any]]) -> str:
    """What held-out members keep, and how many points that costs."""
    body = []
    for found in files:
        before = next(row for row in found["rows"] if not row["latents_per_weight"])
        for row in found["rows"]:
            lost = before["accuracy"] - row["accuracy"]
            few = 0 < row["latents_per_weight"] <= 0.5
            body.append(
                [
                    row["zoo"],
                    row["method"],
                    accuracy(row),
                    "–" if row is before else f"{100 * lost:.1f}" + (f" {_mark(lost <= 0.05)}" if few else ""),
                    f"{row['agreement']:.2f}",
                    measure(row["diversity"]),
                    measure(row["latents_per_weight"] or None),
                ]
            )
    columns = ["zoo", "SANE", "accuracy", "points lost", "agreement", "diversity", "latents per weight"]
    return markdown(columns, body)


def draw(files: Sequence[dict[str, Any]]) -> None:
    """Novelty in weights against accuracy without training, a panel for every zoo."""
    methods = list(dict.fromkeys(row["method"] for found in files for row in found["rows"]))
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(9.6, 2.6 * ((len(files) + 1) // 2) + 0.8), layout="constrained")
        panels = figure.subplots((len(files) + 1) // 2, 2, squeeze=False).flatten()
        for axes in panels[len(files) :]:
            axes.axis("off")
        for axes, found in zip(panels, files, strict=False):
            rows = [row for row in found["rows"] if row["epochs"] == 0]
            for row in rows:
                error = [[row["accuracy"] - row["accuracy_low"]], [row["accuracy_high"] - row["accuracy"]]]
                axes.errorbar(
                    [row["novelty"]],
                    [row["accuracy"]],
                    error,
                    markersize=5,
                    elinewidth=1,
                    label=row["method"],
                    **look_of(methods.index(row["method"])),
                )
            axes.set(title=next(iter(found["zoos"])), xlabel="novelty in weights", ylabel="accuracy, untrained")
            axes.set_ylim(0, 1)
        drawn = [axes.get_legend_handles_labels() for axes in panels]
        shown = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
        figure.legend([shown[method] for method in methods], methods, loc="outside lower center", ncols=3, fontsize=8)
        figure.savefig(FIGURE, facecolor="white", metadata={"Date": None})


def short(files: Sequence[dict[str, Any]]) -> str:
    """What opens the page: untrained and after an epoch, ours beside what it has to beat."""
    body = []
    for found in files:
        (zoo,) = found["zoos"]
        rows = found["rows"]
        line = [zoo]
        for method in (ANCHORS, OURS, NOISE, WEIGHTS, SCRATCH):
            before, after = cell(rows, method, 0), cell(rows, method, 1)
            line.append(
                "–" if before is None or after is None else f"{before['accuracy']:.1%} / {after['accuracy']:.1%}"
            )
        ours = cell(rows, OURS, 0)
        line.append("–" if ours is None else f"{ours['novelty']:.2f}, {ours['functional_novelty']:.2f}")
        body.append(line)
    columns = ["zoo", ANCHORS, OURS, NOISE, WEIGHTS, SCRATCH, "novelty in weights, in function"]
    return markdown(columns, body)


def main() -> None:
    """Rewrite all tables and the figure."""
    files, text = load("same"), PAGE.read_text()
    blocks = {
        "short": short(files),
        "targets": targets(files),
        "same": "\n\n".join(map(zoo_table, files)),
        "paper": published("3", "4", "7"),
        "samplers": "\n\n".join(map(zoo_table, load("samplers"))),
        "fidelity": fidelity(load("fidelity")) if load("fidelity") else "",
        "transfer": "\n\n".join(map(zoo_table, load("transfer"))),
        "architectures": "\n\n".join(map(zoo_table, load("architectures"))),
        "resnet": "\n\n".join(map(zoo_table, load("resnet"))),
        "published resnets": "\n\n".join(map(deeper_table, load("published"))),
        "transfer paper": published("13", "15"),
        "anchors": "\n\n".join(anchors_table(found) for found in load("anchors")),
    }
    for name, block in blocks.items():
        text = replace_block(text, name, block or f"Not run yet: `benchmarks/tables_writing.sh {name}`.")
    PAGE.write_text(text)
    if files:
        draw(files)


def deeper_table(found: dict[str, Any]) -> str:
    """Networks of several depths, from a SANE of one of them."""
    body = [
        [row["zoo"], row["method"], accuracy(row), measure(row["relative_change"]), measure(row["latents_per_weight"])]
        for row in found["rows"]
    ]
    columns = ["network", "method", "accuracy, untrained", "weights moved by", "latents per weight"]
    return f"`{found['command']}`, {found['date']}, seed {found['seed']}.\n\n{markdown(columns, body)}"


def anchors_table(found: dict[str, Any]) -> str:
    """How many anchors: ours beside the anchors and noise of the same novelty."""
    rows = [
        {**row, "anchors": f"{row['anchors']}: {row['method']}"}
        for row in found["rows"]
        if row["method"] in (OURS, ANCHORS, NOISE)
    ]
    return f"`{found['command']}`, {found['date']}.\n\n{methods_table(rows, 'anchors')}"


if __name__ == "__main__":
    main()
