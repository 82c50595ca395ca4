"""Families of checkpoints as trees with branches as long as distances."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from weightspace.analysis.inspecting.kinship import Kinship, rooted
from weightspace.report.figures import COLORS, INK, STYLE

MOST_LEAVES = 60


def draw_lineage(trees: Sequence[Sequence[Kinship]]) -> Figure:
    """One row for each checkpoint, at its distance from the root of its family; the largest families first."""
    rows = [line for tree in trees for line in (*rooted(tree), None)][: MOST_LEAVES + 1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 0.9 + 0.24 * len(rows)))
        axes = figure.add_subplot()
        place: dict[str, tuple[float, int]] = {}
        for row, line in enumerate(rows):
            if line is None:
                continue
            _, path, edge = line
            x = 0.0
            if edge is not None:
                from_x, from_row = place[edge.second if edge.first == path else edge.first]
                x = from_x + edge.distance
                style = "--" if edge.aligned else "-"
                axes.plot([from_x, from_x, x], [from_row, row, row], color=COLORS[0], linewidth=1, linestyle=style)
            place[path] = (x, row)
            axes.plot(x, row, marker="o", markersize=4, color=COLORS[0 if edge is not None else 1])
            axes.annotate(path, (x, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
        axes.set(xlabel="relative distance, summed from the first of the family (1.4: nothing in common)", yticks=[])
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.02)
    return figure
