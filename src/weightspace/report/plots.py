"""Pictures in files of their own: a zoo, layers over depth, the line between two networks, families of checkpoints."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightspace.analysis.inspecting.kinship import Kinship, rooted
from weightspace.analysis.layers import FEATURES, Layer, fit_line, layer_similarity, mean_feature
from weightspace.analysis.pairs.aligning import ALIGNED
from weightspace.analysis.pairs.diffing import Diff
from weightspace.analysis.pairs.traces import Traces
from weightspace.linear_paths import Line
from weightspace.plain_text import LONGEST_NAME, figure_text
from weightspace.report.figures import COLORS, INK, PRINTED, STYLE
from weightspace.report.pairs import NOTHING_LEFT
from weightspace.zoo.zoo import Zoo

COLUMNS = 4
BINS = 30
MOST_KINDS = 12
MOST_LINES = 60
# Values over more than this many powers of ten are shown on a logarithmic axis.
LOGARITHMIC = 1.5
ACCURACIES = ("test_accuracy", "validation_accuracy", "train_accuracy")
TITLES = {
    "spread": "SANE: spread over a layer's tokens",
    "size": "SANE: norm of the mean latent",
    "alpha": "WeightWatcher: α",
    "stable_rank": "WeightWatcher: stable rank",
    "log_norm": "WeightWatcher: log-norm",
}
MOST_NAMED, MOST_LABELS = 12, 24
Networks = Mapping[str, list[Layer]]
MOST_LEAVES, MOST_TENSORS = 60, 60
LOWEST = 1e-8


def draw_layers(networks: Networks, accuracies: Mapping[str, float]) -> Figure:
    """A row of panels over depth and, where accuracies are known, a row of accuracy over each feature's mean."""
    features = [name for name in FEATURES if any(name in own.features for n in networks.values() for own in n)]
    rows = 2 if len(accuracies) > 1 else 1
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(3.2 * len(features), 3.0 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, len(features), squeeze=False)
        colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(networks)))
        for axes, feature in zip(panels[0], features, strict=True):
            _over_depth(axes, networks, feature, colors)
        if rows == 2:
            for axes, feature in zip(panels[1], features, strict=True):
                _over_mean(axes, networks, accuracies, feature, colors)
        if len(networks) > MOST_NAMED:
            figure.suptitle(f"{len(networks)} networks, dark to light in their order", fontsize=10)
        else:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(networks), 4))
    return figure


def draw_similarity(first: tuple[str, list[Layer]], second: tuple[str, list[Layer]]) -> Figure:
    """Which layers of one network are like which of another."""
    values = layer_similarity(first[1], second[1])
    with mpl.rc_context(PRINTED):
        height, width = (2.4 + 0.17 * min(size, 60) for size in values.shape)
        figure = Figure(figsize=(width + 1, height), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        _name_layers(axes.set_yticks, first[1])
        _name_layers(axes.set_xticks, second[1], rotation=90)
        axes.set(
            ylabel=figure_text(first[0]),
            xlabel=figure_text(second[0]),
            title="Similarity of layers (cosine of SANE codes)",
        )
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.8).outline.set_visible(False)
    return figure


def save_layers(networks: Networks, accuracies: Mapping[str, float], path: Path) -> None:
    """Draw features over depth into a `.png`, `.svg` or `.pdf`."""
    draw_layers(networks, accuracies).savefig(path, dpi=150, facecolor="white")


def save_similarity(networks: Networks, path: Path) -> None:
    """Draw the similarity between the first and the last network into a `.png`, `.svg` or `.pdf`."""
    named = list(networks.items())
    draw_similarity(named[0], named[-1]).savefig(path, dpi=150, facecolor="white")


def _over_depth(axes: Axes, networks: Networks, feature: str, colors: np.ndarray) -> None:
    for color, (name, layers) in zip(colors, networks.items(), strict=True):
        known = [(layer.depth, layer.features[feature]) for layer in layers if feature in layer.features]
        if known:
            axes.plot(
                *zip(*known, strict=True), marker="o", markersize=3, linewidth=1.2, color=color, label=figure_text(name)
            )
    orders = sorted({layer.order for layers in networks.values() for layer in layers})
    axes.set(xlabel=f"depth (first to last matrix, by {' or '.join(orders)})", title=TITLES[feature])


def _over_mean(
    axes: Axes, networks: Networks, accuracies: Mapping[str, float], feature: str, colors: np.ndarray
) -> None:
    names = [name for name in networks if name in accuracies]
    x, y = [mean_feature(networks[name], feature) for name in names], [accuracies[name] for name in names]
    shown = [color for name, color in zip(networks, colors, strict=True) if name in accuracies]
    axes.scatter(x, y, c=shown, s=28)
    fit = fit_line(x, y)
    if fit is not None:
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        axes.plot(ends, fit.intercept + fit.slope * ends, color="#7a7a7a", linewidth=1)
        axes.set_title(f"R² of the line {fit.r2:.2f} ({len(names)} networks)", fontsize=10)
    axes.set(xlabel="mean over layers", ylabel="accuracy")


def _name_layers(set_ticks: Any, layers: list[Layer], **style: Any) -> None:
    if len(layers) <= MOST_LABELS:
        set_ticks(
            range(len(layers)),
            [figure_text(layer.name.removesuffix(".weight")) for layer in layers],
            fontsize=7,
            **style,
        )
    else:
        places = np.linspace(0, len(layers) - 1, MOST_LABELS).round().astype(int)
        names = [layers[place].name.removesuffix(".weight") for place in places]
        set_ticks(places, list(map(figure_text, names)), fontsize=7, **style)


