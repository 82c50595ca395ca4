"""The report's figures, drawn from plain data as SVG that follows the page's light or dark colours."""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # replaced by `currentColor` in the SVG
COLORS = ["#2f7fd1", "#e0702b", "#2a9d6f", "#b5479e", "#8a7f1f", "#d1434b", "#5b6ee0", "#7a7a7a"]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLORS),
}
Data = Mapping[str, Any]


class Drawn(NamedTuple):
    """A figure as SVG text, with a title and one sentence saying what it shows."""

    title: str
    sentence: str
    svg: str


def draw_figures(data: Data) -> list[Drawn]:
    """Draw every figure there is data for, in the order of the story."""
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (title, sentence, draw) in FIGURES.items():
            if name in data:
                figure = draw(data[name])
                drawn.append(Drawn(title, sentence.format(**_facts(data[name])), to_svg(figure, name)))
    return drawn


def to_svg(figure: Figure, name: str) -> str:
    """SVG text without the XML header; ink in the page's text color, identifiers unique to `name`."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    for prefix in ('id="', "url(#", 'href="#'):
        text = text.replace(prefix, f"{prefix}{name}-")
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _canvas(width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _accuracy_over_epochs(data: Data) -> Figure:
    figure, axes = _canvas()
    epochs = data["epochs"]
    for name, quantiles in data["groups"].items():
        low, middle, high = np.array(quantiles).T
        (line,) = axes.plot(epochs, middle, marker="o", markersize=3, label=name)
        axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
    axes.legend()
    return figure


def _losses(data: Data) -> Figure:
    figure, axes = _canvas()
    axes.plot(data["step"], data["reconstruction"], label="reconstruction (1 = predicting the mean)")
    axes.set(xlabel="step", ylabel="reconstruction loss", ylim=(0, None))
    axes.margins(x=0)
    if any(data["contrastive"]):
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        other.plot(data["step"], data["contrastive"], color=COLORS[1], label="contrastive")
        other.set(ylabel="contrastive loss", ylim=(0, None))
        axes.plot([], [], color=COLORS[1], label="contrastive (right axis)")
    axes.legend(loc="upper right")
    return figure


def _map(data: Data) -> Figure:
    figure, axes = _canvas(height=4.2)
    x, y = np.array(data["points"]).T
    dots = axes.scatter(x, y, c=data["color"], s=6, cmap="viridis", linewidths=0, rasterized=True)
    bar = figure.colorbar(dots, ax=axes, label=data["label"])
    bar.outline.set_visible(False)
    axes.set(xlabel="first principal component", ylabel="second principal component", xticks=[], yticks=[])
    return figure


def _fine_tuning(data: Data) -> Figure:
    figure, axes = _canvas()
    for method, curve in data["curves"].items():
        epochs, middle, low, high = np.array(curve).T
        (line,) = axes.plot(epochs, middle, marker="o", markersize=4, label=method)
        axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel="epochs of fine-tuning", ylabel="test accuracy", ylim=(0, 1))
    axes.legend(loc="lower right")
    return figure


def _facts(data: Data) -> Mapping[str, Any]:
    return data.get("facts", {})


FIGURES: dict[str, tuple[str, str, Callable[[Data], Figure]]] = {
    "accuracy": (
        "The zoo learns",
        "Test accuracy of the {members} members over their training: the median, and the middle half of them.",
        _accuracy_over_epochs,
    ),
    "losses": (
        "The autoencoder learns",
        "Loss of the SANE autoencoder over its {steps} training steps; a reconstruction loss of 1 would be "
        "predicting every weight by its mean.",
        _losses,
    ),
    "map": (
        "Where networks lie",
        "Embeddings of {points} checkpoints of members that the autoencoder never saw, projected on two principal "
        "components: color is test accuracy, which the autoencoder was never told.",
        _map,
    ),
    "fine_tuning": (
        "What generated networks are worth",
        "Test accuracy of {networks} networks per method before and during fine-tuning, all under one schedule; "
        "bands are 95 % intervals of the mean.",
        _fine_tuning,
    ),
}
