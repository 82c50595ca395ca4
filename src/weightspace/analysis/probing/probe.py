"""Probes: how much of a property can be read from a representation.

Paper, section 4.1: a ridge regression from the embedding to the property, scored by R² on test members.
Deviations: features are bounded (see `bounding`) and standardised; the intercept is not penalised; the ridge strength
is chosen on validation members for every representation alike; intervals come from a bootstrap over test members, since
epochs of one member are not independent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau
from sklearn.metrics import r2_score

from weightspace.analysis.probing.regressions import ProbeModel, fit_regressions
from weightspace.errors import InputError
from weightspace.randomness import derive_seed
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.lineages import lineages_of

BOOTSTRAPS = 1_000
LOG_SPAN = 5.0
FEWEST_MEMBERS = 5


class ProbeResult(NamedTuple):
    """How well a property was read from a representation, on members the probe has not seen.

    Attributes:
        r2: coefficient of determination on test members; `r2_low` and `r2_high` its 95 % interval.
        tau: Kendall's rank correlation.
        setting: what was chosen on validation members, where the R² was `validation_r2`: the ridge strength, or
            the leaves of a tree; of several folds the median and the mean.
        scale: `log10` where the property was predicted on a logarithmic scale, else `linear`.
        members, checkpoints: how many of the test part were scored.
        predicted, true, owners: the test values, and the member of each.
    """

    representation: Representation
    target: str
    r2: float
    r2_low: float
    r2_high: float
    tau: float
    setting: float
    validation_r2: float
    scale: str
    members: int
    checkpoints: int
    predicted: Float[np.ndarray, "checkpoints"]
    true: Float[np.ndarray, "checkpoints"]
    owners: np.ndarray

    def __str__(self) -> str:
        """One line, as a table would have it."""
        return (
            f"{self.representation.label}: {self.target} R² {self.r2:.3f} [{self.r2_low:.3f}, {self.r2_high:.3f}], "
            f"tau {self.tau:.3f} ({self.members} test members)"
        )


def probe(
    train: Embeddings,
    validation: Embeddings,
    test: Embeddings,
    *,
    target: str,
    model: ProbeModel = "linear",
    logarithmic: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Fit a probe on training members, choose its strength on validation members, score test members.

    Args:
        train: one representation of the members the probe is fitted on.
        validation: the same of the members that choose the setting; if there are none, training members that are left
            out in turn choose it.
        test: the same of the members that are scored; a zoo is split by member.
        target: a numeric column of their tables; checkpoints without a finite value are left out.
        model: `linear` (ridge regression, the paper's) or `trees` (gradient boosting).
        logarithmic: predict the logarithm of a positive property that spans more than a factor of 5, as learning
            rates do; other properties are predicted as they are.
        seed: of the bootstrap.

    Raises:
        InputError: an unknown or constant target, members in more than one part, or test members that the
            representation was trained on (see `Embeddings.forgetting`).

    Examples:
        >>> import pandas as pd
        >>> def part(members):
        ...     table = pd.DataFrame({"member": members, "epoch": 1, "size": [float(ord(name)) for name in members]})
        ...     return Embeddings(table[["size"]].to_numpy(), table, Representation("size"))
        >>> round(probe(part(list("adgjmp")), part(list("behk")), part(list("cfiln")), target="size").r2, 2)
        1.0
    """
    return _probe((train, validation, test), 2, target, model, logarithmic, seed)


def probe_fold(
    parts: Sequence[Embeddings], *, target: str, model: ProbeModel = "linear", logarithmic: bool = False, seed: int = 0
) -> ProbeResult:
    """`probe` of one fold of several that are scored together (`pool_folds`): one test checkpoint will do."""
    return _probe(parts, 1, target, model, logarithmic, seed)


