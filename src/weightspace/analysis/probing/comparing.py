"""Representations beside each other: the same probes on all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pandas.api.types import is_numeric_dtype
from sklearn.decomposition import PCA

from weightspace.analysis.probing.classifying import Classified, classify, pool_classified
from weightspace.analysis.probing.probe import ProbeResult, pool_folds, probe_fold, r2_difference
from weightspace.analysis.probing.regressions import ProbeModel
from weightspace.analysis.representations.catalog import Represent
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.zoo import Zoo

CHOSEN = Representation("SANE (chosen on validation)", "sane")
BASELINE = "s(W)"
Result = ProbeResult | Classified


class Fold(NamedTuple):
    """Training, validation and test members, and the representations that may be tested on these test members."""

    parts: Sequence[Zoo]
    representations: Sequence[Represent]


class Task(NamedTuple):
    """What is probed for, and on which checkpoints: `pooled` over epochs, or each member's `last_epoch`."""

    target: str
    subset: str


class ProbeRow(NamedTuple):
    """How well one representation tells one property, as a row of a table.

    Attributes:
        representation: its label; source: see `Representation`.
        target, subset: see `Task`.
        r2, r2_low, r2_high, tau, scale, members, checkpoints: see `ProbeResult`; None for categories.
        accuracy, accuracy_low, accuracy_high, chance: of categories (see `Classified`); None for numbers.
        over_statistics, over_statistics_low, over_statistics_high: R² minus that of s(W), where it is compared, with
            the interval of a paired bootstrap.
        chosen: of the row that is chosen on validation members, which representations that were.
    """

    representation: str
    target: str
    subset: str
    source: str
    r2: float | None = None
    r2_low: float | None = None
    r2_high: float | None = None
    tau: float | None = None
    scale: str | None = None
    members: int | None = None
    checkpoints: int | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    chance: float | None = None
    over_statistics: float | None = None
    over_statistics_low: float | None = None
    over_statistics_high: float | None = None
    chosen: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields that say something."""
        always = ("r2", "r2_low", "r2_high", "tau")
        return {name: value for name, value in self._asdict().items() if value is not None or name in always}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ProbeRow":
        """The inverse of `to_json`."""
        return cls(**{name: value[name] for name in cls._fields if name in value})


class ReadingComparison(NamedTuple):
    """Table rows, and the probes behind those that are regressions, by label and task."""

    rows: list[ProbeRow]
    probes: dict[tuple[str, Task], ProbeResult]


Place = tuple[Representation, Task]


def compare_representations(
    folds: Sequence[Fold],
    targets: Sequence[str],
    *,
    hyper_parameters: Sequence[str] = (),
    model: ProbeModel = "linear",
    seed: int = 0,
    allow_overlap: bool = False,
) -> ReadingComparison:
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
        A row for each representation and target. A further one, "SANE (chosen on validation)", takes in every fold the
        SANE embedding whose probe was best on validation members.

    Examples:
        >>> folds = [Fold(zoo.split(0.7, 0.15, 0.15, seed=0), choose_representations())]  # doctest: +SKIP
        >>> compare_representations(folds, ["test_accuracy"]).rows  # doctest: +SKIP
    """
    properties = folds[0].parts[0].properties
    unknown = [name for name in (*targets, *hyper_parameters) if name not in properties]
    if unknown:
        raise InputError(f"expected a property among {', '.join(properties)}, found {', '.join(unknown)}")
    tasks = [*_tasks(targets, hyper_parameters)]
    options: dict[str, Any] = {"model": model, "seed": seed}
    results: dict[Place, list[Result]] = {}
    with progress_bar("probing", sum(len(fold.representations) for fold in folds)) as advance:
        for fold in folds:
            for represent in fold.representations:
                parts = _represented(fold.parts, represent)
                parts = [part.forgetting() for part in parts] if allow_overlap else parts
                for task in tasks:
                    result = _probe(parts, task, task.target in hyper_parameters, options)
                    results.setdefault((result.representation, task), []).append(result)
                advance()
    chosen = _choose(results, tasks)
    scored = {place: _pool(folded, seed) for place, folded in results.items()}
    alone = next((place[1].target for place, one in scored.items() if len(one.owners) < 2), None)
    if alone is not None:
        raise InputError(
            f"expected at least 2 test checkpoints to probe for {alone}, found 1: the SANE was trained on all other "
            "members; without --sane each is left out once"
        )
    scored |= {(CHOSEN, task): _pool(folded, seed) for task, folded in chosen.items()}
    names = {
        task: ", ".join(dict.fromkeys(one.representation.label for one in folded)) for task, folded in chosen.items()
    }
    rows = [_row(what, task, scored, seed) for what, task in scored]
    rows = [
        row._replace(chosen=names[Task(row.target, row.subset)]) if row.representation == CHOSEN.label else row
        for row in rows
    ]
    regressions = {(what.label, task): one for (what, task), one in scored.items() if isinstance(one, ProbeResult)}
    return ReadingComparison(rows, regressions)


def _represented(zoos: Sequence[Zoo], represent: Represent) -> list[Embeddings]:
    """Embeddings of three parts, of which the second may have no members."""
    parts = list(represent([zoo for zoo in zoos if len(zoo)]))
    if len(parts) == len(zoos):
        return parts
    train = parts[0]
    nobody = Embeddings(train.features[:0], train.table[:0], train.representation)
    return [train, nobody, parts[-1]]


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
    train, validation, test = [part.last_epochs() for part in parts] if task.subset == "last_epoch" else parts
    if is_numeric_dtype(train.table[task.target]):
        return probe_fold((train, validation, test), target=task.target, logarithmic=drawn, **options)
    return classify(train, validation, test, target=task.target, **options)


def _pool(results: Sequence[Result], seed: int) -> Result:
    if isinstance(results[0], Classified):
        return pool_classified([result for result in results if isinstance(result, Classified)], seed)
    return pool_folds([result for result in results if isinstance(result, ProbeResult)], seed)


def _choose(results: Mapping[Place, Sequence[Result]], tasks: Sequence[Task]) -> dict[Task, list[Result]]:
    """For every task and fold the SANE embedding that was best on validation members."""
    learned = [what for what in dict.fromkeys(what for what, _ in results) if what.source == "sane"]
    if not learned:
        return {}
    by_fold = {task: zip(*(results[what, task] for what in learned), strict=True) for task in tasks}
    return {task: [max(folded, key=_validation) for folded in folds] for task, folds in by_fold.items()}


def _validation(result: Result) -> float:
    return result.validation if isinstance(result, Classified) else result.validation_r2


def _row(what: Representation, task: Task, scored: Mapping[Place, Result], seed: int) -> ProbeRow:
    result = scored[what, task]
    row = ProbeRow(what.label, task.target, task.subset, what.source)
    if isinstance(result, Classified):
        return row._replace(
            accuracy=result.accuracy, accuracy_low=result.low, accuracy_high=result.high, chance=result.chance
        )
    fields = ("r2", "r2_low", "r2_high", "tau", "scale", "members", "checkpoints")
    row = row._replace(**{field: getattr(result, field) for field in fields})
    base = scored.get((Representation(BASELINE), task))
    if not isinstance(base, ProbeResult) or what.label == BASELINE:
        return row
    value, low, high = r2_difference(result, base, seed)
    return row._replace(over_statistics=value, over_statistics_low=low, over_statistics_high=high)
