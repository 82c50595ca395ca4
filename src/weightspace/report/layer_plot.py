"""Features of layers over depth, and how alike the layers of two networks are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightspace.analysis.layers import FEATURES, Layer, average, fit_line, layer_similarity
from weightspace.report.figures import PRINTED

TITLES = {
    "spread": "SANE: spread over a layer's tokens",
    "size": "SANE: norm of the mean latent",
    "alpha": "WeightWatcher: α",
    "stable_rank": "WeightWatcher: stable rank",
    "log_norm": "WeightWatcher: log-norm",
}
MOST_NAMED, MOST_LABELS = 12, 24
Networks = Mapping[str, list[Layer]]


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
        if len(networks) <= MOST_NAMED:
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
        axes.set(ylabel=first[0], xlabel=second[0], title="Similarity of layers (cosine of SANE codes)")
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
            axes.plot(*zip(*known, strict=True), marker="o", markersize=3, linewidth=1.2, color=color, label=name)
    axes.set(xlabel="depth (first to last matrix)", title=TITLES[feature])


def _over_mean(
    axes: Axes, networks: Networks, accuracies: Mapping[str, float], feature: str, colors: np.ndarray
) -> None:
    names = [name for name in networks if name in accuracies]
    x, y = [average(networks[name], feature) for name in names], [accuracies[name] for name in names]
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
        set_ticks(range(len(layers)), [layer.name.removesuffix(".weight") for layer in layers], fontsize=7, **style)
    else:
        places = np.linspace(0, len(layers) - 1, MOST_LABELS).round().astype(int)
        names = [layers[place].name.removesuffix(".weight") for place in places]
        set_ticks(places, names, fontsize=7, **style)
