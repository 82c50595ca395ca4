"""Probes for properties that are categories, such as the activation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.base import clone

from weightspace.analysis.probing.probe import FEWEST_MEMBERS, draw_members, require_disjoint
from weightspace.analysis.probing.regressions import ProbeModel, classifiers, fit_quietly
from weightspace.errors import InputError
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.lineages import lineages_of


class Classified(NamedTuple):
    """How well a category was read from a representation, on members the probe has not seen.

    Attributes:
        accuracy: share of test checkpoints; `low` and `high` its 95 % interval by bootstrap over members.
        chance: share of the most frequent category.
        validation: the accuracy on validation members by which the setting was chosen.
        right, labels, owners: whether each test checkpoint was guessed right, what it is, and its member.
    """

    representation: Representation
    target: str
    accuracy: float
    low: float
    high: float
    chance: float
    validation: float
    right: np.ndarray
    labels: np.ndarray
    owners: np.ndarray


def classify(
    train: Embeddings,
    validation: Embeddings,
    test: Embeddings,
    *,
    target: str,
    model: ProbeModel = "linear",
    seed: int = 0,
) -> Classified:
    """Fit a classifier on training members, choose its setting on validation members, score test members.

    Checkpoints without a value are left out. `model` is `linear` (logistic regression) or `trees` (gradient boosting).

    Raises:
        InputError: as `probe`, or a category with one value only.
    """
    require_disjoint(train, validation, test)
    known = [part.table[target].notna().to_numpy() for part in (train, validation, test)]
    x, y = [], []
    for part, keep in zip((train, validation, test), known, strict=True):
        x.append(part.features[keep])
        y.append(part.table[target][keep].astype(str).to_numpy())
    if not (len(y[0]) and len(y[2])) or (len(validation.table) and not len(y[1])):
        raise InputError(f"expected values of the property {target} in every part, found none in one")
    if len(set(y[0])) < 2:
        raise InputError(f"expected a property that varies, found {target} constant")
    fitted = [fit_quietly(setting, x[0], y[0]) for setting in classifiers(model).values()]
    if len(y[1]):
        scores = [float(classifier.score(x[1], y[1])) for classifier in fitted]
    else:
        owners = lineages_of(train.table, None).to_numpy()[known[0]]
        scores = [_left_out_score(setting, x[0], y[0], owners) for setting in classifiers(model).values()]
    best = int(np.argmax(scores))
    right = fitted[best].predict(x[2]) == y[2]
    owners = lineages_of(test.table, None).to_numpy()[known[2]]
    return _scored(Classified(test.representation, target, 0, 0, 0, 0, scores[best], right, y[2], owners), seed)


def _left_out_score(classifier: object, features: np.ndarray, labels: np.ndarray, owners: np.ndarray) -> float:
    """Accuracy on training members, each guessed by a classifier that was fitted on the others."""
    right = []
    for owner in dict.fromkeys(owners):
        out = owners == owner
        if len(set(labels[~out])) > 1:
            right.append(
                fit_quietly(clone(classifier), features[~out], labels[~out]).predict(features[out]) == labels[out]
            )
    return float(np.concatenate(right).mean()) if right else 0.0


def pool_classified(results: Sequence[Classified], seed: int = 0) -> Classified:
    """One result of the same probe on several folds; see `pool_folds`."""
    right, labels, owners = (
        np.concatenate([getattr(result, name) for result in results]) for name in ("right", "labels", "owners")
    )
    validation = float(np.mean([result.validation for result in results]))
    return _scored(results[0]._replace(right=right, labels=labels, owners=owners, validation=validation), seed)


def _scored(result: Classified, seed: int) -> Classified:
    draws, owner = draw_members(result.owners, seed)
    counts, hits = np.bincount(owner), np.bincount(owner, result.right)
    low, high = np.quantile(draws @ hits / (draws @ counts), [0.025, 0.975])
    if len(counts) < FEWEST_MEMBERS:
        low, high = np.nan, np.nan
    _, frequent = np.unique(result.labels, return_counts=True)
    chance = float(frequent.max() / len(result.labels))
    return result._replace(accuracy=float(result.right.mean()), low=float(low), high=float(high), chance=chance)
