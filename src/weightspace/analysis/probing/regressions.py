"""Models that read properties from representations: linear ones, and boosted trees.

All representations are read by the same models; of each kind a few settings are fitted on training members, and
validation members choose. Linear models see bounded features (see `bounding`); to trees it makes no difference.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from weightspace.analysis.probing.bounding import Bound

ProbeModel = Literal["linear", "trees"]
Predict = Callable[[np.ndarray], np.ndarray]
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-4, 6))
LOGISTIC_STRENGTHS = (1e-3, 1e-1, 1e1)
ITERATIONS = 200
# Of 24 leaves as well nothing was gained on validation members (LOG.md, "Trees for everybody").
LEAVES = (3.0, 8.0)
TREES: dict[str, Any] = {
    "max_iter": ITERATIONS,
    "learning_rate": 0.05,
    "min_samples_leaf": 5,
    "max_bins": 63,  # as good as 255 for hundreds of checkpoints, in a third of the time
    "random_state": 0,
}


def fit_regressions(model: ProbeModel, features: np.ndarray, target: np.ndarray) -> dict[float, Predict]:
    """Fitted regressions by their setting: ridge by its strength, or trees by their leaves.

    Ridge regressions of all strengths share the products of the features.
    """
    if model == "trees":
        trees = {leaves: HistGradientBoostingRegressor(max_leaf_nodes=int(leaves), **TREES) for leaves in LEAVES}
        return {leaves: fit_quietly(tree, features, target).predict for leaves, tree in trees.items()}
    ridge = make_pipeline(Bound(), StandardScaler(), Ridge(np.array(RIDGE_STRENGTHS)))
    fit_quietly(ridge, features, np.tile(target[:, None], len(RIDGE_STRENGTHS)))
    return {strength: _column(ridge, column) for column, strength in enumerate(RIDGE_STRENGTHS)}


def _column(ridge: Any, place: int) -> Predict:
    return lambda features: ridge.predict(features)[:, place]


def classifiers(model: ProbeModel) -> Mapping[float, Any]:
    """Unfitted classifiers by their setting: logistic regression by its strength, or trees by their leaves."""
    if model == "trees":
        return {leaves: HistGradientBoostingClassifier(max_leaf_nodes=int(leaves), **TREES) for leaves in LEAVES}
    return {
        strength: make_pipeline(Bound(), StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
        for strength in LOGISTIC_STRENGTHS
    }


def fit_quietly(model: Any, features: np.ndarray, target: np.ndarray) -> Any:
    """Fit a model; one that is ill-conditioned or has not converged is a weaker one, and validation decides.

    On one thread: trees on two, beside other work, wait for each other most of the time.
    """
    with warnings.catch_warnings(), threadpool_limits(1, "openmp"):
        warnings.simplefilter("ignore", LinAlgWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, target)