def _probe(
    embedded: Sequence[Embeddings], least: int, target: str, model: ProbeModel, logarithmic: bool, seed: int
) -> ProbeResult:
    train, validation, test = embedded
    require_disjoint(train, validation, test)
    parts = [_features_and_target(part, target) for part in (train, validation, test)]
    known, smallest = parts[0][1], np.concatenate([y for _, y, _ in parts]).min()
    scale = "log10" if logarithmic and smallest > 0 and known.max() > LOG_SPAN * known.min() else "linear"
    if scale == "log10":
        parts = [(x, np.log10(y), owners) for x, y, owners in parts]
    (x_train, y_train, trained), (x_validation, y_validation, _), (x_test, y_test, owners) = parts
    if len(y_train) < 2 or (len(validation.table) and len(y_validation) < 2) or len(y_test) < least:
        counts = f"{len(y_train)}, {len(y_validation)} and {len(y_test)}"
        raise InputError(f"expected at least 2 checkpoints in every part to probe for {target}, found {counts}")
    if np.ptp(y_train) == 0 or (least > 1 and np.ptp(y_test) == 0):
        raise InputError(f"expected a property that varies, found {target} constant")
    fitted = fit_regressions(model, x_train, y_train)
    if len(y_validation):
        scores = {setting: r2_score(y_validation, predict(x_validation)) for setting, predict in fitted.items()}
    else:
        scores = _left_out_scores(model, x_train, y_train, trained)
    setting = max(scores, key=lambda setting: scores[setting])
    predicted = np.asarray(fitted[setting](x_test), np.float64)
    result = unscored(test.representation, target, predicted, y_test, owners)
    return scored(result._replace(setting=setting, validation_r2=float(scores[setting]), scale=scale), seed)


def unscored(
    what: Representation, target: str, predicted: np.ndarray, true: np.ndarray, owners: np.ndarray
) -> ProbeResult:
    """Predictions of a property for checkpoints of members, before `scored` has scored them."""
    nan = float("nan")
    return ProbeResult(what, target, nan, nan, nan, nan, nan, nan, "linear", 0, 0, predicted, true, owners)


def scored(result: ProbeResult, seed: int) -> ProbeResult:
    """The same with the scores of its predictions; `seed` is the bootstrap's."""
    true, predicted, owners = result.true, result.predicted, result.owners
    low, high = bootstrap_r2(true, predicted, owners, seed)
    return result._replace(
        r2=_r2(true, predicted),
        r2_low=low,
        r2_high=high,
        tau=_tau(true, predicted),
        members=len(set(owners)),
        checkpoints=len(true),
    )


