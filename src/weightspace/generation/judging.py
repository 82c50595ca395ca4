"""Judge merged networks: by labelled validation images or, without any, by how far they answer as their parts do."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weightspace.images import Images, ImageSet
from weightspace.responses.asking import Asker, Responses, agreement
from weightspace.supervised import predict, score_outputs

SMALLEST = 1e-12


class Score(NamedTuple):
    """How good a network is.

    Attributes:
        accuracy, loss: on validation images (the loss in nats); None without images.
        test_accuracy, test_loss: on test images, which nothing is chosen by; None without images.
        agreement: share of inputs that it answers as its parts do, the mean over parts; None with images.
    """

    accuracy: float | None = None
    loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    agreement: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """What networks are chosen by, higher is better: accuracy, then loss; or agreement alone."""
        if self.accuracy is not None and self.loss is not None:
            return self.accuracy, -self.loss
        return self.agreement or 0.0, 0.0


class Judge:
    """Scores networks of one architecture.

    Args:
        module: of that architecture.
        asker: of it; without images it asks.
        parts: the networks that are merged.
        images: whose validation part judges; test images are scored beside it.
        count: so many images of both parts.
    """

    def __init__(
        self,
        module: nn.Module,
        asker: Asker,
        parts: Sequence[Mapping[str, Tensor]],
        images: ImageSet | None,
        count: int,
    ) -> None:
        self._module, self._asker = module.eval(), asker
        self._images = [_first(part, count) for part in (images.validation, images.test)] if images is not None else []
        self._answers = [] if images is not None else [asker.ask(part, keep=True) for part in parts]

    def score(self, weights: Mapping[str, Tensor]) -> Score:
        """The score of one network."""
        if not self._images:
            return self._agreeing(self._asker.ask(weights, keep=True))
        self._module.load_state_dict(weights)
        return self._scored([predict(self._module, part.inputs) for part in self._images])

    def score_ensemble(self, networks: Sequence[Mapping[str, Tensor]]) -> Score:
        """The score of networks that vote: the mean of their probabilities."""
        if not self._images:
            first, scores = self._answers[0], self._answers[0].scores
            returned = tuple(_vote([answers.returned[number] for answers in self._answers], scores) for number in (0,))
            return self._agreeing(first._replace(returned=returned))
        outputs = []
        for network in networks:
            self._module.load_state_dict(network)
            outputs.append([predict(self._module, part.inputs) for part in self._images])
        return self._scored([_vote(list(votes), True) for votes in zip(*outputs, strict=True)])

    def _scored(self, outputs: Sequence[Tensor]) -> Score:
        parts = [score_outputs(own[None], part.labels) for own, part in zip(outputs, self._images, strict=True)]
        return Score(*(float(value[0]) for part in parts for value in part))

    def _agreeing(self, responses: Responses) -> Score:
        shares = [agreement(responses, answers) for answers in self._answers]
        return Score(agreement=sum(shares) / len(shares))


def _first(images: Images, count: int) -> Images:
    return Images(images.inputs[:count], images.labels[:count])


def _vote(outputs: Sequence[Tensor], scores: bool) -> Tensor:
    """The logarithm of the mean of probabilities; of outputs that are no scores of classes their mean."""
    if not scores:
        return torch.stack(list(outputs)).mean(0)
    return torch.stack([own.softmax(-1) for own in outputs]).mean(0).clamp_min(SMALLEST).log()
