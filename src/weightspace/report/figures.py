"""The report's figures, drawn from plain data as SVG that follows the page's light or dark colours."""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightspace.plain_text import figure_text

INK = "#010203"  # replaced by `currentColor` in the SVG
COLORS = ["#2f7fd1", "#e0702b", "#2a9d6f", "#b5479e", "#8a7f1f", "#d1434b", "#5b6ee0", "#7a7a7a", "#3aa6a6"]
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
# For pictures in files of their own, on white.
PRINTED: dict[Any, Any] = {key: "#222222" if value == INK else value for key, value in STYLE.items()}
# Beside ours; a figure of all methods has this after its name.
TELLING = ("anchors as they are", "anchor + noise", "anchors, interpolated", "from scratch")
WHOLE = ", all methods"
MARKERS, DASHES = ("o", "^", "s", "D"), ("-", "--", ":", "-.")
Data = Mapping[str, Any]


def look_of(number: int) -> dict[str, Any]:
    """Color, marker and dashes of the `number`-th of many methods: no two alike below 36."""
    turn = number // len(COLORS) % len(MARKERS)
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[turn], "linestyle": DASHES[turn]}


class Drawn(NamedTuple):
    """A figure as SVG text, with a title, one sentence saying what it shows, and the name the story knows it by."""

    title: str
    sentence: str
    svg: str
    name: str = ""


def draw_figures(data: Data) -> list[Drawn]:
    """Draw every figure there is data for, in the order of the story."""
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (title, sentence, draw) in FIGURES.items():
            source = name.removesuffix(WHOLE)
            if source in data:
                figure = draw(data[source])
                drawn.append(Drawn(title, sentence.format(**_facts(data[source])), to_svg(figure, name), name))
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
        (line,) = axes.plot(epochs, middle, marker="o", markersize=3, label=figure_text(name))
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
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def _maps(data: Data) -> Figure:
    figure = Figure(figsize=(9, 3.2))
    x, y = np.array(data["points"]).T
    for place, name in enumerate(("test accuracy", "epoch", "activation"), start=1):
        axes = figure.add_subplot(1, 3, place)
        if name == "activation":
            kinds = np.array(data[name])
            for kind in sorted(set(data[name])):
                axes.scatter(
                    x[kinds == kind], y[kinds == kind], s=5, linewidths=0, rasterized=True, label=figure_text(kind)
                )
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, markerscale=3)
        else:
            dots = axes.scatter(x, y, c=data[name], s=5, cmap="viridis", linewidths=0, rasterized=True)
            beneath = axes.inset_axes((0.1, -0.13, 0.8, 0.045))
            bar = figure.colorbar(dots, cax=beneath, orientation="horizontal")
            bar.outline.set_visible(False)
        axes.set(title=figure_text(name), xticks=[], yticks=[])
    return figure


def _layers(data: Data) -> Figure:
    names, values = list(data["r2"]), np.array(list(data["r2"].values()))
    figure, axes = _canvas(height=0.9 + 0.32 * len(names))
    axes.barh(range(len(names)), values, color=COLORS[0])
    for row, value in enumerate(values):
        axes.text(max(value, 0) + 0.01, row, f"{value:.2f}", va="center")
    axes.set(
        yticks=range(len(names)),
        yticklabels=list(map(figure_text, names)),
        xlabel="R² of reconstruction",
        xlim=(min(0, values.min()), 1.1),
    )
    axes.invert_yaxis()
    return figure


def _bars(data: Data) -> Figure:
    """R² and intervals, one panel a target; a floor of -0.2 keeps a bad fit from hiding the others."""
    bars = data["bars"]
    first = next(iter(bars.values()))
    names = [row[0] for row in first]
    figure = Figure(figsize=(9, 0.8 + 0.3 * len(names)))
    for place, (target, rows) in enumerate(bars.items(), start=1):
        axes = figure.add_subplot(1, len(bars), place)
        middle, low, high = (np.array([row[column] for row in rows]).clip(-0.2, 1) for column in (1, 2, 3))
        colors = [COLORS[7] if row[4] == "baseline" else COLORS[1] for row in first]
        axes.barh(range(len(names)), middle, color=colors, xerr=[middle - low, high - middle], ecolor=INK, capsize=2)
        axes.set(yticks=range(len(names)), title=target.replace("_", " "), xlim=(min(0, low.min()), 1), xlabel="R²")
        axes.set_yticklabels(list(map(figure_text, names)) if place == 1 else [])
        axes.invert_yaxis()
    return figure


