"""The networks known from training, around a new one: is it like them?"""

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

NEIGHBORS = 20
LEAST_SHARE, SMALLEST = 0.1, 1e-6


class Surroundings:
    """Standardised embeddings of training checkpoints, to compare others with."""

    def __init__(self, known: Float[np.ndarray, "known features"]) -> None:
        neighbors = min(NEIGHBORS, len(known) - 1)
        self._near = NearestNeighbors(n_neighbors=neighbors).fit(known)
        self._outliers = LocalOutlierFactor(n_neighbors=neighbors, novelty=True).fit(known)

    def outlier_factors(self, scaled: Float[np.ndarray, "networks features"]) -> Float[np.ndarray, "networks"]:
        """How much emptier it is around networks than around their neighbours; 1 is usual (Breunig et al., 2000)."""
        return -self._outliers.score_samples(scaled)

    def difficulty(
        self, scaled: Float[np.ndarray, "networks features"], misses: Float[np.ndarray, "known"]
    ) -> Float[np.ndarray, "networks"]:
        """How far off predictions are for the nearest known networks; at least a tenth of the average is added."""
        nearest = self._near.kneighbors(scaled, return_distance=False)
        return misses[nearest].mean(1) + LEAST_SHARE * misses.mean() + SMALLEST
