"""Write the parts of README.md that a program can write: `python docs/update_readme.py`.

Snippets are lines of the scripts in `examples/`, what they print comes from running them, the table and the figure from
`docs/tables/`, and the rooms from the first lines of their docstrings.
"""

import ast
import contextlib
import io
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent.parent
PACKAGE, TABLES, FIGURE = ROOT / "src" / "weightspace", ROOT / "docs" / "tables", ROOT / "docs" / "pages" / "front.svg"
# Script -> how the first and the last line of its snippet begin.
SNIPPETS = {
    "read_a_zoo": ("train, validation", "print(ws.probe(*ws.represent"),
    "start_a_training": ("model, scratch", "print(ws.in"),
}
SANE, STATISTICS, NOISE, SCRATCH = "SANE (readout)", "s(W)", "anchor + noise", "from scratch"
SEEN = "SANE with responses (readout)"
WRITTEN, AS_WRONG = "SANE, subsampled", "anchor + noise, same functional novelty"
Rows = list[dict[str, Any]]


def snippet(script: str) -> str:
    """The lines of a script that README shows."""
    first, last = SNIPPETS[script]
    lines = (ROOT / "examples" / f"{script}.py").read_text().splitlines()
    begin, end = (next(n for n, line in enumerate(lines) if line.strip().startswith(start)) for start in (first, last))
    return "\n".join(line.removeprefix("    ") for line in lines[begin : end + 1])


def printed(script: str, folder: Path) -> str:
    """What a script prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        runpy.run_path(str(ROOT / "examples" / f"{script}.py"))["main"](folder)
    return output.getvalue().strip()


def inspected(folder: Path) -> str:
    """The end of what `weightspace inspect` says of a folder."""
    command = [sys.executable, "-m", "weightspace", "inspect", "checkpoints"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    begin = next(number for number, line in enumerate(lines) if line.startswith("There more"))
    made = "python examples/look_into_a_folder.py ."
    return "\n".join(
        [
            f"$ {made} && weightspace inspect checkpoints      # the end of what it says",
            *lines[begin:],
        ]
    )


def rows_of(pattern: str) -> dict[str, Rows]:
    """Zoo -> its rows, of the tables of that name."""
    files = [json.loads(path.read_text()) for path in sorted(TABLES.glob(pattern))]
    return {next(iter(found["zoos"])): found["rows"] for found in files}


def read(rows: Rows, representation: str, model: str = "linear") -> float:
    """R² of test accuracy over all epochs; of long ones, of their principal components."""
    told = [row for row in rows if "target" in row]  # others say what is left of decoded networks
    asked = [row for row in told if (row["target"], row["epoch"], row["model"]) == ("test_accuracy", "all", model)]
    return next(row["r2"] for row in asked if row["representation"].removesuffix(" (PCA)") == representation)


def written(rows: Rows, method: str, epochs: int = 0) -> float:
    """Test accuracy of a method's networks."""
    return next(row["accuracy"] for row in rows if (row["method"], row["epochs"]) == (method, epochs))


def results() -> str:
    """Seven comparisons, won and lost."""
    reading, writing = rows_of("reading-properties-*.json"), rows_of("writing-same-*.json")
    joined = rows_of("reading-joined-*.json")

    def told(name: str, model: str, among: dict[str, Rows] = reading) -> float:
        return float(np.mean([read(rows, name, model) for rows in among.values()]))

    def over(method: str, epochs: int = 0) -> float:
        return float(np.mean([written(rows, method, epochs) for rows in writing.values()]))

    lines = [
        (
            "test accuracy from weights, linear probe, R²",
            told(SANE, "linear"),
            told(STATISTICS, "linear"),
            "layer statistics s(W)",
            f"{len(reading)} zoos",
        ),
        (
            "the same, boosted trees, R²",
            told(SANE, "trees"),
            told(STATISTICS, "trees"),
            "layer statistics s(W)",
            f"{len(reading)} zoos",
        ),
        (
            "the same, networks asked with noise, R²",
            told(SEEN, "trees", joined),
            told(STATISTICS, "trees", joined),
            "layer statistics s(W)",
            f"{len(joined)} zoos",
        ),
        (
            "accuracy of generated networks, untrained",
            over(WRITTEN),
            over(NOISE),
            "noise, as new in weights",
            f"{len(writing)} zoos",
        ),
        ("the same", over(WRITTEN), over(AS_WRONG), "noise, as new in function", f"{len(writing)} zoos"),
        (
            "after 1 epoch of training",
            over(WRITTEN, 1),
            over("anchors, interpolated", 1),
            "interpolated anchors, hardly new",
            f"{len(writing)} zoos",
        ),
        (
            "the same",
            over(WRITTEN, 1),
            over(SCRATCH, 5),
            "scratch, after 5 epochs",
            f"{len(writing)} zoos",
        ),
    ]
    body = ["| what | SANE | against | | where |", "|---|---:|---:|---|---|"]
    for what, ours, theirs, against, where in lines:
        shown = [f"{value:.3f}" if "R²" in what or "trees" in what else f"{value:.1%}" for value in (ours, theirs)]
        better = int(theirs > ours)
        shown[better] = f"**{shown[better]}**"
        body.append(f"| {what} | {shown[0]} | {shown[1]} | {against} | {where} |")
    return "\n".join([*body, "", more_members()])


