"""What a model's predictors say of networks by name, and which of them speaks of which."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from weightspace.analysis.predicting.predictor import ASKING, PREDICTOR_FILE, Prediction, Predictor, runs_as
from weightspace.autoencoder.sane import BOX, SANE, model_folder, open_for
from weightspace.corpus.asking import require_runnable
from weightspace.errors import InputError
from weightspace.zoo.addressing import architecture_of, naming, open_networks
from weightspace.zoo.architecture import Architecture


class Predictors(NamedTuple):
    """A model's predictors: of weights alone, and, if it has one, the one that asks networks as well."""

    alone: Predictor
    asking: Predictor | None = None

    @classmethod
    def open(cls, folder: Path) -> "Predictors":
        """Those in a model's folder."""
        has = (Path(model_folder(folder)) / f"{ASKING}{PREDICTOR_FILE}").is_file()
        return cls(Predictor.open(folder), Predictor.open(folder, asking=True) if has else None)

    def choose(
        self, sane: SANE, weights: Mapping[str, Tensor], architecture: Architecture | None = None
    ) -> "tuple[Predictor, str]":
        """Which of them tells a network, and why not the one that asks, if it is not."""
        if self.asking is None:
            return self.alone, ""
        recognized = sane.preparation.recognize(weights)
        if recognized.architecture.id not in sane.preparation.architectures:
            return self.alone, ""  # which says that it is unlike the zoo
        try:
            require_runnable(runs_as(sane, recognized.weights, architecture))
        except InputError as refusal:
            return self.alone, str(refusal)
        return self.asking, ""


class NetworkPredictions(NamedTuple):
    """What is said of networks by name, one after the other.

    Attributes:
        networks: the predictions.
        left_out: which of a folder cannot be read; told_by: the predictors that spoke so far.
        not_asked: why networks were not asked, by their names.
    """

    networks: Iterator[tuple[str, Prediction]]
    left_out: dict[str, str]
    told_by: list[Predictor]
    not_asked: dict[str, str]

    def about(self) -> dict[str, Any]:
        """What holds for all predictions."""
        asked = next((one.asked.strip() for one in self.told_by if one.ask is not None), "")
        level = self.told_by[0].level if self.told_by else None
        return {"level": level, "asked": asked, "left_out": self.left_out, "not_asked": self.not_asked}

    def closing(self, predictions: Sequence[Prediction]) -> list[str]:
        """What is to be said after them: what was left out, how often intervals hold, and why nobody was asked."""
        lines = [f"left out: {why}" for why in self.left_out.values()]
        if any(prediction.intervals or prediction.categories for prediction in predictions):
            lines += [predictor.describe() for predictor in self.told_by]
        reasons = dict.fromkeys(self.not_asked.values())
        return lines + [f"told by weights alone: {reason}" for reason in reasons]


def predict_networks(
    model: Path, names: Sequence[str], *, device: str = "auto", given: Sequence[Architecture] = ()
) -> NetworkPredictions:
    """What the predictor in a model's folder says of networks, embedded on a device; refusals name the network.

    Networks of no architecture that the model knows must be of one that is `given`, if there is any.

    Raises:
        InputError: no networks, no model, no predictor, or a network that cannot be embedded.
    """
    if not names:
        raise InputError(f"expected a trained SANE and networks to predict properties of, found {model} alone")
    sane = open_for(model, names, device, given)
    if model.parent == BOX and not (model / PREDICTOR_FILE).is_file():
        raise InputError(f"expected a model with a predictor, found {model.name}, which has none: small-cnns has one")
    predictors = Predictors.open(model)
    told = NetworkPredictions(iter(()), {}, [], {})

    def predict() -> Iterator[tuple[str, Prediction]]:
        for name, weights in open_networks(names, told.left_out):
            with naming(name):
                architecture = architecture_of(name)
                predictor, reason = predictors.choose(sane, weights, architecture)
                if reason:
                    told.not_asked[name] = reason
                if predictor not in told.told_by:
                    told.told_by.append(predictor)
                yield name, predictor.predict(sane, weights, architecture)

    return told._replace(networks=predict())