def _left_out_scores(
    model: ProbeModel, features: np.ndarray, target: np.ndarray, owners: np.ndarray
) -> dict[float, float]:
    """R² of every setting on training members, each predicted by a probe that was fitted on the others; of two members
    nothing can be left out, and the middle setting is taken.
    """
    if len(set(owners)) < 3:
        settings = sorted(fit_regressions(model, features, target))
        return {settings[len(settings) // 2]: float("nan")}
    predicted: dict[float, np.ndarray] = {}
    for owner in dict.fromkeys(owners):
        out = owners == owner
        for setting, predict in fit_regressions(model, features[~out], target[~out]).items():
            predicted.setdefault(setting, np.empty(len(target)))[out] = predict(features[out])
    return {setting: float(r2_score(target, values)) for setting, values in predicted.items()}


def _r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """NaN of a single value, which has no variance."""
    return float(r2_score(true, predicted)) if len(true) > 1 else float("nan")


def _tau(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(kendalltau(true, predicted).statistic) if len(true) > 1 else float("nan")


def pool_folds(results: Sequence[ProbeResult], seed: int = 0) -> ProbeResult:
    """One result of the same probe on several folds: all predictions together, each by a probe that had not seen it.

    A member that several folds tested counts once for each; the bootstrap draws it as a whole.
    """
    if len(results) == 1:
        return results[0]
    true, predicted, owners = (
        np.concatenate([getattr(result, name) for result in results]) for name in ("true", "predicted", "owners")
    )
    together = results[0]._replace(
        setting=float(np.median([result.setting for result in results])),
        validation_r2=float(np.mean([result.validation_r2 for result in results])),
        predicted=predicted,
        true=true,
        owners=owners,
    )
    return scored(together, seed)


class Difference(NamedTuple):
    """R² of one representation minus that of another on the same test members, with its 95 % interval."""

    value: float
    low: float
    high: float


def r2_difference(first: ProbeResult, second: ProbeResult, seed: int = 0) -> Difference:
    """How much more the first representation tells than the second: a paired bootstrap over members.

    Both are scored on the same draws, so that what makes members hard for both cancels.

    Raises:
        InputError: results of other checkpoints or of another property.
    """
    same = len(first.true) == len(second.true) and bool((first.owners == second.owners).all())
    if not same or not np.allclose(first.true, second.true):
        raise InputError(f"expected two results of the same checkpoints, found {first} and {second}")
    drawn, base = (_drawn_r2(result.true, result.predicted, result.owners, seed) for result in (first, second))
    low, high = np.nanquantile(drawn - base, [0.025, 0.975]) if len(drawn) else (float("nan"), float("nan"))
    return Difference(first.r2 - second.r2, float(low), float(high))


def bootstrap_r2(
    true: Float[np.ndarray, "n"], predicted: Float[np.ndarray, "n"], members: np.ndarray, seed: int
) -> tuple[float, float]:
    """The 95 % interval of R² when whole members are drawn with replacement; NaN for fewer than 5 members."""
    drawn = _drawn_r2(true, predicted, members, seed)
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _drawn_r2(
    true: Float[np.ndarray, "n"], predicted: Float[np.ndarray, "n"], members: np.ndarray, seed: int
) -> Float[np.ndarray, "draws"]:
    """R² of every bootstrap draw; none for fewer than 5 members."""
    draws, place = draw_members(members, seed)
    if draws.shape[1] < FEWEST_MEMBERS:
        return np.empty(0)
    centered = true - true.mean()
    columns = (np.ones_like(true), centered, centered**2, (true - predicted) ** 2)
    count, total, squares, errors = (draws @ np.bincount(place, column) for column in columns)
    spread = squares - total**2 / count
    return 1 - errors / np.where(spread > 1e-9 * squares.max(), spread, np.nan)


def draw_members(members: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap draws of members: how often each is drawn `[draws, members]`, and each row's member."""
    names, place = np.unique(members, return_inverse=True)
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    return generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=BOOTSTRAPS), place


def _features_and_target(
    part: Embeddings, target: str
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n"], np.ndarray]:
    if target not in part.table.columns:
        raise InputError(f"expected a property among {', '.join(part.table.columns)}, found '{target}'")
    values = part.table[target]
    if values.dtype.kind not in "fiub":
        raise InputError(f"expected numbers in the property {target}, found {values.dtype}")
    known = np.isfinite(values.to_numpy(np.float64, na_value=np.nan))
    if not known.any() and len(part.table):
        raise InputError(f"expected values of the property {target}, found none")
    members = lineages_of(part.table, None).to_numpy()  # what shares weights is no independent witness
    return part.features[known].astype(np.float64), values.to_numpy(np.float64)[known], members[known]


def require_disjoint(train: Embeddings, validation: Embeddings, test: Embeddings) -> None:
    """Raise `InputError` if members are in several parts, or if test members were trained on."""
    parts = [set(part.table["member"]) for part in (train, validation, test)]
    shared = (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])
    if shared:
        raise InputError(f"expected every member in one part only, found {len(shared)} members in several")
    seen = parts[2] & test.trained_on
    if seen:
        raise InputError(
            f"expected test members that {test.representation.label} was not trained on, found {len(seen)} of "
            f"{len(parts[2])} among its training members"
        )