def draw_lines(lines: Mapping[str, Line]) -> Figure:
    """Loss and accuracy along the lines, one panel each; dashed where batch norms were recalibrated."""
    with mpl.rc_context(PRINTED):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for name, line in lines.items():
            kind, _, recalibrated = name.partition(",")
            look = {"color": COLORS[0 if kind == ALIGNED else 1], "linestyle": "--" if recalibrated else "-"}
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


def draw_lineage(trees: Sequence[Sequence[Kinship]]) -> Figure:
    """One row for each checkpoint, at its distance from the root of its family; the largest families first."""
    lines = [line for tree in trees for line in (*rooted(tree), None)]
    rows, count = lines[: MOST_LEAVES + 1], sum(line is not None for line in lines)
    shown = sum(line is not None for line in rows)
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
            axes.annotate(
                figure_text(path, LONGEST_NAME),
                (x, row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        axes.set(xlabel="relative distance, summed from the first of the family (1.4: nothing in common)", yticks=[])
        if shown < count:
            axes.set_title(f"{shown} of {count:,} related checkpoints; the table has all", fontsize=9, loc="left")
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.02)
    return figure


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
    drawn = len(members[:: max(1, len(members) // MOST_LINES)])
    title = "members over epochs" + (f" ({drawn} of {len(members):,} drawn)" if drawn < len(members) else "")
    axes.set(xlabel="epoch", ylabel=figure_text(accuracy.replace("_", " ")), ylim=(0, top), title=title)
    axes.legend(loc="lower right")


def _draw_distribution(axes: Axes, values: pd.Series, name: str) -> None:
    present = values.dropna()
    if not pd.api.types.is_numeric_dtype(present):
        counts = present.astype(str).value_counts().sort_index()
        axes.barh(range(len(counts)), counts.to_numpy(), color=COLORS[0])
        axes.set(yticks=range(len(counts)), yticklabels=[figure_text(kind) for kind in counts.index])
        axes.invert_yaxis()
    else:
        numbers = present.to_numpy(dtype=float)
        numbers = numbers[np.isfinite(numbers)]
        low, high = numbers.min(), numbers.max()
        # Accuracies are shares: their axis is linear, however small some are.
        if low > 0 and math.log10(high / low) > LOGARITHMIC and not name.endswith("accuracy"):
            axes.hist(numbers, list(np.geomspace(low, high, BINS + 1)), color=COLORS[0])
            axes.set_xscale("log")
        else:
            whole = (numbers == np.round(numbers)).all() and high - low < BINS
            bins = BINS if high - low > 1e-9 * max(abs(low), abs(high)) else 1
            axes.hist(numbers, list(np.arange(low - 0.5, high + 1)) if whole else bins, color=COLORS[0])
    axes.set_title(figure_text(name.replace("_", " ")), fontsize=10)
    axes.tick_params(labelsize=8)
    if pd.api.types.is_numeric_dtype(present):
        axes.set_ylabel("checkpoints", fontsize=8)
    else:
        axes.set_xlabel("checkpoints", fontsize=8)


def _drawable(values: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(values):
        return bool(np.isfinite(values.dropna().to_numpy(dtype=float)).any())
    # Texts of which nearly every one is another say nothing by how often they are there.
    return values.nunique() <= min(MOST_KINDS, max(2, len(values.dropna()) // 2))


def draw_diff(diff: Diff) -> Figure:
    """How much every tensor changed, in the order of the network, and what is left of it; below, where answers part."""
    entries = [entry for entry in diff.seen.traces if not entry.aside]
    partings = diff.answers.partings if diff.answers else []
    with mpl.rc_context(STYLE):
        heights = [3, 2] if partings else [1]
        figure = Figure(figsize=(8.4, 6.4 if partings else 4.2), layout="constrained")
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        _draw_changes(panels[0], entries)
        if partings:
            distances = [parting.distance for parting in partings]
            panels[1].plot(range(len(partings)), distances, marker="o", markersize=3, color=COLORS[1])
            panels[1].set(ylabel="activations apart", ylim=(0, None))
            _name_below(panels[1], [parting.place for parting in partings])
    return figure


def _draw_changes(axes: Axes, entries: Sequence[Traces]) -> None:
    """Bars of the change, and dots of the correlation of rows at the same places."""
    heights = [max(LOWEST, min(entry.change.relative, 1e3)) if not entry.change.equal else 0 for entry in entries]
    strange = [entry.places is not None and entry.correlation < NOTHING_LEFT for entry in entries]
    colors = [COLORS[5] if lost else COLORS[0] for lost in strange]
    axes.bar(range(len(entries)), heights, color=colors)
    shown = [height for height in heights if height]
    low = 10.0 ** math.floor(math.log10(min(shown))) if shown else LOWEST
    axes.set_yscale("log")
    axes.set(ylabel="relative change", ylim=(low / 3, max([*shown, 10 * low]) * 2), xlim=(-0.7, len(entries) - 0.3))
    equal = [number for number, height in enumerate(heights) if not height]
    axes.plot(equal, [low / 2] * len(equal), linestyle="", marker="_", color=COLORS[2], label="equal")
    axes.bar([0], [0], color=COLORS[0], label="changed")
    if any(strange):
        axes.bar([0], [0], color=COLORS[5], label="nothing of it is left")
    axes.legend(loc="upper right", ncols=3)
    _name_below(axes, [entry.change.twins.name for entry in entries])


def _name_below(axes: Axes, names: Sequence[str]) -> None:
    """Names below an axis, as long as they can be read; numbers otherwise."""
    if len(names) <= MOST_TENSORS:
        shown = [figure_text(name[-LONGEST_NAME:]) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
    else:
        axes.set_xlabel("tensors, in their order", fontsize=8)
