"""The end of a training from its beginning: what a member's first checkpoints tell about its last one.

All that is known of the checkpoints is read alike: of the last one seen, and how it differs from the first. Several
representations make a forecast each, and these are mixed (stacking; Wolpert, 1992). Settings and mixtures are chosen by
cross-validation over training members, validation members calibrate the intervals, test members check them.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from torch import Tensor

from weightspace.analysis.config import ForecastConfig
from weightspace.analysis.predicting.calibrating import conformal_radius
from weightspace.analysis.predicting.predictor import Interval
from weightspace.analysis.probing.probe import ProbeResult, pool_folds, r2_difference, scored, unscored
from weightspace.analysis.probing.regressions import Predict, ProbeModel, fit_regressions
from weightspace.analysis.representations.catalog import represent
from weightspace.corpus.asking import cannot_run, used_architectures
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.responses.config import AskConfig
from weightspace.weights.files import StoredWeights, meta_of
from weightspace.zoo.addressing import open_networks
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.fitting import fit_weights, fits, which_architecture
from weightspace.zoo.splitting import split_any
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo

SO_FAR, WEIGHTS, ASKED = "accuracy so far", "s(W)", "r(W)"
GROUPS = 5


class ForecastRow(NamedTuple):
    """How well one representation of the first checkpoints tells the end, as a row of a table.

    Attributes:
        representation: its label, or several beside each other.
        seen: how many checkpoints of every member were seen; epoch: of the last of these.
        r2, r2_low, r2_high, tau: on test members, with the 95 % interval of a bootstrap over members.
        coverage: the share of test members whose end is in its interval; width: the median of the intervals' widths.
            NaN where too few members calibrate.
        members: how many were tested.
        over_obvious, over_obvious_low, over_obvious_high: R² minus that of the accuracy so far, paired; None where it
            is not known, or is what the row is about.
    """

    representation: str
    seen: int
    epoch: int
    r2: float
    r2_low: float
    r2_high: float
    tau: float
    coverage: float
    width: float
    members: int
    over_obvious: float | None = None
    over_obvious_low: float | None = None
    over_obvious_high: float | None = None


class Beginnings(NamedTuple):
    """Of every member what is known of its first checkpoints, in one or several representations, and how it ends."""

    features: list[Float[np.ndarray, "members features"]]
    ends: Float[np.ndarray, "members"]
    members: np.ndarray

    def some(self, keep: np.ndarray) -> "Beginnings":
        """Those of some members."""
        return Beginnings([rows[keep] for rows in self.features], self.ends[keep], self.members[keep])


class Forecaster(NamedTuple):
    """Lines, or trees, one for each representation, how they are mixed, and how far off forecasts may be."""

    predictors: list[Predict]
    mixture: LinearRegression
    radius: float

    def predict(self, beginnings: Beginnings) -> Float[np.ndarray, "members"]:
        """How members end."""
        pairs = zip(self.predictors, beginnings.features, strict=True)
        return self.mixture.predict(np.stack([predict(rows) for predict, rows in pairs], axis=1))


def forecast(zoo: Zoo, config: ForecastConfig | None = None, ask: AskConfig | None = None) -> list[ForecastRow]:
    """How well the first checkpoints of a training tell its end, for every number of these.

    Args:
        zoo: with several checkpoints a member, of networks that have the same layers.
        config: what is forecast, and how members are divided.
        ask: how networks are asked; where they cannot be run, responses are left out.

    Returns:
        Rows by the number of checkpoints seen: the *accuracy so far*, which is the obvious thing to know, layer
        statistics, responses, and these beside each other. Every member is tested once.

    Raises:
        InputError: fewer than two checkpoints a member, or no such property.

    Examples:
        >>> rows = ws.forecast(zoo)
        >>> rows[0].seen, rows[0].representation
        (1, 'accuracy so far')
    """
    config = config or ForecastConfig()
    known, epochs = represent_checkpoints(zoo, config, ask), shared_epochs(zoo)
    folds = [
        split_any(zoo, config.split, seed=config.seed, fold=fold).parts for fold in range(int(1 / config.split[2]))
    ]
    labels, rows = combinations_of(known), []
    with progress_bar("forecasting", len(labels) * (len(epochs) - 1)) as advance:
        for seen in range(1, len(epochs)):
            results: dict[str, ProbeResult] = {}
            for label in labels:
                beginnings = begin([known[name] for name in label], epochs[:seen], epochs[-1], config.target)
                tested = [_test(beginnings, parts, config) for parts in folds]
                name = " + ".join(label)
                results[name] = pool_folds([one.result for one in tested], config.seed)
                rows.append(_row(name, epochs[:seen], results, tested, config.seed))
                advance()
    return rows


class Forecast(NamedTuple):
    """How one training is going to end.

    Attributes:
        interval: of the property's last value; endless where too few members calibrate.
        target: the property; level: the share of ends that such intervals hold.
        epochs: of the checkpoints seen; last: of the end.
        read: what was read of them; not_asked: why they were not asked what they do, if they were not.
    """

    interval: Interval
    target: str
    level: float
    epochs: list[int]
    last: int
    read: str
    not_asked: str = ""

    def __str__(self) -> str:
        """One line: test accuracy at epoch 8: 0.71 [0.64, 0.77]."""
        seen = ", ".join(map(str, self.epochs))
        what = self.target.replace("_", " ")
        line = f"{what} at epoch {self.last}: {self.interval}; read {self.read} of epochs {seen}"
        return line + (f"\ntold by weights alone: {self.not_asked}" if self.not_asked else "")

    def to_json(self) -> dict[str, Any]:
        """A JSON value with everything."""
        return {**self._asdict(), "interval": self.interval._asdict()}


def forecast_member(
    zoo: Zoo,
    checkpoints: Sequence[Mapping[str, Tensor]],
    config: ForecastConfig | None = None,
    ask: AskConfig | None = None,
    epochs: Sequence[int] = (),
) -> Forecast:
    """How a training that is no member of a zoo is going to end, by its first checkpoints.

    Args:
        zoo: of trainings by the same recipe: as many epochs, the same images.
        checkpoints: weights, in the order of training, of an architecture of the zoo.
        config: what is forecast; validation members calibrate, all others are fitted on.
        ask: how networks are asked, where they can be run.
        epochs: that the checkpoints are of; by default the zoo's first ones.

    Raises:
        InputError: no checkpoints, more than the zoo has before its end, or of other networks or epochs.
    """
    config, shared = config or ForecastConfig(), shared_epochs(zoo)
    seen = list(epochs) or shared[: len(checkpoints)]
    if len(seen) != len(checkpoints) or not checkpoints or not set(seen) <= set(shared[:-1]):
        before, given = (", ".join(map(str, some)) or "none" for some in (shared[:-1], seen))
        raise InputError(f"expected checkpoints of some of the epochs {before}, found {len(checkpoints)} of {given}")
    known = represent_checkpoints(zoo, config, ask)
    architecture, not_asked = _architecture_of(zoo, checkpoints[0])
    names = [name for name in (WEIGHTS, ASKED) if name in known and (name == WEIGHTS or not not_asked)]
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        alone = _as_zoo(zoo, architecture, checkpoints, seen, Path(folder))
        asked = [represent([alone], name, ask=ask)[0] for name in names]
        rows = begin(asked, seen, seen[-1], "epoch").features
    beginnings = begin([known[name] for name in names], seen, shared[-1], config.target)
    held_out = split_any(zoo, config.split, seed=config.seed).parts[1].members
    calibrating = np.isin(beginnings.members.astype(str), list(held_out))
    parts = beginnings.some(~calibrating), beginnings.some(calibrating)
    forecaster = fit_forecaster(*parts, config.model, config.level)
    (value,) = forecaster.predict(Beginnings(rows, np.zeros(1), np.zeros(1))).tolist()
    interval = Interval(value, value - forecaster.radius, value + forecaster.radius)
    return Forecast(interval, config.target, config.level, seen, shared[-1], " + ".join(names), not_asked)


def forecast_files(
    zoo: Zoo,
    checkpoints: Sequence[str],
    config: ForecastConfig | None = None,
    ask: AskConfig | None = None,
    epochs: Sequence[int] = (),
) -> Forecast:
    """`forecast_member` of checkpoints in files, by their names; what `weightspace forecast` does with them."""
    networks = [weights for _, weights in open_networks(checkpoints)]
    return forecast_member(zoo, networks, config, ask, epochs)


def _architecture_of(zoo: Zoo, weights: Mapping[str, Tensor]) -> tuple[Architecture, str]:
    """What checkpoints are of, and why they cannot be asked, if they cannot."""
    used, meta = used_architectures(zoo), meta_of(weights)
    reason = cannot_run(used)
    try:
        return which_architecture(meta, zoo.trusted, used), reason
    except InputError as refusal:
        fitting = [known for known in used if fits(meta, known)]
        if not fitting:
            raise
        return fitting[0], str(refusal)  # whose shapes are right, which is all that weights alone need


def _as_zoo(
    zoo: Zoo,
    architecture: Architecture,
    checkpoints: Sequence[Mapping[str, Tensor]],
    epochs: Sequence[int],
    folder: Path,
) -> Zoo:
    """Checkpoints of one training as a zoo of its own."""
    writer = ZooWriter(folder)
    for weights, epoch in zip(checkpoints, epochs, strict=True):
        whole = weights.read() if isinstance(weights, StoredWeights) else weights
        stack = {name: tensor[None] for name, tensor in fit_weights(whole, architecture).weights.items()}
        writer.add(architecture, stack, pd.DataFrame({"member": ["asked"], "epoch": [epoch]}))
    writer.finish({})
    return Zoo.open(folder, zoo.trusted)


def represent_checkpoints(zoo: Zoo, config: ForecastConfig, ask: AskConfig | None) -> dict[str, Embeddings]:
    """What is known of every checkpoint: accuracies, layer statistics, responses."""
    if config.target not in zoo.properties:
        raise InputError(f"expected a property among {', '.join(zoo.properties)}, found {config.target}")
    measured = config.so_far if config.so_far in zoo.properties else config.target
    accuracies = zoo.table[measured].to_numpy(np.float64, na_value=np.nan)[:, None]
    known = {SO_FAR: Embeddings(accuracies, zoo.table, Representation(SO_FAR))} if np.isfinite(accuracies).all() else {}
    known[WEIGHTS] = represent([zoo], WEIGHTS)[0]
    if not cannot_run(used_architectures(zoo)):
        known[ASKED] = represent([zoo], ASKED, ask=ask)[0]
    return known


def combinations_of(known: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What is compared: each alone, and responses beside the others."""
    beside = [(name, ASKED) for name in (WEIGHTS, SO_FAR) if ASKED in known and name in known]
    return [*((name,) for name in known), *beside]


