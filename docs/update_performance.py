"""Render what accelerators do from `docs/tables/device-*.json`: `python docs/update_performance.py`.

Writes the table and the figure that open `docs/pages/results/performance.md`.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from update_readme import replace_block

from weightspace.report.figures import COLORS, PRINTED

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "results" / "performance.md"
TARGET = 0.4


def section(found: dict[str, Any]) -> str:
    """One accelerator: what is right, how fast models train, and what did not work."""
    stages = found["stages"]
    results = {name: stage["result"] for name, stage in stages.items() if "result" in stage}
    checks = results["sanity"]
    rows = [
        "| model | parameters | | steps a second | of the bf16 matrix rate | memory, GiB |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for name, result in results.items():
        for way in ("eager", "compiled") if name.startswith("throughput") else ():
            shown = result[way]
            cells = [
                f"`--size {name.partition(': ')[2]}`",
                f"{shown['parameters'] / 1e6:,.1f} M",
                way,
                f"{shown['steps_a_second']:.1f}",
                f"{shown['share_of_matrix_rate']:.1%}",
                f"{stages[name].get('peak_gib', 0):.1f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    growing, embedding = results["growing"], results["embedding"]
    large = embedding["a billion weights"]
    differences = ", ".join(f"{name} {check['difference']:.0e}" for name, check in checks.items())
    right = sum(check["right"] for check in checks.values())
    said = [
        f"**{found['device']}** (torch {found['torch']}, Python {found['python']}; `python benchmarks/device.py`)",
        "\n".join(rows),
        "![Share of the card's matrix rate](performance.svg)",
        f"{right} of {len(checks)} paths give the CPU's numbers within their tolerances: {differences}.",
        f"{growing['members']} small CNNs grow in a stack {growing['speed_up']:.0f} times as fast as alone (aim: "
        f"{growing['target']:.0f}); {large['weights'] / 1e9:.1f} billion weights embed in {large['seconds']:.0f} s.",
    ]
    said += [f"*{name}*: {stage['failed']}." for name, stage in stages.items() if "failed" in stage]
    return "\n\n".join(said)


def draw(found: dict[str, Any]) -> None:
    """How much of the card's matrix rate training takes, by size of the model."""
    trained = {name: stage["result"] for name, stage in found["stages"].items() if name.startswith("throughput")}
    names = [f"--size {name.partition(': ')[2]}" for name in trained]
    with mpl.rc_context({**PRINTED, "svg.hashsalt": "performance"}):
        figure = Figure(figsize=(7, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for number, way in enumerate(("eager", "compiled")):
            shares = [result[way]["share_of_matrix_rate"] for result in trained.values()]
            axes.barh(
                [place + 0.36 * number for place in range(len(names))], shares, 0.34, color=COLORS[number], label=way
            )
        axes.axvline(TARGET, color="#888888", linewidth=1, linestyle=":", label="aim")
        axes.set_yticks([place + 0.18 for place in range(len(names))], names)
        axes.set(xlabel=f"share of the bf16 matrix rate of one {found['device']}", xlim=(0, 1))
        axes.invert_yaxis()
        axes.legend(fontsize=8)
        figure.savefig(PAGE.with_name("performance.svg"), facecolor="white", metadata={"Date": None})


def main() -> None:
    """Rewrite the block."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "tables").glob("device-*.json"))]
    draw(found[0])
    PAGE.write_text(replace_block(PAGE.read_text(), "accelerators", "\n\n".join(map(section, found))))


if __name__ == "__main__":
    main()
