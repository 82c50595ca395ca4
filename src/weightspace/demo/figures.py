"""The data of the demo's figures."""

from typing import Any

from weightspace.analysis.comparing import principal_map
from weightspace.autoencoder.inference import Embeddings
from weightspace.generation.evaluating import Outcome
from weightspace.zoo.zoo import Zoo

QUARTILES = [0.25, 0.5, 0.75]


def accuracy_figure(zoo: Zoo) -> dict[str, Any]:
    """Quartiles of test accuracy over the epochs, by activation."""
    quantiles = zoo.table.groupby(["activation", "epoch"])["test_accuracy"].quantile(QUARTILES).unstack()
    return {
        "epochs": sorted(int(epoch) for epoch in zoo.table["epoch"].unique()),
        "groups": {name: quantiles.loc[name].to_numpy().tolist() for name in sorted(zoo.table["activation"].unique())},
        "facts": {"members": len(zoo.members)},
    }


def loss_figure(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The losses of pre-training over its steps."""
    return {
        **{name: [row[name] for row in history] for name in ("step", "reconstruction", "contrastive")},
        "facts": {"steps": int(history[-1]["step"])},
    }


def map_figure(embeddings: Embeddings) -> dict[str, Any]:
    """Two principal components of embeddings, colored by accuracy."""
    points = principal_map(embeddings)
    return {
        "points": points.round(3).tolist(),
        "color": embeddings.table["test_accuracy"].round(4).tolist(),
        "label": "test accuracy",
        "facts": {"points": len(points)},
    }


def fine_tuning_figure(outcomes: list[Outcome], networks: int) -> dict[str, Any]:
    """Accuracy over epochs of fine-tuning, per method."""
    curves: dict[str, list[list[float]]] = {}
    for outcome in outcomes:
        curves.setdefault(outcome.method, []).append([outcome.epochs, outcome.accuracy, outcome.low, outcome.high])
    return {"curves": curves, "facts": {"networks": networks}}