def more_members() -> str:
    """What more training members of one recipe bring, and what they do not."""
    rows = json.loads((TABLES / "seeds-scaling-mnist-cnn-s-seed.json").read_text())["rows"]
    rows = [row for row in rows if row["equal"] == "steps"]
    kept = {row["members"]: row["distilled"] / row["original"] for row in rows if row["what"] == "kept"}
    few, most = min(kept), max(kept)
    halfway = {
        row["space"]: row["accuracy_0.5"]
        for row in rows
        if row["what"] == "between" and (row["where"], row["members"]) == ("unseen", most)
    }
    return "\n".join(
        [
            "![What more members bring](docs/pages/results/scaling.svg)",
            f"*From {few} to {most} members of one recipe: unseen ones keep {kept[few]:.0%}, then {kept[most]:.0%} of "
            "their accuracy once decoded;",
            f"halfway between two of them latents are no better than weights ({halfway['latents']:.0%}, "
            f"{halfway['weights']:.0%}): [scaling](docs/pages/results/scaling.md).*",
        ]
    )


def draw_front() -> None:
    """Two panels: reading and writing, ours beside what is hardest to beat and what is usual."""
    joined, writing = rows_of("reading-joined-*.json"), rows_of("writing-same-*.json")
    reading = {zoo: [*rows, *joined[zoo]] for zoo, rows in rows_of("reading-properties-*.json").items()}
    panels: list[tuple[str, dict[str, Rows], Callable[[Rows, str], float], tuple[tuple[str, str, int], ...]]] = [
        (
            "How accurate is an unseen network? R² by trees",
            reading,
            lambda rows, name: read(rows, name, "trees"),
            ((SEEN, "SANE, asked", 0), (STATISTICS, "layer statistics", 1), ("W", "raw weights", 7)),
        ),
        (
            "Accuracy of networks nobody trained",
            writing,
            written,
            ((WRITTEN, "SANE", 0), (NOISE, "noise, as new", 1), (SCRATCH, "random", 7)),
        ),
    ]
    with mpl.rc_context({**PRINTED, "svg.hashsalt": "front"}):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        for axes, (title, zoos, measure, kinds) in zip(figure.subplots(1, 2), panels, strict=True):
            for number, (name, label, color) in enumerate(kinds):
                heights = [max(0.0, measure(rows, name)) for rows in zoos.values()]
                axes.bar(np.arange(len(zoos)) + 0.27 * (number - 1), heights, 0.25, color=COLORS[color], label=label)
            axes.set_xticks(range(len(zoos)), list(zoos), rotation=25, ha="right", fontsize=7)
            axes.set(ylim=(0, 1.15))
            axes.set_title(title, fontsize=9)
            axes.legend(ncols=3, fontsize=7, frameon=False, loc="upper center")
        figure.savefig(FIGURE, facecolor="white", metadata={"Date": None})


def file_tree() -> str:
    """Every room with the first line of its docstring, floor by floor, as the data flows."""
    floors: list[set[str]] = runpy.run_path(str(ROOT / "tests" / "test_house.py"))["FLOORS"]
    names = [name for floor in floors for name in sorted(floor)]
    rooms = [path for path in (PACKAGE / name for name in names) if path.is_dir()]
    return "\n".join(f"{room.name + '/':13}{purpose(room)}" for room in rooms)


def purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    source = path / "__init__.py" if path.is_dir() else path
    return (ast.get_docstring(ast.parse(source.read_text())) or "").splitlines()[0]


def replace_block(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of a block."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    start = text.index(begin) + len(begin)
    return text[:start] + content + "\n" + text[text.index(end) :]


def main() -> None:
    """Rewrite all blocks."""
    draw_front()
    readme = ROOT / "README.md"
    text = replace_block(readme.read_text(), "results", results())
    text = replace_block(text, "rooms", f"```\n{file_tree()}\n```")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        printed("look_into_a_folder", folder)
        text = replace_block(text, "look", f"```\n{inspected(folder)}\n```")
        for script in SNIPPETS:
            said = "\n".join(f"# {line}" for line in printed(script, folder).splitlines())
            shown = f"```python\n{snippet(script)}\n{said}\n```"
            text = replace_block(text, script, shown)
    readme.write_text(text)


if __name__ == "__main__":
    main()
