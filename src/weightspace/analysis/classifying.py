"""Probes for properties that are categories, such as the activation."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.analysis.probe import draw_members, require_disjoint
from weightspace.autoencoder.inference import Embeddings
from weightspace.errors import InputError

STRENGTHS = (1e-3, 1e-1, 1e1)
ITERATIONS = 200


class Classified(NamedTuple):
    """How well a category was read from a representation, on members the probe has not seen.

    Attributes:
        accuracy: share of test checkpoints; `low` and `high` its 95 % interval by bootstrap over members.
        chance: share of the most frequent category.
        validation: the accuracy on validation members by which the strength was chosen.
    """

    representation: str
    target: str
    accuracy: float
    low: float
    high: float
    chance: float
    validation: float


def classify(
    train: Embeddings,
    validation: Embeddings,
    test: Embeddings,
    *,
    target: str,
    seed: int = 0,
    allow_overlap: bool = False,
) -> Classified:
    """Fit a logistic probe on training members, choose its strength on validation members, score test members.

    Raises:
        InputError: as `probe`, or a category with one value only.
    """
    require_disjoint(train, validation, test, allow_overlap)
    labels = [part.table[target].astype(str).to_numpy() for part in (train, validation, test)]
    if len(set(labels[0])) < 2:
        raise InputError(f"expected a property that varies, found {target} constant")
    fitted = [_fit(train.features, labels[0], strength) for strength in STRENGTHS]
    scores = [float(model.score(validation.features, labels[1])) for model in fitted]
    best = int(np.argmax(scores))
    right = fitted[best].predict(test.features) == labels[2]
    low, high = _interval(right, test.table["member"].to_numpy(), seed)
    chance = max(float(np.mean(labels[2] == label)) for label in set(labels[2]))
    return Classified(test.representation, target, float(right.mean()), low, high, chance, scores[best])


def _interval(right: np.ndarray, members: np.ndarray, seed: int) -> tuple[float, float]:
    draws, place = draw_members(members, seed)
    counts, hits = np.bincount(place), np.bincount(place, right)
    low, high = np.quantile(draws @ hits / (draws @ counts), [0.025, 0.975])
    return float(low), float(high)


def _fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    with warnings.catch_warnings():
        # A probe that has not converged is a weaker probe, and validation decides between strengths.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(
            features, labels
        )
