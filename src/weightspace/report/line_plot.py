"""The wall between two networks, before and after alignment."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from weightspace.analysis.interpolating import Line
from weightspace.report.figures import COLORS, PRINTED


def draw_lines(lines: Mapping[str, Line]) -> Figure:
    """Loss and accuracy along the lines, one panel each; dashed where batch norms were recalibrated."""
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for name, line in lines.items():
            kind, _, recalibrated = name.partition(",")
            look = {"color": COLORS[0 if kind == "aligned" else 1], "linestyle": "--" if recalibrated else "-"}
            label = f"{name} (barrier {line.barrier:.2f})"
            panels[0].plot(line.shares, line.losses, marker="o", markersize=3, label=label, **look)
            panels[1].plot(line.shares, line.accuracies, marker="o", markersize=3, **look)
        panels[0].set(xlabel="share of the second network", ylabel="test loss", ylim=(0, None))
        panels[1].set(xlabel="share of the second network", ylabel="test accuracy", ylim=(None, 1))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def save_lines(lines: Mapping[str, Line], path: Path) -> None:
    """Draw lines into a `.png`, `.svg` or `.pdf`."""
    draw_lines(lines).savefig(path, dpi=150, facecolor="white")
