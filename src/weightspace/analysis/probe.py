"""Linear probes: how much of a property can be read from a representation.

Paper, section 4.1: a ridge regression from the embedding to the property, scored by R² on test members.
Deviations: features are standardised; the intercept is not penalised; the ridge strength is chosen on
validation members for every representation alike; intervals come from a bootstrap over test members, since
epochs of one member are not independent.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgWarning
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.autoencoder.inference import Embeddings
from weightspace.errors import InputError
from weightspace.randomness import derive_seed

STRENGTHS = tuple(10.0**power for power in range(-4, 6))
BOOTSTRAPS = 1_000


class ProbeResult(NamedTuple):
    """How well a property was read from a representation, on members the probe has not seen.

    Attributes:
        r2: coefficient of determination on test members; `r2_low` and `r2_high` its 95 % interval.
        tau: Kendall's rank correlation.
        strength: the ridge strength chosen on validation members.
        members, checkpoints: how many of the test part were scored.
        predicted, true: the test values.
    """

    representation: str
    target: str
    r2: float
    r2_low: float
    r2_high: float
    tau: float
    strength: float
    members: int
    checkpoints: int
    predicted: Float[np.ndarray, "checkpoints"]
    true: Float[np.ndarray, "checkpoints"]

    def __str__(self) -> str:
        """One line, as a table would have it."""
        return (
            f"{self.representation}: {self.target} R² {self.r2:.3f} [{self.r2_low:.3f}, {self.r2_high:.3f}], "
            f"tau {self.tau:.3f} ({self.members} test members)"
        )


def probe(
    train: Embeddings,
    validation: Embeddings,
    test: Embeddings,
    *,
    target: str,
    seed: int = 0,
    allow_overlap: bool = False,
) -> ProbeResult:
    """Fit a ridge probe on training members, choose its strength on validation members, score test members.

    Args:
        train: one representation of the members the probe is fitted on.
        validation: the same of the members that choose the ridge strength.
        test: the same of the members that are scored; a zoo is split by member.
        target: a numeric column of their tables; checkpoints without a value are left out.
        seed: of the bootstrap.
        allow_overlap: score test members the representation was trained on all the same.

    Raises:
        InputError: an unknown or constant target, members in more than one part, or test members that the
            representation was trained on.
    """
    _require_disjoint(train, validation, test, allow_overlap)
    parts = [_features_and_target(part, target) for part in (train, validation, test)]
    (x_train, y_train, _), (x_validation, y_validation, _), (x_test, y_test, members) = parts
    if np.ptp(y_train) == 0 or np.ptp(y_test) == 0:
        raise InputError(f"expected a property that varies, found {target} constant")
    fitted = {strength: _fit(x_train, y_train, strength) for strength in STRENGTHS}
    scores = {strength: r2_score(y_validation, model.predict(x_validation)) for strength, model in fitted.items()}
    strength = max(scores, key=lambda strength: scores[strength])
    predicted = fitted[strength].predict(x_test)
    low, high = bootstrap_r2(y_test, predicted, members, seed)
    return ProbeResult(
        representation=test.representation,
        target=target,
        r2=float(r2_score(y_test, predicted)),
        r2_low=low,
        r2_high=high,
        tau=float(kendalltau(y_test, predicted).statistic),
        strength=strength,
        members=len(set(members)),
        checkpoints=len(y_test),
        predicted=predicted,
        true=y_test,
    )


def bootstrap_r2(
    true: Float[np.ndarray, "n"], predicted: Float[np.ndarray, "n"], members: np.ndarray, seed: int
) -> tuple[float, float]:
    """The 95 % interval of R² when whole members are drawn with replacement."""
    names, place = np.unique(members, return_inverse=True)
    columns = np.stack([np.ones_like(true), true, true**2, (true - predicted) ** 2])
    sums = np.stack([np.bincount(place, column, minlength=len(names)) for column in columns])
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAPS)
    count, total, squares, errors = draws @ sums.T[:, :1], draws @ sums[1], draws @ sums[2], draws @ sums[3]
    spread = squares - total**2 / count[:, 0]
    r2 = 1 - errors / np.where(spread > 0, spread, np.nan)
    low, high = np.nanquantile(r2, [0.025, 0.975])
    return float(low), float(high)


def _fit(features: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n"], strength: float) -> Pipeline:
    with warnings.catch_warnings():
        # Weak strengths are ill-conditioned on wide features; validation decides whether they are of use.
        warnings.simplefilter("ignore", LinAlgWarning)
        return make_pipeline(StandardScaler(), Ridge(strength)).fit(features, target)


def _features_and_target(
    part: Embeddings, target: str
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n"], np.ndarray]:
    if target not in part.table.columns:
        raise InputError(f"expected a property among {', '.join(part.table.columns)}, found '{target}'")
    values = part.table[target]
    if values.dtype.kind not in "fiub":
        raise InputError(f"expected numbers in the property {target}, found {values.dtype}")
    known = values.notna().to_numpy()
    if not known.any():
        raise InputError(f"expected values of the property {target}, found none")
    members = part.table["member"].to_numpy()
    return part.features[known].astype(np.float64), values.to_numpy(np.float64)[known], members[known]


def _require_disjoint(train: Embeddings, validation: Embeddings, test: Embeddings, allow_overlap: bool) -> None:
    parts = [set(part.table["member"]) for part in (train, validation, test)]
    shared = (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])
    if shared:
        raise InputError(f"expected every member in one part only, found {len(shared)} members in several")
    seen = parts[2] & test.trained_on
    if seen and not allow_overlap:
        raise InputError(
            f"expected test members that {test.representation} was not trained on, found {len(seen)} of "
            f"{len(parts[2])} among its training members"
        )
