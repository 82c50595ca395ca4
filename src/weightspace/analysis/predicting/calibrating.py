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
from weightspace.analysis.probing.regressions import RIDGE_STRENGTHS, fit_quietly
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.lineages import lineages_of
from weightspace.zoo.zoo import Zoo

LEVEL = 0.9
AGGREGATIONS = ("readout", "mean")
MOST_KNOWN = 4_096
GROUPS = 5
FEWEST_KNOWN = 10
SMALLEST_SPREAD = 1e-6


def fit_predictor(
    sane: SANE, parts: Sequence[Zoo], targets: Sequence[str] | None = None, *, level: float = LEVEL
) -> Predictor:
    """Fit on training members, calibrate on validation members, check on test members.

    The embedding is the readout where all networks have the same layers, else the mean. Ridge strengths are chosen by
    cross-validation over training members. Intervals are as wide as validation members need, times how far off
    predictions are for the training networks nearest to a network.

    Args:
        sane: a trained model.
        parts: its training members; validation and test members that it has not seen.
        targets: numeric properties; those that do not vary are left out. Without any, accuracy (of test images, else of
            validation images), epoch and generalisation gap, as far as the zoo has them.
        level: the share of true values that intervals should hold.

    Raises:
        InputError: no such property, or validation or test members that the model was trained on.

    Examples:
        >>> predictor = ws.fit_predictor(sane, [train, validation, test])
        >>> predictor.properties[0].target
        'test_accuracy'
    """
    seen = max(len(sane.trained_on(part)) for part in parts[1:])
    if seen:
        raise InputError(f"expected validation and test members that the SANE was not trained on, found {seen}")
    aggregation, embedded = _embed_alike(sane, parts)
    targets = usual_targets(parts[0].properties) if targets is None else targets
    names = [name for name in targets if all(_varies(part, name) for part in embedded)]
    if not names:
        raise InputError(f"expected a numeric property that varies among {', '.join(targets) or TARGETS}, found none")
    if len(embedded[0].features) < FEWEST_KNOWN:
        raise InputError(
            f"expected {FEWEST_KNOWN} training checkpoints for a predictor, found {len(embedded[0].table)}"
        )
    train = embedded[0].features.astype(np.float64)
    mean, spread = train.mean(0), np.maximum(train.std(0), SMALLEST_SPREAD)
    scaled = [(part.features - mean) / spread for part in embedded]
    chosen = np.random.default_rng(0).permutation(len(train))[:MOST_KNOWN]
    # As they are stored, so that a predictor of a folder says what this one says.
    stored = scaled[0][chosen].astype(np.float16).astype(np.float32)
    neighborhood = Neighborhood(stored)
    fitted = [_Task(embedded, scaled, chosen, neighborhood, level).fit(name) for name in names]
    factors = [neighborhood.outlier_factors(own) for own in scaled[1:]]
    outlier_limit = conformal_radius(factors[0], _owners(embedded[1]), level)
    outlier_limit = outlier_limit if math.isfinite(outlier_limit) else float(factors[0].max())
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
    )


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

    def fit(self, name: str) -> _Fitted:
        """A ridge regression of one property with its scores, its slopes, and its known_errors on known networks."""
        values = [part.table[name].to_numpy(np.float64) for part in self.parts]
        has = [np.isfinite(own) for own in values]
        x, y = ([own[keep] for own, keep in zip(these, has, strict=True)] for these in (self.scaled, values))
        owners = [_owners(part)[keep] for part, keep in zip(self.parts, has, strict=True)]
        folds = list(GroupKFold(min(GROUPS, len(set(owners[0])))).split(x[0], y[0], owners[0]))
        search = GridSearchCV(Ridge(), {"alpha": RIDGE_STRENGTHS}, cv=folds, scoring="r2")
        model = fit_quietly(search, x[0], y[0]).best_estimator_
        missed = np.full(len(has[0]), np.nan)
        missed[has[0]] = np.abs(cross_val_predict(clone(model), x[0], y[0], cv=folds) - y[0])
        known_errors = np.nan_to_num(missed, nan=float(np.nanmean(missed)))[self.chosen]
        errors = [np.abs(model.predict(own) - true) for own, true in zip(x[1:], y[1:], strict=True)]
        scales = [self.neighborhood.difficulty(own, known_errors) for own in x[1:]]
        factor = conformal_radius(errors[0] / scales[0], owners[1], self.level)
        lowest, highest = _possible(name)
        predicted = PropertyModel(
            target=name,
            shift=float(model.intercept_),
            factor=factor,
            usual_radius=float(np.median(factor * scales[1])),
            lowest=lowest,
            highest=highest,
            r2=float(r2_score(y[2], model.predict(x[2]))),
            coverage=coverage(errors[1] / scales[1], owners[2], factor),
        )
        return _Fitted(predicted, model.coef_, known_errors)


def _owners(part: Embeddings) -> np.ndarray:
    """Of every checkpoint the lineage: what stands together or falls together."""
    return lineages_of(part.table, None).to_numpy()


def _embed_alike(sane: SANE, parts: Sequence[Zoo]) -> tuple[str, list[Embeddings]]:
    """Embeddings of all parts by the first aggregation that all networks allow, and which that is."""
    for aggregation in AGGREGATIONS[:-1]:
        try:
            embedded = [sane.embed(part, aggregation) for part in parts]
        except InputError:
            continue
        if len({part.features.shape[1] for part in embedded}) == 1:
            return aggregation, embedded
    return AGGREGATIONS[-1], [sane.embed(part, AGGREGATIONS[-1]) for part in parts]


def _possible(name: str) -> tuple[float, float]:
    """Accuracies are shares and epochs are counted; what has no such bounds is not cut."""
    if name.endswith("accuracy"):
        return 0.0, 1.0
    return (0.0, math.inf) if name == "epoch" else (-math.inf, math.inf)


def _varies(part: Embeddings, name: str) -> bool:
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
