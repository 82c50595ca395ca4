"""The data of the demo's figures: plain lists, so that the page can be drawn again from a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weightspace.analysis.probing.comparing import CHOSEN, ReadingComparison, Task, principal_map
from weightspace.evaluation.comparing import WritingComparison
from weightspace.generation.sampling import Generated
from weightspace.weights.values import Weights
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.zoo import Zoo

QUARTILES = [0.25, 0.5, 0.75]
FILTERS = 12


def accuracy_figure(zoo: Zoo) -> dict[str, Any]:
    """Quartiles of test accuracy over the epochs, by activation."""
    quantiles = zoo.table.groupby(["activation", "epoch"])["test_accuracy"].quantile(QUARTILES).unstack()
    activations = sorted(zoo.table["activation"].unique())
    return {
        "epochs": sorted(int(epoch) for epoch in zoo.table["epoch"].unique()),
        "groups": {name: quantiles.loc[name].round(4).to_numpy().tolist() for name in activations},
        "facts": {"members": len(zoo.members)},
    }


def loss_figure(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The losses of pre-training over its steps."""
    return {
        **{name: [row[name] for row in history] for name in ("step", "reconstruction", "contrastive", "statistics")},
        "facts": {"steps": int(history[-1]["step"])},
    }


def layer_figure(scores: Mapping[str, float], members: int) -> dict[str, Any]:
    """Reconstruction R² by tensor."""
    return {"r2": dict(scores), "facts": {"members": members}}


def map_figure(embeddings: Embeddings) -> dict[str, Any]:
    """Two principal components of embeddings, colored in three ways."""
    table, points = embeddings.table, principal_map(embeddings)
    return {
        "points": points.round(3).tolist(),
        "test accuracy": table["test_accuracy"].round(4).tolist(),
        "epoch": table["epoch"].tolist(),
        "activation": table["activation"].tolist(),
        "facts": {"points": len(points), "representation": embeddings.representation.label},
    }


def prediction_figure(read: ReadingComparison) -> dict[str, Any]:
    """Predicted against true accuracy of test checkpoints, by the SANE embedding chosen and by s(W)."""
    task = Task("test_accuracy", "pooled")
    chosen = next(
        str(row.chosen) for row in read.rows if (row.representation, row.target, row.subset) == (CHOSEN.label, *task)
    )
    shown = {name: read.probes[name, task] for name in (chosen, "s(W)")}
    return {
        "panels": {
            name: {"true": result.true.round(4).tolist(), "predicted": result.predicted.round(4).tolist()}
            for name, result in shown.items()
        },
        "facts": {"points": shown[chosen].checkpoints},
    }


def bars_figure(read: ReadingComparison) -> dict[str, Any]:
    """R² with intervals of every representation, by target, over all epochs."""
    pooled = [row for row in read.rows if row.subset == "pooled" and row.r2 is not None]
    bars: dict[str, list[list[Any]]] = {}
    for row in pooled:
        bars.setdefault(row.target, []).append([row.representation, row.r2, row.r2_low, row.r2_high, row.source])
    return {"bars": bars, "facts": {"members": pooled[0].members}}


def fine_tuning_figure(written: WritingComparison, networks: int) -> dict[str, Any]:
    """Accuracy over epochs of fine-tuning, by method."""
    curves: dict[str, list[list[float]]] = {}
    for outcome in written.outcomes:
        curves.setdefault(outcome.method, []).append([outcome.epochs, outcome.accuracy, outcome.low, outcome.high])
    return {"curves": curves, "facts": {"networks": networks}}


def novelty_figure(written: WritingComparison) -> dict[str, Any]:
    """Novelty in weights against accuracy without training, network by network."""
    dots = {
        outcome.method: np.stack([written.novelty[outcome.method].weights, outcome.each], axis=1).round(4).tolist()
        for outcome in written.outcomes
        if outcome.epochs == 0
    }
    return {"dots": dots, "facts": {}}


def filter_figure(generated: Generated, real: Weights) -> dict[str, Any]:
    """What the first units of a generated network, and of the real one nearest to it, respond to."""
    first = next(name for name, shape in generated.architecture.shapes.items() if len(shape) == 2)
    rows = {"generated": generated.weights[first], "nearest in training": real[first]}
    example = generated.architecture.example_shape or ()
    panels = {name: weights[:FILTERS].reshape(-1, *example[2:]) for name, weights in rows.items()}
    return {"panels": {name: values.numpy().round(3).tolist() for name, values in panels.items()}, "facts": {}}
