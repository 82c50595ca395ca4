"""Models that read properties from representations: linear ones, and boosted trees.

All representations are read by the same models; of each kind a few settings are fitted on training members, and
validation members choose. Linear models see bounded features (a few networks are far from everyone, and a line would
follow them); to trees it makes no difference.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgWarning
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

ProbeModel = Literal["linear", "trees"]
Predict = Callable[[np.ndarray], np.ndarray]
# Of a normal distribution the middle half is so many standard deviations wide.
MIDDLE_HALF = 1.349
# Of 1 to 6 spreads and none the best on validation members (`docs/tables/reading-bounds-*.json`).
WIDTH = 2.0
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


class Bound(TransformerMixin, BaseEstimator):
    """Centre features on the median, divide them by the spread of the middle half, and bound them smoothly (tanh).

    Medians and spreads are those of the rows it is fitted on. What lies far off ends at `width` spreads. A feature
    whose middle half is constant is divided by its standard deviation instead.

    Args:
        width: in standard deviations of a normal distribution with the same middle half; infinite for no bound.

    Examples:
        >>> Bound(width=2.0).fit_transform(np.array([[-1.0], [0.0], [1.0], [1e6]])).max() <= 2
        True
    """

    def __init__(self, width: float = WIDTH) -> None:
        self.width = width

    def fit(self, features: Float[np.ndarray, "rows features"], target: object = None) -> "Bound":
        """Take medians and spreads; `target` is not looked at."""
        self.center_, self.spread_ = middle_of(features)
        return self

    def transform(self, features: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        """Bounded features."""
        return bounded(features, self.center_, self.spread_, self.width)


def middle_of(features: Float[np.ndarray, "rows features"]) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and the standard deviations of normal distributions with the same middle halves."""
    low, center, high = np.quantile(features, [0.25, 0.5, 0.75], axis=0)
    spread, deviation = (high - low) / MIDDLE_HALF, features.std(0)
    spread = np.where(spread > 1e-6 * deviation, spread, deviation)
    return center, np.where(spread > 0, spread, 1.0)


def bounded(
    features: Float[np.ndarray, "rows features"],
    center: Float[np.ndarray, "features"],
    spread: Float[np.ndarray, "features"],
    width: float = WIDTH,
) -> Float[np.ndarray, "rows features"]:
    """Features in spreads from their centre, bounded smoothly at a width."""
    scaled = (features - center) / spread
    return width * np.tanh(scaled / width) if math.isfinite(width) else scaled
