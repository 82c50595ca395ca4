"""Fit a predictor on training members, calibrate it on others, check it on yet others.

Intervals hold as often as they say (split conformal prediction over members). Checkpoints of one member are not
independent, members are. A new checkpoint's error is compared with those of calibration members, each of which counts
alike however many checkpoints it has (hierarchical conformal prediction, Lee, Barber and Willett, 2023): for a network
drawn like the calibration members, the interval holds the true value with at least the stated probability, whatever the
model is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict

from weightspace.analysis.config import TARGETS, usual_targets
from weightspace.analysis.predicting.predictor import Neighborhood, Predictor, PropertyModel
from weightspace.analysis.probing.regressions import RIDGE_STRENGTHS, bounded, fit_quietly, middle_of
from weightspace.analysis.representations.catalog import side_by_side
from weightspace.analysis.representations.responses import ask_parts
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.responses.config import AskConfig
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.lineages import LINEAGE, lineages_of
from weightspace.zoo.zoo import Zoo

LEVEL = 0.9
AGGREGATIONS = ("readout", "mean")
MOST_KNOWN = 4_096
GROUPS = 5
FEWEST_KNOWN = 3
MOST_CATEGORIES = 12
SMALLEST_SPREAD = 1e-6


def fit_predictor(
    sane: SANE,
    parts: Sequence[Zoo],
    targets: Sequence[str] | None = None,
    *,
    level: float = LEVEL,
    ask: AskConfig | None = None,
) -> Predictor:
    """Fit on training members, calibrate on validation members, check on test members.

    The embedding is the readout where all networks have the same layers, else the mean. Ridge strengths are chosen by
    cross-validation over training members. Intervals are as wide as validation members need, times how far off
    predictions are for the training networks nearest to a network.

    Args:
        sane: a trained model.
        parts: its training members; validation and test members that it has not seen. Without validation members there
            are no intervals.
        targets: numeric properties, and categories of at most 12 values; those that do not vary are left out. Without
            any, accuracy (of test images, else of validation images), epoch and generalisation gap, as far as the zoo
            has them; all that vary, if it has none of these.
        level: the share of true values that intervals should hold.
        ask: ask networks what they do, which stands beside the embedding then; None asks none.

    Raises:
        InputError: no such property, networks that cannot be asked, or validation or test members that the model was
            trained on.

    Examples:
        >>> predictor = ws.fit_predictor(sane, [train, validation, test])
        >>> predictor.properties[0].target
        'test_accuracy'
    """
    seen = max(len(sane.trained_on(part)) for part in parts[1:])
    if seen:
        raise InputError(f"expected validation and test members that the SANE was not trained on, found {seen}")
    tasks = _tasks(parts, targets)  # before anything is embedded, which takes its time
    aggregation, embedded = _embed_alike(sane, parts)
    embedded, alike = _with_responses(embedded, parts, ask, str(sane.device)) if ask is not None else (embedded, True)
    center, middle = middle_of(embedded[0].features.astype(np.float64))
    within = [bounded(part.features.astype(np.float64), center, middle) for part in embedded]
    train = within[0]
    mean, spread = train.mean(0), np.maximum(train.std(0), SMALLEST_SPREAD)
    scaled = [(part - mean) / spread for part in within]
    chosen = np.random.default_rng(0).permutation(len(train))[:MOST_KNOWN]
    # As they are stored, so that a predictor of a folder says what this one says.
    stored = scaled[0][chosen].astype(np.float16).astype(np.float32)
    neighborhood = Neighborhood(stored)
    task = _Task(embedded, scaled, chosen, neighborhood, level)
    fitted = [task.fit(name, values, category) for name, values, category in tasks]
    factors = [neighborhood.outlier_factors(own) if len(own) else np.empty(0) for own in scaled[1:]]
    outlier_limit = conformal_radius(factors[0], _owners(embedded[1]), level)
    if not math.isfinite(outlier_limit) and len(factors[0]):
        outlier_limit = float(factors[0].max())
    train_members, validation_members, test_members = (len(part.members) for part in parts)
    return Predictor(
        aggregation=aggregation,
        level=level,
        properties=[own.predicted for own in fitted],
        slopes=np.stack([own.slopes for own in fitted]),
        mean=mean,
        spread=spread,
        known=stored,
        known_errors=np.stack([own.known_errors for own in fitted]),
        outlier_limit=outlier_limit,
        members=(train_members, validation_members, test_members),
        outlier_share=float((factors[1] > outlier_limit).mean()),
        center=center,
        middle=middle,
        ask=ask,
        alike=alike,
    )


def _tasks(parts: Sequence[Zoo], targets: Sequence[str] | None) -> "list[Values]":
    """The values of every property that is told: those that vary, as the tables say."""
    train = parts[0]
    if targets is None:
        usual = [name for name in usual_targets(train.properties) if _varies(train, name)]
        targets = usual or [name for name in train.properties if _varies(train, name) or _categories(train, name)]
    there = [name for name in targets if name in train.table]
    tasks = [*_numeric(parts, there), *_categorical(parts, there)]
    if not tasks:
        raise InputError(f"expected a property that varies among {', '.join(targets) or TARGETS}, found none")
    if len(train) < FEWEST_KNOWN:
        raise InputError(f"expected at least {FEWEST_KNOWN} training checkpoints for a predictor, found {len(train)}")
    return tasks


class _Fitted(NamedTuple):
    predicted: PropertyModel
    slopes: Float[np.ndarray, "features"]
    known_errors: Float[np.ndarray, "known"]


class _Task(NamedTuple):
    """What properties are fitted from: embeddings of three parts, standardised, and which of the first are kept."""

    parts: Sequence[Embeddings]
    scaled: Sequence[np.ndarray]
    chosen: np.ndarray
    neighborhood: Neighborhood
    level: float

    def fit(self, name: str, values: Sequence[np.ndarray], category: str) -> _Fitted:
        """A ridge regression of one property with its scores, its slopes, and its known_errors on known networks."""
        has = [np.isfinite(own) for own in values]
        x, y = ([own[keep] for own, keep in zip(these, has, strict=True)] for these in (self.scaled, values))
        owners = [_owners(part)[keep] for part, keep in zip(self.parts, has, strict=True)]
        folds = list(GroupKFold(min(GROUPS, len(set(owners[0])))).split(x[0], y[0], owners[0]))
        # Of a single value there is no R².
        scoring = "r2" if min(len(tested) for _, tested in folds) > 1 else "neg_mean_squared_error"
        search = GridSearchCV(Ridge(), {"alpha": RIDGE_STRENGTHS}, cv=folds, scoring=scoring)
        model = fit_quietly(search, x[0], y[0]).best_estimator_
        missed = np.full(len(has[0]), np.nan)
        missed[has[0]] = np.abs(cross_val_predict(clone(model), x[0], y[0], cv=folds) - y[0])
        known_errors = np.nan_to_num(missed, nan=float(np.nanmean(missed)))[self.chosen]
        asked = [(own, true) if len(own) else (own, np.empty(0)) for own, true in zip(x[1:], y[1:], strict=True)]
        errors = [np.abs(model.predict(own) - true) if len(own) else true for own, true in asked]
        scales = [self.neighborhood.difficulty(own, known_errors) if len(own) else true for own, true in asked]
        factor = conformal_radius(errors[0] / scales[0], owners[1], self.level)
        lowest, highest = _possible(name)
        predicted = PropertyModel(
            target=name,
            shift=float(model.intercept_),
            factor=factor,
            usual_radius=float(np.median(factor * scales[1])) if len(scales[1]) else math.inf,
            lowest=lowest,
            highest=highest,
            r2=float(r2_score(y[2], model.predict(x[2]))) if len(y[2]) > 1 else math.nan,
            coverage=_held(errors[1] / scales[1], owners[2], factor),
            category=category,
        )
        return _Fitted(predicted, model.coef_, known_errors)


Values = tuple[str, list[np.ndarray], str]


def _numeric(parts: Sequence[Zoo], names: Sequence[str]) -> list[Values]:
    """Of every numeric property that varies its values in all parts."""
    few = [part for part in parts[1:] if part.table["member"].nunique() < GROUPS]
    chosen = [
        name for name in names if all(_varies(part, name) for part in parts if not any(part is one for one in few))
    ]
    return [(name, [part.table[name].to_numpy(np.float64, na_value=np.nan) for part in parts], "") for name in chosen]


def _categorical(parts: Sequence[Zoo], names: Sequence[str]) -> list[Values]:
    """Of every value of properties that are categories whether a checkpoint has it (1) or not (0), in all parts."""
    return [
        (name, [_indicator(part, name, value) for part in parts], value)
        for name in names
        for value in _categories(parts[0], name)
    ]


def _indicator(part: Zoo, name: str, value: str) -> np.ndarray:
    column = part.table[name]
    return np.where(column.notna(), (column.astype(str) == value).astype(np.float64), np.nan)


def _categories(part: Zoo, name: str) -> list[str]:
    """The values of a property that is a category, if they are more than one and not too many to tell apart."""
    column = part.table[name]
    if column.dtype.kind in "fiub" or name in ("member", LINEAGE):
        return []
    values = sorted(column.dropna().astype(str).unique())
    return values if 2 <= len(values) <= min(MOST_CATEGORIES, len(column) // 2) else []


def _held(errors: np.ndarray, owners: np.ndarray, factor: float) -> float:
    """The coverage of intervals that have an end; NaN of others."""
    return coverage(errors, owners, factor) if math.isfinite(factor) and len(errors) else math.nan


def _owners(part: Embeddings) -> np.ndarray:
    """Of every checkpoint the lineage: what stands together or falls together."""
    return lineages_of(part.table, None).to_numpy()


def _embed_alike(sane: SANE, parts: Sequence[Zoo]) -> tuple[str, list[Embeddings]]:
    """Embeddings of all parts by the first aggregation that all networks allow, and which that is."""
    for aggregation in AGGREGATIONS[:-1]:
        try:
            embedded = [_embedded(sane, part, parts[0], aggregation) for part in parts]
        except InputError:
            continue
        if len({part.features.shape[1] for part in embedded}) == 1:
            return aggregation, embedded
    return AGGREGATIONS[-1], [_embedded(sane, part, parts[0], AGGREGATIONS[-1]) for part in parts]


def _embedded(sane: SANE, part: Zoo, whole: Zoo, aggregation: str) -> Embeddings:
    """Embeddings of a part that may have no members."""
    if len(part):
        return sane.embed(part, aggregation, ask=False)
    some = sane.embed(whole, aggregation, ask=False)
    return Embeddings(some.features[:0], part.table, some.representation)


def _with_responses(
    embedded: Sequence[Embeddings], parts: Sequence[Zoo], ask: AskConfig, device: str
) -> tuple[list[Embeddings], bool]:
    """Embeddings beside what networks do, and whether all are equally deep; a part may have no members."""
    asked, alike = ask_parts([part for part in parts if len(part)], ask, device)
    answers, width = iter(asked), asked[0].features.shape[1]
    nobody = np.empty((0, width), np.float32)
    whole = [next(answers) if len(part) else Embeddings(nobody, part.table, asked[0].representation) for part in parts]
    return [side_by_side(*pair) for pair in zip(embedded, whole, strict=True)], alike


def _possible(name: str) -> tuple[float, float]:
    """Accuracies are shares and epochs are counted; what has no such bounds is not cut."""
    if name.endswith("accuracy"):
        return 0.0, 1.0
    return (0.0, math.inf) if name == "epoch" else (-math.inf, math.inf)


def _varies(part: Zoo, name: str) -> bool:
    """Whether it is known of two members and has two values."""
    if name not in part.table or part.table[name].dtype.kind not in "fiub":
        return False
    known = part.table[np.isfinite(part.table[name].to_numpy(np.float64, na_value=np.nan))]
    return known[name].nunique() > 1 and known["member"].nunique() > 1


def conformal_radius(errors: Float[np.ndarray, "checkpoints"], owners: np.ndarray, level: float) -> float:
    """How far to go on either side of a prediction; infinite where there are too few members for the level.

    Args:
        errors: sizes of the errors on members that the model was not fitted on.
        owners: the member of each; `m` members can vouch for levels up to m / (m + 1).
        level: the share of new networks whose true value should lie within.
    """
    _, place, counts = np.unique(owners, return_inverse=True, return_counts=True)
    weights = 1 / (counts[place] * (len(counts) + 1))
    order = np.argsort(errors, kind="stable")
    reached = np.cumsum(weights[order]) >= level - 1e-9
    return float(errors[order][np.argmax(reached)]) if reached.any() else math.inf


def coverage(errors: Float[np.ndarray, "checkpoints"], owners: np.ndarray, radius: float) -> float:
    """The share of members' checkpoints whose error is within the radius, each member counting alike."""
    _, place, counts = np.unique(owners, return_inverse=True, return_counts=True)
    return float(np.sum((errors <= radius) / counts[place]) / len(counts))
