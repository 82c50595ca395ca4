"""Do two networks answer alike, and where in them do they part?"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from weightspace.corpus.asking import make_asker
from weightspace.images import Images
from weightspace.responses.asking import agreement
from weightspace.responses.config import AskConfig
from weightspace.supervised import score
from weightspace.weights.files import StoredWeights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.recorded_images import images_for_networks

# So many inputs of each kind are followed through both networks.
WATCHED = 16


class Parting(NamedTuple):
    """How far two networks' units are apart at one place: 0 is equal, about 1.4 is nothing in common."""

    place: str
    distance: float


class Answers(NamedTuple):
    """What two networks of one architecture answer.

    Attributes:
        asked_with: what inputs, in words.
        agreement: share of inputs that both answer alike; see `agreement`.
        partings: along the computation, how far their units are apart.
        accuracies: of both on test images, where there are any.
    """

    asked_with: str
    agreement: float
    partings: list[Parting]
    accuracies: tuple[float, float] | None = None

    def __str__(self) -> str:
        """In a sentence."""
        scored = ""
        if self.accuracies is not None:
            scored = f"; test accuracy {self.accuracies[0]:.1%} and {self.accuracies[1]:.1%}"
        return f"they answer {self.agreement:.1%} of {self.asked_with} alike{scored}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        return {**self._asdict(), "partings": [parting._asdict() for parting in self.partings]}


def compare_answers(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    architecture: Architecture,
    *,
    ask: AskConfig | None = None,
    data: str = "",
    test_images: int = 2_000,
    names: Sequence[str] = (),
) -> Answers:
    """Ask two networks the same.

    Args:
        first, second: of the architecture.
        architecture: that may be built.
        ask: what they are asked with; noise without it.
        data: images whose test part both are scored on.
        test_images: the first so many of them.
        names: of the networks: images are divided as the zoos of members were grown with.

    Raises:
        InputError: networks that cannot be run, or images of another shape.
    """
    asker = make_asker(architecture, ask or AskConfig())
    one, two = (_fitted(weights, architecture) for weights in (first, second))
    responses = [asker.ask(weights, keep=True) for weights in (one, two)]
    count = min(WATCHED, asker.at_once)
    here, there = (asker.watch(weights, count) for weights in (one, two))
    partings = [Parting(place, _distance(values, there[place])) for place, values in here.items()]
    accuracies = _accuracies((one, two), architecture, data, test_images, names) if data else None
    return Answers(str(asker.questions), agreement(*responses), partings, accuracies)


def _fitted(weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
    whole = weights.read() if isinstance(weights, StoredWeights) else weights
    return fit_weights(whole, architecture).weights


def _distance(first: Tensor, second: Tensor) -> float:
    """Of activations, around their means over inputs, relative to the spread of both."""
    one, two = (values.double() - values.double().mean(0) for values in (first, second))
    size = float((one.square().sum() + two.square().sum()) / 2)
    return float(((one - two).square().sum() / size).sqrt()) if size > 0 else 0.0


def _accuracies(
    networks: tuple[Weights, Weights], architecture: Architecture, data: str, count: int, names: Sequence[str]
) -> tuple[float, float]:
    images = images_for_networks(names, data, architecture).test
    module = architecture.build().eval()

    def accuracy(weights: Weights) -> float:
        module.load_state_dict(weights)
        return float(score(module, Images(images.inputs[:count], images.labels[:count])).accuracy[0])

    return accuracy(networks[0]), accuracy(networks[1])