def _predictions(data: Data) -> Figure:
    figure = Figure(figsize=(8, 3.6))
    for place, (name, panel) in enumerate(data["panels"].items(), start=1):
        axes = figure.add_subplot(1, len(data["panels"]), place)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5)
        axes.scatter(panel["true"], panel["predicted"], s=6, linewidths=0, alpha=0.6, rasterized=True)
        axes.set(
            title=figure_text(name),
            xlabel="true test accuracy",
            ylabel="predicted" if place == 1 else "",
            ylim=(-0.2, 1.2),
        )
    return figure


def _telling(methods: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of many methods the five that tell the story: ours, the first, and what it has to beat."""
    kept = [name for number, name in enumerate(methods) if not number or name in TELLING]
    return {name: methods[name] for name in kept} if len(kept) > 1 else methods


def _novelty(data: Data) -> Figure:
    figure, axes = _canvas(height=3.8)
    for number, (method, dots) in enumerate(data["dots"].items()):
        (x, y), look = np.array(dots).T, look_of(number)
        look.pop("linestyle")
        axes.scatter(x, y, s=14, linewidths=0, alpha=0.8, label=figure_text(method), rasterized=True, **look)
    axes.set(xlabel="novelty in weights", ylabel="test accuracy, untrained", ylim=(0, 1), xlim=(-0.03, None))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    return figure


def _filters(data: Data) -> Figure:
    panels = data["panels"]
    columns = max(len(images) for images in panels.values())
    figure = Figure(figsize=(8, 0.95 * len(panels) + 0.2))
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for row, (name, images) in zip(grid, panels.items(), strict=True):
        for axes, image in zip(row, images, strict=True):
            size = np.abs(image).max()
            axes.imshow(image, cmap="RdBu_r", vmin=-size, vmax=size)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(figure_text(name), rotation=0, ha="right", va="center")
    return figure


def _fine_tuning(data: Data) -> Figure:
    figure, axes = _canvas()
    for number, (method, curve) in enumerate(data["curves"].items()):
        epochs, middle, low, high = np.array(curve).T
        look = look_of(number)
        axes.plot(epochs, middle, markersize=4, label=figure_text(method), **look)
        axes.fill_between(epochs, low, high, alpha=0.2, color=look["color"], linewidth=0)
    axes.set(xlabel="epochs of fine-tuning", ylabel="test accuracy", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _few_novelty(data: Data) -> Figure:
    return _novelty({**data, "dots": _telling(data["dots"])})


def _few_fine_tuning(data: Data) -> Figure:
    return _fine_tuning({**data, "curves": _telling(data["curves"])})


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
    "layers": (
        "What survives the bottleneck",
        "Share of the weights' variance that the autoencoder reconstructs, tensor by tensor, in {members} networks it "
        "never saw.",
        _layers,
    ),
    "map": (
        "Where networks lie",
        "Embeddings ({representation}) of {points} checkpoints of members that the autoencoder never saw, on two "
        "principal components; it was never told what the colors show.",
        _maps,
    ),
    "bars": (
        "What can be read from which representation",
        "R² of linear probes on {members} unseen members over all epochs, with 95 % intervals; trained SANE is "
        "orange, baselines are gray.",
        _bars,
    ),
    "prediction": (
        "Predicted and true",
        "Test accuracy of {points} checkpoints of unseen members as their weights tell it: by the SANE embedding that "
        "was chosen on validation members, and by layer statistics.",
        _predictions,
    ),
    "fine_tuning": (
        "What generated networks are worth",
        "Mean test accuracy of {networks} networks per method before and during fine-tuning, all under one schedule; "
        "bands are 95 % intervals. All methods are further down.",
        _few_fine_tuning,
    ),
    "novelty": (
        "New, or a copy?",
        "Every generated network: its distance to the nearest training checkpoint (1 is as far as two members are from "
        "each other) and its accuracy without any training. All methods are further down.",
        _few_novelty,
    ),
    "filters": (
        "What a generated network looks like",
        "Weights of the first units of a generated network over the image, above those of the training network nearest "
        "to it, its units matched to the generated ones.",
        _filters,
    ),
    f"fine_tuning{WHOLE}": (
        "What all methods are worth",
        "Mean test accuracy of {networks} networks per method before and during fine-tuning; bands are 95 % intervals.",
        _fine_tuning,
    ),
    f"novelty{WHOLE}": (
        "How new the networks of all methods are",
        "Every network's distance to the nearest training checkpoint and its accuracy without any training.",
        _novelty,
    ),
}
