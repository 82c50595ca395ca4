"""Intervals that hold as often as they say: split conformal prediction over members.

Checkpoints of one member are not independent, members are. A new checkpoint's error is compared with those of
calibration members, each of which counts alike however many checkpoints it has (hierarchical conformal prediction,
Lee, Barber and Willett, 2023): for a network drawn like the calibration members, the interval holds the true value
with at least the stated probability, whatever the model is.
"""

import math

import numpy as np
from jaxtyping import Float


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
