"""Representations beside each other: the same probes on all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pandas.api.types import is_numeric_dtype
from sklearn.decomposition import PCA

from weightspace.analysis.probing.classifying import Classified, classify, pool_classified
from weightspace.analysis.probing.probe import ProbeResult, pool_folds, probe, subtract
from weightspace.analysis.probing.regressions import ProbeModel
from weightspace.analysis.representations.catalog import LEARNED, Represent
from weightspace.autoencoder.inference import Embeddings
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.zoo.zoo import Zoo

CHOSEN = "SANE (chosen on validation)"
BEATEN = "s(W)"
Result = ProbeResult | Classified


class Fold(NamedTuple):
    """Training, validation and test members, and the representations that may be tested on these test members."""

    parts: Sequence[Zoo]
    representations: Sequence[Represent]


class Task(NamedTuple):
    """What is probed for, and on which checkpoints: `pooled` over epochs, or each member's `last_epoch`."""

    target: str
    subset: str


class Comparison(NamedTuple):
    """Table rows, and the probes behind those that are regressions."""

    rows: list[dict[str, Any]]
    probes: dict[tuple[str, Task], ProbeResult]


def compare_representations(
    folds: Sequence[Fold],
    targets: Sequence[str],
    *,
    hyper_parameters: Sequence[str] = (),
    model: ProbeModel = "linear",
    seed: int = 0,
    allow_overlap: bool = False,
) -> Comparison:
    """Probe every representation for every target.

    Args:
        folds: splits of a zoo, each with its representations (see `choose_representations`) in the same order. Of
            several folds the test predictions are scored together.
        targets: numeric properties, probed over all epochs and on last epochs alone (`epoch` only over all).
        hyper_parameters: properties that do not change over training, probed on last epochs; those that are no
            numbers are classified.
        model: see `probe`.
        seed: of the bootstrap.
        allow_overlap: probe all the same where a representation was trained on test members.

    Returns:
        Rows with `representation`, `target`, `subset`, `r2`, `r2_low`, `r2_high`, `tau`, and for categories
        `accuracy`, `accuracy_low`, `accuracy_high` and `chance` in their place. Where s(W) is compared,
        `over_statistics`, `..._low` and `..._high` are R² minus that of s(W), with the interval of a paired bootstrap.
        A further row, "SANE (chosen on validation)", takes in every fold the SANE embedding whose probe was best on
        validation members.
    """
    known = folds[0].parts[0]
    unknown = [name for name in (*targets, *hyper_parameters) if name not in known.properties]
    if unknown:
        raise InputError(f"expected a property among {', '.join(known.properties)}, found {', '.join(unknown)}")
    tasks = [*_tasks(targets, hyper_parameters)]
    options: dict[str, Any] = {"model": model, "seed": seed}
    found: dict[tuple[str, Task], list[Result]] = {}
    with progress_bar("probing", sum(len(fold.representations) for fold in folds)) as advance:
        for fold in folds:
            for represent in fold.representations:
                parts = represent(fold.parts)
                parts = [part.forgetting() for part in parts] if allow_overlap else parts
                for task in tasks:
                    result = _probe(parts, task, task.target in hyper_parameters, options)
                    found.setdefault((result.representation, task), []).append(result)
                advance()
    chosen = _choose(found, tasks)
    scored = {place: _pool(own, seed) for place, own in found.items()}
    scored |= {(CHOSEN, task): _pool(own, seed) for task, own in chosen.items()}
    names = {task: ", ".join(dict.fromkeys(result.representation for result in own)) for task, own in chosen.items()}
    rows = [_row(name, task, scored, seed) for name, task in scored]
    for row in rows:
        if row["representation"] == CHOSEN:
            row["chosen"] = names[Task(row["target"], row["subset"])]
    return Comparison(rows, {place: own for place, own in scored.items() if isinstance(own, ProbeResult)})


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


def _probe(parts: Sequence[Embeddings], task: Task, drawn: bool, options: Mapping[str, Any]) -> Result:
    """One probe on one fold; `drawn` hyper-parameters may be predicted as logarithms."""
    train, validation, test = [last_epoch(part) for part in parts] if task.subset == "last_epoch" else parts
    if is_numeric_dtype(train.table[task.target]):
        return probe(train, validation, test, target=task.target, logarithmic=drawn, **options)
    return classify(train, validation, test, target=task.target, **options)


def _pool(results: Sequence[Result], seed: int) -> Result:
    if isinstance(results[0], Classified):
        return pool_classified([own for own in results if isinstance(own, Classified)], seed)
    return pool_folds([own for own in results if isinstance(own, ProbeResult)], seed)


def _choose(found: Mapping[tuple[str, Task], Sequence[Result]], tasks: Sequence[Task]) -> dict[Task, list[Result]]:
    """For every task and fold the SANE embedding that was best on validation members."""
    names = [name for name in dict.fromkeys(name for name, _ in found) if name.startswith(LEARNED)]
    names = [name for name in names if "+ s(W)" not in name]
    if not names:
        return {}
    by_fold = {task: zip(*(found[name, task] for name in names), strict=True) for task in tasks}
    return {task: [max(results, key=_validation) for results in folds] for task, folds in by_fold.items()}


def _validation(result: Result) -> float:
    return result.validation if isinstance(result, Classified) else result.validation_r2


def _row(name: str, task: Task, scored: Mapping[tuple[str, Task], Result], seed: int) -> dict[str, Any]:
    result = scored[name, task]
    row: dict[str, Any] = {"representation": name, "target": task.target, "subset": task.subset}
    if isinstance(result, Classified):
        accuracy = {"accuracy": result.accuracy, "accuracy_low": result.low, "accuracy_high": result.high}
        return {**row, **dict.fromkeys(("r2", "r2_low", "r2_high", "tau")), **accuracy, "chance": result.chance}
    fields = ("r2", "r2_low", "r2_high", "tau", "scale", "members", "checkpoints")
    row |= {field: getattr(result, field) for field in fields}
    base = scored.get((BEATEN, task))
    if isinstance(base, ProbeResult) and name != BEATEN:
        difference = subtract(result, base, seed)
        row |= {"over_statistics": difference.value}
        row |= {"over_statistics_low": difference.low, "over_statistics_high": difference.high}
    return row
