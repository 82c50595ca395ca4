"""Bound features before a linear probe: a few networks are far from everyone, and a line would follow them."""

import math

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

# Of a normal distribution the middle half is so many standard deviations wide.
MIDDLE_HALF = 1.349
# Of 1 to 6 spreads and none the best on validation members (`docs/tables/reading-bounds-*.json`).
WIDTH = 2.0


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
