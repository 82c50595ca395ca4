"""A zoo at a glance: accuracy over epochs, and how every property is distributed."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightspace.report.figures import COLORS, PRINTED
from weightspace.zoo.zoo import Zoo

COLUMNS = 4
BINS = 30
MOST_KINDS = 12
MOST_LINES = 60
# Values over more than this many powers of ten are shown on a logarithmic axis.
LOGARITHMIC = 1.5
ACCURACIES = ("test_accuracy", "validation_accuracy", "train_accuracy")


def draw_zoo(zoo: Zoo) -> Figure:
    """Accuracy of members over epochs, and a panel per property; properties that do not vary are left away."""
    shown = [name for name in zoo.properties if zoo.table[name].nunique() > 1 and _drawable(zoo.table[name])]
    numeric = [name for name in shown if pd.api.types.is_numeric_dtype(zoo.table[name])]
    accuracy = next((name for name in ACCURACIES if name in numeric), None)
    several = accuracy is not None and zoo.table["epoch"].nunique() > 1
    panels = len(shown) + (2 if several else 0)
    rows = max(1, math.ceil(panels / COLUMNS))
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(3.1 * COLUMNS, 2.3 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, COLUMNS)
        if several and accuracy is not None:
            _draw_courses(figure.add_subplot(grid[0, :2]), zoo.table, accuracy)
        for number, name in enumerate(shown, start=2 if several else 0):
            row, column = divmod(number, COLUMNS)
            _draw_distribution(figure.add_subplot(grid[row, column]), zoo.table[name], name)
    return figure


def save_zoo_plot(zoo: Zoo, path: Path) -> None:
    """Draw a zoo into a `.png`, `.svg` or `.pdf`."""
    draw_zoo(zoo).savefig(path, dpi=150, facecolor="white")


def _draw_courses(axes: Axes, table: pd.DataFrame, accuracy: str) -> None:
    members = list(dict.fromkeys(table["member"]))
    for member in members[:: max(1, len(members) // MOST_LINES)]:
        own = table[table["member"] == member].sort_values("epoch")
        axes.plot(own["epoch"], own[accuracy], color=COLORS[0], alpha=0.18, linewidth=0.8)
    middle = table.groupby("epoch")[accuracy].median()
    axes.plot(middle.index, middle, color=COLORS[1], marker="o", markersize=3, label="median")
    top = 1 if table[accuracy].max() <= 1 else None  # some zoos count in percent
    axes.set(xlabel="epoch", ylabel=accuracy.replace("_", " "), ylim=(0, top), title="members over epochs")
    axes.legend(loc="lower right")


def _draw_distribution(axes: Axes, values: pd.Series, name: str) -> None:
    present = values.dropna()
    if not pd.api.types.is_numeric_dtype(present):
        counts = present.astype(str).value_counts().sort_index()
        axes.barh(range(len(counts)), counts.to_numpy(), color=COLORS[0])
        axes.set(yticks=range(len(counts)), yticklabels=[_plain(kind) for kind in counts.index])
        axes.invert_yaxis()
    else:
        numbers = present.to_numpy(dtype=float)
        numbers = numbers[np.isfinite(numbers)]
        low, high = numbers.min(), numbers.max()
        if low > 0 and math.log10(high / low) > LOGARITHMIC:
            axes.hist(numbers, list(np.geomspace(low, high, BINS + 1)), color=COLORS[0])
            axes.set_xscale("log")
        else:
            whole = (numbers == np.round(numbers)).all() and high - low < BINS
            bins = BINS if high - low > 1e-9 * max(abs(low), abs(high)) else 1
            axes.hist(numbers, list(np.arange(low - 0.5, high + 1)) if whole else bins, color=COLORS[0])
    axes.set_title(_plain(name.replace("_", " ")), fontsize=10)
    axes.tick_params(labelsize=8)
    if pd.api.types.is_numeric_dtype(present):
        axes.set_ylabel("checkpoints", fontsize=8)
    else:
        axes.set_xlabel("checkpoints", fontsize=8)


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar, not the beginning of a formula."""
    return text.replace("$", r"\$")


def _drawable(values: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(values):
        return bool(np.isfinite(values.dropna().to_numpy(dtype=float)).any())
    return values.nunique() <= MOST_KINDS
