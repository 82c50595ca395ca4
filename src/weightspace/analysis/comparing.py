"""Representations beside each other: the same probes on all of them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pandas.api.types import is_numeric_dtype
from sklearn.decomposition import PCA

from weightspace.analysis.classifying import Classified, classify
from weightspace.analysis.probe import ProbeResult, probe
from weightspace.analysis.representations import LEARNED, Represent
from weightspace.autoencoder.inference import Embeddings
from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo

CHOSEN = "SANE (chosen on validation)"
Parts = Sequence[Embeddings]


class Task(NamedTuple):
    """What is probed for, and on which checkpoints: `pooled` over epochs, or each member's `last_epoch`."""

    target: str
    subset: str


class Comparison(NamedTuple):
    """Table rows, and the probes behind those that are regressions."""

    rows: list[dict[str, Any]]
    probes: dict[tuple[str, Task], ProbeResult]


def compare_representations(
    parts: Sequence[Zoo],
    representations: Sequence[Represent],
    targets: Sequence[str],
    *,
    hyper_parameters: Sequence[str] = (),
    seed: int = 0,
    allow_overlap: bool = False,
) -> Comparison:
    """Probe every representation for every target.

    Args:
        parts: train, validation and test members.
        representations: see `standard_representations`.
        targets: numeric properties, probed over all epochs and on last epochs alone (`epoch` only over all).
        hyper_parameters: properties that do not change over training, probed on last epochs; those that are no
            numbers are classified.
        seed: of the bootstrap.
        allow_overlap: see `probe`.

    Returns:
        Rows with `representation`, `target`, `subset`, `r2`, `r2_low`, `r2_high`, `tau`, and for categories
        `accuracy`, `accuracy_low`, `accuracy_high` and `chance` in their place. A further row, "SANE (chosen on
        validation)", repeats the SANE embedding whose probe was best on validation members.
    """
    unknown = [name for name in (*targets, *hyper_parameters) if name not in parts[0].properties]
    if unknown:
        raise InputError(f"expected a property among {', '.join(parts[0].properties)}, found {', '.join(unknown)}")
    rows: list[dict[str, Any]] = []
    probes: dict[tuple[str, Task], ProbeResult] = {}
    validation: dict[tuple[str, Task], float] = {}
    for represent in representations:
        pooled = represent(parts)
        last = [last_epoch(part) for part in pooled]
        for task in _tasks(targets, hyper_parameters):
            own: Parts = last if task.subset == "last_epoch" else pooled
            if is_numeric_dtype(parts[0].values(task.target)):
                drawn = task.target in hyper_parameters
                result = probe(*own, target=task.target, logarithmic=drawn, seed=seed, allow_overlap=allow_overlap)
                probes[result.representation, task] = result
                rows.append(_regression_row(result, task))
                validation[result.representation, task] = result.validation_r2
            else:
                found = classify(*own, target=task.target, seed=seed, allow_overlap=allow_overlap)
                rows.append(_category_row(found, task))
                validation[found.representation, task] = found.validation
    return Comparison([*rows, *_chosen_rows(rows, validation)], probes)


def last_epoch(part: Embeddings) -> Embeddings:
    """The part's checkpoints at each member's last epoch."""
    keep = (part.table["epoch"] == part.table.groupby("member")["epoch"].transform("max")).to_numpy()
    return Embeddings(part.features[keep], part.table[keep], part.representation, part.trained_on)


def principal_map(embeddings: Embeddings) -> np.ndarray:
    """Two principal components of standardised embeddings, shape `[checkpoints, 2]`."""
    spread = np.maximum(embeddings.features.std(0), 1e-9)
    return PCA(2, random_state=0).fit_transform((embeddings.features - embeddings.features.mean(0)) / spread)


def _tasks(targets: Sequence[str], hyper_parameters: Sequence[str]) -> Iterator[Task]:
    for target in targets:
        yield Task(target, "pooled")
    for target in (*targets, *hyper_parameters):
        if target != "epoch":
            yield Task(target, "last_epoch")


def _chosen_rows(rows: list[dict[str, Any]], validation: dict[tuple[str, Task], float]) -> list[dict[str, Any]]:
    """For every task the row of the SANE embedding that was best on validation members, under one name."""
    chosen = []
    for task in dict.fromkeys(task for _, task in validation):
        own = {name: score for (name, other), score in validation.items() if other == task}
        learned = [name for name in own if name.startswith(LEARNED) and "+ s(W)" not in name]
        if not learned:
            continue
        best = max(learned, key=lambda name: own[name])
        row = next(row for row in rows if (row["representation"], row["target"], row["subset"]) == (best, *task))
        chosen.append({**row, "representation": CHOSEN, "chosen": best})
    return chosen


def _regression_row(result: ProbeResult, task: Task) -> dict[str, Any]:
    fields = ("representation", "target", "r2", "r2_low", "r2_high", "tau", "scale", "members", "checkpoints")
    return {"subset": task.subset, **{name: getattr(result, name) for name in fields}}


def _category_row(found: Classified, task: Task) -> dict[str, Any]:
    return {
        "subset": task.subset,
        "representation": found.representation,
        "target": found.target,
        **dict.fromkeys(("r2", "r2_low", "r2_high", "tau")),
        "accuracy": found.accuracy,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "chance": found.chance,
    }
