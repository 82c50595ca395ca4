"""Predicts properties of a network with intervals, or says that it is unlike the zoo."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import save_file
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

from weightspace.analysis.probing.regressions import bounded
from weightspace.analysis.representations.responses import answer, vector_of
from weightspace.autoencoder.sane import SANE, model_folder
from weightspace.corpus.asking import NOISE
from weightspace.errors import InputError
from weightspace.inputs import config_from, read_object
from weightspace.outputs import write_json
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.weights.files import meta_of
from weightspace.weights.safetensors_files import read_safetensors
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import which_architecture

PREDICTOR_FILE, ARRAYS_FILE = "predictor.json", "predictor.safetensors"
# Before the names of these files, of a predictor that asks networks: a model may have both.
ASKING = "asking-"
ABOUT = ("aggregation", "level", "outlier_limit", "members", "outlier_share", "alike")
ARRAYS = ("slopes", "mean", "spread", "center", "middle", "known", "known_errors")


NEIGHBORS = 20
UNLIKE = "no network of its shapes and types was in the zoo"
LEAST_SHARE, SMALLEST = 0.1, 1e-6


class Neighborhood:
    """Standardised embeddings of training checkpoints, to compare others with."""

    def __init__(self, known: Float[np.ndarray, "known features"]) -> None:
        neighbors = max(1, min(NEIGHBORS, len(known) - 1))
        self._near = NearestNeighbors(n_neighbors=neighbors).fit(known)
        self._outliers = LocalOutlierFactor(n_neighbors=neighbors, novelty=True).fit(known)

    def outlier_factors(self, scaled: Float[np.ndarray, "networks features"]) -> Float[np.ndarray, "networks"]:
        """How much emptier it is around networks than around their neighbours; 1 is usual (Breunig et al., 2000)."""
        return -self._outliers.score_samples(scaled)

    def difficulty(
        self, scaled: Float[np.ndarray, "networks features"], known_errors: Float[np.ndarray, "known"]
    ) -> Float[np.ndarray, "networks"]:
        """How far off predictions are for the nearest known networks; at least a tenth of the average is added."""
        nearest = self._near.kneighbors(scaled, return_distance=False)
        return known_errors[nearest].mean(1) + LEAST_SHARE * known_errors.mean() + SMALLEST


class Interval(NamedTuple):
    """A predicted value, and the interval that holds the true one as often as the predictor's level says."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """0.71 [0.64, 0.77]."""
        if math.isinf(self.high - self.low):
            return f"{self.value:.2f} (too few members were held out for an interval)"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Category(NamedTuple):
    """A predicted category, and those that hold the true one as often as the predictor's level says."""

    value: str
    possible: tuple[str, ...]

    def __str__(self) -> str:
        """Tanh [tanh or relu]."""
        return f"{self.value} [{' or '.join(self.possible) or 'none of those known'}]"