def shared_epochs(zoo: Zoo) -> list[int]:
    """The epochs of which every member has a checkpoint.

    Raises:
        InputError: fewer than two.
    """
    kept = [set(epochs) for _, epochs in zoo.table.groupby("member")["epoch"]]
    shared = sorted(set.intersection(*kept)) if kept else []
    if len(shared) < 2:
        raise InputError(f"expected at least 2 epochs that every member has a checkpoint of, found {len(shared)}")
    return [int(epoch) for epoch in shared]


def begin(known: Sequence[Embeddings], seen: Sequence[int], last: int, target: str) -> Beginnings:
    """What is known of every member's checkpoints of some epochs: of the last one, and minus that of the first."""
    features = []
    for embeddings in known:
        newest, oldest = (embeddings.features[_rows(embeddings.table, epoch)] for epoch in (seen[-1], seen[0]))
        features.append(np.concatenate([newest, newest - oldest], axis=1) if len(seen) > 1 else newest)
    table = known[0].table.iloc[_rows(known[0].table, last)]
    return Beginnings(features, table[target].to_numpy(np.float64), table["member"].to_numpy())


def _rows(table: Any, epoch: int) -> np.ndarray:
    """Where the checkpoints of an epoch stand, in the order of their members."""
    places = np.flatnonzero((table["epoch"] == epoch).to_numpy())
    return places[np.argsort(table["member"].to_numpy()[places], kind="stable")]


