"""The demo's first question: what can be read from a network's weights?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from weightspace.analysis.baselines import layer_statistics, raw_weights
from weightspace.analysis.probe import ProbeResult, probe
from weightspace.autoencoder.inference import Embeddings, embed
from weightspace.autoencoder.sane import SANE
from weightspace.zoo.zoo import Zoo

TARGETS = ("test_accuracy", "epoch", "generalization_gap")


class Split(NamedTuple):
    """A zoo's three parts, split by member."""

    train: Zoo
    validation: Zoo
    test: Zoo


def read_networks(sane: SANE, split: Split, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Probe every representation for every target; returns table rows and figure data."""
    rows = []
    for compute in representations(sane).values():
        parts = [compute(zoo) for zoo in split]
        for subset in ("pooled", "last_epoch"):
            chosen = parts if subset == "pooled" else [last_epoch(part) for part in parts]
            for target in TARGETS:
                if subset == "last_epoch" and target == "epoch":
                    continue
                rows.append(to_row(probe(*chosen, target=target, seed=seed), subset))
    return rows, {"map": map_figure(embed(sane, split.test))}


def representations(sane: SANE) -> dict[str, Callable[[Zoo], Embeddings]]:
    """The representations that are compared, baselines first."""
    return {
        "W": raw_weights,
        "s(W)": layer_statistics,
        "SANE (mean)": lambda zoo: embed(sane, zoo, "mean"),
        "SANE (mean+spread)": lambda zoo: embed(sane, zoo, "mean+spread"),
    }


def last_epoch(part: Embeddings) -> Embeddings:
    """The part's checkpoints at each member's last epoch."""
    keep = (part.table["epoch"] == part.table.groupby("member")["epoch"].transform("max")).to_numpy()
    return Embeddings(part.features[keep], part.table[keep], part.representation, part.trained_on)


def to_row(result: ProbeResult, subset: str) -> dict[str, Any]:
    """A row of `results.json`."""
    fields = ("representation", "target", "r2", "r2_low", "r2_high", "tau", "members", "checkpoints")
    return {"subset": subset, **{name: getattr(result, name) for name in fields}}


def map_figure(embeddings: Embeddings) -> dict[str, Any]:
    """Two principal components of embeddings, colored by accuracy."""
    scaled = (embeddings.features - embeddings.features.mean(0)) / np.maximum(embeddings.features.std(0), 1e-9)
    points = PCA(2, random_state=0).fit_transform(scaled)
    return {
        "points": points.round(3).tolist(),
        "color": embeddings.table["test_accuracy"].round(4).tolist(),
        "label": "test accuracy",
        "facts": {"points": len(points)},
    }