class Prediction(NamedTuple):
    """What is predicted of a network, or why nothing is.

    Attributes:
        intervals: by numeric property; empty if the network is unlike the zoo.
        categories: by property that is a category.
        outlier_factor: local outlier factor among the networks known from training, over what calibration members stay
            below; above 1 is unlike the zoo. Infinite for another architecture.
        reason: why there is no prediction, or nothing.
    """

    intervals: Mapping[str, Interval]
    outlier_factor: float
    reason: str = ""
    categories: Mapping[str, Category] = {}

    def __str__(self) -> str:
        """One line: test accuracy 0.71 [0.64, 0.77]."""
        if self.reason:
            return f"this network is unlike the zoo: no prediction ({self.reason})"
        said = {**self.intervals, **self.categories}
        return ", ".join(f"{name.replace('_', ' ')} {prediction}" for name, prediction in said.items())

    def to_json(self) -> dict[str, Any]:
        """A JSON value with everything."""
        return {
            "intervals": {name: interval._asdict() for name, interval in self.intervals.items()},
            "categories": {name: category._asdict() for name, category in self.categories.items()},
            "outlier_factor": self.outlier_factor,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class PropertyModel:
    """One property that can be predicted.

    Attributes:
        shift: what is predicted for the mean embedding.
        factor: half the width of an interval over how far off predictions are for similar training networks; from
            calibration members. `usual_radius` is the median half width on test members.
        lowest, highest: of what is possible.
        r2, coverage: measured on test members: of the prediction, and the share of true values in their intervals;
            those that would be taken for unlike the zoo are not left out. NaN of intervals without end, and where a
            single checkpoint was tested.
        category: of a property that is a category the value whose presence (1) or absence (0) is told.
    """

    target: str
    shift: float
    factor: float
    usual_radius: float
    lowest: float
    highest: float
    r2: float
    coverage: float
    category: str = ""

    @property
    def name(self) -> str:
        """The property in words; of a category with its value."""
        return self.target.replace("_", " ") + (f" {self.category}" if self.category else "")

    def interval(self, value: float, difficulty: float) -> Interval:
        """An interval around a value, cut to what is possible."""
        if math.isinf(self.factor):
            return Interval(min(max(value, self.lowest), self.highest), -math.inf, math.inf)
        radius = self.factor * difficulty
        return Interval(*(min(max(one, self.lowest), self.highest) for one in (value, value - radius, value + radius)))


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts properties from embeddings of one kind; `fit_predictor` makes one, `examine` and `pretrain` keep one.

    Examples:
        >>> print(Predictor.open("sane").predict(sane, weights))  # doctest: +SKIP
        test accuracy 0.71 [0.64, 0.77]

    Attributes:
        aggregation: which embedding it takes.
        level: the share of true values that intervals should hold.
        properties: what it predicts; `slopes` has a row for each.
        mean, spread: of the bounded embeddings of training checkpoints.
        center, middle: of the embeddings themselves, by which they are bounded (see `Bound`).
        known: standardised embeddings of training checkpoints.
        known_errors: how far off cross-validated predictions of these are, a row for each property.
        outlier_limit: the local outlier factor that calibration members stay below.
        members: how many members it was fitted on, calibrated with and tested on.
        outlier_share: the share of test members' checkpoints that it takes for unlike the zoo.
        ask: how networks are asked, if what they do stands beside the embedding; None if they are not run.
        alike: whether responses are whole; in outline for networks of different depth.
    """

    aggregation: str
    level: float
    properties: Sequence[PropertyModel]
    slopes: Float[np.ndarray, "properties features"]
    mean: Float[np.ndarray, "features"]
    spread: Float[np.ndarray, "features"]
    known: Float[np.ndarray, "checkpoints features"]
    known_errors: Float[np.ndarray, "properties checkpoints"]
    outlier_limit: float
    members: tuple[int, int, int]
    outlier_share: float
    center: Float[np.ndarray, "features"]
    middle: Float[np.ndarray, "features"]
    ask: AskConfig | None = None
    alike: bool = True

    def predict(
        self, sane: SANE, weights: Mapping[str, Tensor], architecture: Architecture | None = None
    ) -> Prediction:
        """What is predicted of one raw network of any architecture; it is run as `architecture`, if that is known."""
        recognized = sane.preparation.recognize(weights)
        if recognized.architecture.id not in sane.preparation.architectures:
            return Prediction({}, math.inf, UNLIKE)
        vector = sane.embed_network(weights, self.aggregation, ask=False).vector
        if self.ask is not None:
            known = runs_as(sane, recognized.weights, architecture)
            answers = answer(recognized.weights, known, self._askers, self.ask)
            vector = torch.cat([vector, vector_of(answers, self.alike)])
        if len(vector) != len(self.mean):  # of a layout that the model knows, but the predictor was not fitted on
            return Prediction({}, math.inf, UNLIKE)
        (prediction,) = self.predict_many(vector.numpy()[None])
        return prediction

    def predict_many(self, features: Float[np.ndarray, "networks features"]) -> list[Prediction]:
        """What is predicted of networks given by their embeddings."""
        scaled = self.standardize(features)
        outlier_factor = (self._surroundings.outlier_factors(scaled) / self.outlier_limit).tolist()
        values = scaled @ self.slopes.T
        difficulties = [self._surroundings.difficulty(scaled, own) for own in self.known_errors]
        return [
            self._prediction(values[row], [own[row] for own in difficulties], strange)
            for row, strange in enumerate(outlier_factor)
        ]

    def standardize(self, features: Float[np.ndarray, "networks features"]) -> Float[np.ndarray, "networks features"]:
        """Embeddings as they are compared: bounded and standardised."""
        return (bounded(features.astype(np.float64), self.center, self.middle) - self.mean) / self.spread

    @cached_property
    def _askers(self) -> dict[str, Asker]:
        return {}

    def _prediction(self, values: np.ndarray, difficulties: Sequence[float], outlier_factor: float) -> Prediction:
        if outlier_factor > 1:
            return Prediction({}, outlier_factor, f"{outlier_factor:.3g} times the outlier that members held out are")
        together = zip(self.properties, values.tolist(), difficulties, strict=True)
        told = [(own, own.interval(own.shift + value, far)) for own, value, far in together]
        intervals = {own.target: interval for own, interval in told if not own.category}
        classes: dict[str, dict[str, Interval]] = {}
        for own, interval in told:
            if own.category:
                classes.setdefault(own.target, {})[own.category] = interval
        categories = {name: _category(indicators) for name, indicators in classes.items()}
        return Prediction(intervals, outlier_factor, categories=categories)

    def describe(self) -> str:
        """How often intervals hold on members that were held out, or why there are none, in a sentence."""
        fitted, calibrated, tested = self.members
        if all(math.isinf(own.factor) for own in self.properties):
            needed = math.ceil(self.level / (1 - self.level) - 1e-9)
            return (
                f"No intervals: {calibrated} members calibrate, and {needed} are needed to vouch for {self.level:.0%}; "
                f"fitted on {fitted} members."
            )
        measured = [own for own in self.properties if not math.isnan(own.coverage)]
        held = ", ".join(f"{own.name} {own.coverage:.0%}" for own in measured)
        checked = f"on checkpoints of {tested} members held out they hold {held}" if held else "unchecked"
        return f"Intervals are for {self.level:.0%} of networks; {checked}.{self.asked}"

    @property
    def asked(self) -> str:
        """What networks were asked with and what it cost, in a sentence; "" if they were not."""
        if self.ask is None:
            return ""
        kind = f"{self.ask.inputs} noise inputs" if self.ask.ask_with == NOISE else f"images of {self.ask.ask_with}"
        return f" Every network was asked with {kind}: {2 * self.ask.inputs} forward passes."

    @cached_property
    def _surroundings(self) -> Neighborhood:
        return Neighborhood(self.known)

    def save(self, folder: Path) -> None:
        """Write `predictor.json` and `predictor.safetensors` into a model's folder.

        Known embeddings, which are most of it, are standardised and only compared with: half precision is enough.
        """
        about = {name: getattr(self, name) for name in ABOUT}
        about["ask"] = asdict(self.ask) if self.ask is not None else None
        before = ASKING if self.ask is not None else ""
        write_json(
            folder / f"{before}{PREDICTOR_FILE}", {**about, "properties": [asdict(own) for own in self.properties]}
        )
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        save_file({**arrays, "known": arrays["known"].astype(np.float16)}, folder / f"{before}{ARRAYS_FILE}")

    @classmethod
    def open(cls, folder: str | Path, *, asking: bool = False) -> "Predictor":
        """The predictor of a model, by its folder or by the name of one that comes with the package.

        Args:
            folder: of the model.
            asking: the one that asks networks what they do.

        Raises:
            InputError: none there, or a damaged one.
        """
        folder, before = Path(model_folder(folder)), ASKING if asking else ""
        try:
            about = read_object(folder / f"{before}{PREDICTOR_FILE}")
            about["ask"] = config_from(AskConfig, about["ask"], str(folder)) if about["ask"] is not None else None
            about["properties"] = [PropertyModel(**_with_infinity(own)) for own in about["properties"]]
            about["members"] = tuple(about["members"])
            about["outlier_limit"] = math.inf if about["outlier_limit"] is None else about["outlier_limit"]
            stored = read_safetensors(folder / f"{before}{ARRAYS_FILE}")
            arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in stored.items()}
            return cls(**about, **{**arrays, "known": arrays["known"].astype(np.float32)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected a predictor ({PREDICTOR_FILE}, {ARRAYS_FILE}) in {folder}, found none: "
                "`weightspace card SANE ZOO` fits one"
            ) from error


def _with_infinity(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: what is not bounded was written as null."""
    unbounded = {"factor": math.inf, "usual_radius": math.inf, "lowest": -math.inf, "highest": math.inf}
    return {name: unbounded.get(name, math.nan) if own is None else own for name, own in value.items()}


def _category(indicators: Mapping[str, Interval]) -> Category:
    """The likeliest value, and all whose presence is within the interval of its indicator."""
    possible = tuple(value for value, interval in indicators.items() if interval.low <= 1 <= interval.high)
    return Category(max(indicators, key=lambda value: indicators[value].value), possible)


def runs_as(sane: SANE, weights: Mapping[str, Tensor], told: Architecture | None = None) -> Architecture:
    """The architecture that a network is run as: as its zoo tells, or see `which_architecture`."""
    given = [told] if told is not None else sane.preparation.given
    return which_architecture(meta_of(weights), given, list(sane.preparation.architectures.values()))