def fit_forecaster(train: Beginnings, calibration: Beginnings, model: ProbeModel, level: float) -> Forecaster:
    """Fit on training members; how far off forecasts for calibration members are makes the intervals."""
    fitted = [_fit(rows, train.ends, model) for rows in train.features]
    mixture = LinearRegression(positive=True).fit(np.stack([guessed for _, guessed in fitted], axis=1), train.ends)
    forecaster = Forecaster([predict for predict, _ in fitted], mixture, np.inf)
    errors = np.abs(forecaster.predict(calibration) - calibration.ends)
    return forecaster._replace(radius=conformal_radius(errors, calibration.members, level))


def _fit(features: np.ndarray, ends: np.ndarray, model: ProbeModel) -> tuple[Predict, np.ndarray]:
    """The best setting's predictor, and what it guessed of every member without having seen it."""
    guessed: dict[float, np.ndarray] = {}
    for kept, left in KFold(min(GROUPS, len(ends)), shuffle=True, random_state=0).split(features):
        for setting, predict in fit_regressions(model, features[kept], ends[kept]).items():
            guessed.setdefault(setting, np.empty(len(ends)))[left] = predict(features[left])
    best = max(guessed, key=lambda setting: r2_score(ends, guessed[setting]))
    return fit_regressions(model, features, ends)[best], guessed[best]


class _Tested(NamedTuple):
    """Forecasts for the test members of one fold, and the radius of their intervals."""

    result: ProbeResult
    radius: float


def _test(beginnings: Beginnings, parts: Sequence[Zoo], config: ForecastConfig) -> _Tested:
    names = beginnings.members.astype(str)
    train, calibration, test = (beginnings.some(np.isin(names, list(part.members))) for part in parts)
    forecaster = fit_forecaster(train, calibration, config.model, config.level)
    result = unscored(Representation("forecast"), config.target, forecaster.predict(test), test.ends, test.members)
    return _Tested(scored(result, config.seed), forecaster.radius)


def _row(
    name: str, seen: Sequence[int], results: Mapping[str, ProbeResult], tested: Sequence[_Tested], seed: int
) -> ForecastRow:
    result = results[name]
    held = [np.abs(one.result.true - one.result.predicted) <= one.radius for one in tested]
    bounded = all(np.isfinite(one.radius) for one in tested)
    row = ForecastRow(
        representation=name,
        seen=len(seen),
        epoch=seen[-1],
        r2=result.r2,
        r2_low=result.r2_low,
        r2_high=result.r2_high,
        tau=result.tau,
        coverage=float(np.concatenate(held).mean()) if bounded else float("nan"),
        width=float(np.median([2 * one.radius for one in tested])) if bounded else float("nan"),
        members=result.members,
    )
    if name == SO_FAR or SO_FAR not in results:
        return row
    over = r2_difference(result, results[SO_FAR], seed)
    return row._replace(over_obvious=over.value, over_obvious_low=over.low, over_obvious_high=over.high)
