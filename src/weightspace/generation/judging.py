"""Judge merged networks: by labelled validation images or, without any, by how far they answer as their parts do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from weightspace.images import ImageSet
from weightspace.responses.asking import Asker, Responses, agreement
from weightspace.supervised import predict, score_outputs
from weightspace.weights.values import Weights

# Without images: an average that answers so much less as its parts do than their ensemble does is taken for worse.
APART = 0.05
SMALLEST = 1e-12
# Parts that give one answer so often answer everything alike.
ALWAYS = 0.98
Kind = Literal["part", "ensemble", "average", "soup", "layers"]


class Score(NamedTuple):
    """How good a network is.

    Attributes:
        accuracy, loss: on validation images (the loss in nats); None without images.
        test_accuracy, test_loss: on test images, which nothing is chosen by; None without images.
        agreement: share of inputs that it answers as its parts do (a part: as the others do), the mean over parts; None
            with images.
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


class Row(NamedTuple):
    """One network of the table.

    Attributes:
        what: it is, in words; kind: in a word.
        score: of it.
        barrier: how far its loss lies above the mean of its parts' losses; without images, how much less it answers as
            its parts do than their ensemble does. None for what is no average.
    """

    what: str
    kind: Kind
    score: Score
    barrier: float | None = None


@dataclass(frozen=True)
class Merge:
    """Networks merged.

    Attributes:
        weights: of the best average, soup, or mixture of layers.
        rows: all that were compared; chosen: the one that `weights` are of; part: the best of the parts.
        judged_by: in words; judged: whether by labelled images.
        tells: whether scores say something: answers do not where parts answer nearly all inputs alike.
        notes: what else is to be known.
    """

    weights: Weights
    rows: tuple[Row, ...]
    chosen: Row
    part: Row
    judged_by: str
    judged: bool
    tells: bool = True
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether the best part is better; without images, whether it answers too unlike its parts, or nobody knows."""
        if self.judged:
            return (self.chosen.score.accuracy or 0.0) < (self.part.score.accuracy or 0.0)
        return not self.tells or (self.chosen.barrier or 0.0) > APART

    def describe(self) -> str:
        """The answer, in a sentence."""
        score, best = self.chosen.score, self.part.score
        if not self.judged_by:
            return f"{self.chosen.what}; it was not run: nobody said how it is built"
        if not self.judged:
            return f"{self.chosen.what}: {self._agreeing()}"
        verdict = "worse than" if self.worse else "as good as" if score.accuracy == best.accuracy else "better than"
        return (
            f"{self.chosen.what}: {score.accuracy:.1%} of {self.judged_by}, {verdict} the best part, {self.part.what} "
            f"({best.accuracy:.1%}), loss {score.loss:.3f} and {best.loss:.3f}; on test images "
            f"{score.test_accuracy:.1%} and {best.test_accuracy:.1%}"
        )

    def _agreeing(self) -> str:
        if not self.tells:
            return f"the parts answer nearly all of {self.judged_by} alike, which tells nothing; images do (--data)"
        barrier = self.chosen.barrier or 0.0
        verdict = "too unlike its parts to be trusted" if self.worse else "about as its parts do"
        return (
            f"answers {self.chosen.score.agreement:.1%} of {self.judged_by} as its parts do, {abs(barrier):.1%} "
            f"{'less' if barrier >= 0 else 'more'} than their ensemble: {verdict}; which is better, only images tell "
            "(--data)"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all but the weights."""
        rows = [{**row._asdict(), "score": row.score._asdict()} for row in self.rows]
        return {
            "chosen": self.chosen.what,
            "worse": self.worse,
            "judged_by": self.judged_by,
            "rows": rows,
            "notes": list(self.notes),
        }


class Judge:
    """Scores networks of one architecture.

    Args:
        module: of that architecture.
        asker: of it; without images it asks.
        parts: the networks that are merged.
        images: whose validation part judges; test images are scored beside it.
        count: so many images of both parts, drawn at random.
        seed: of the draw.
    """

    def __init__(
        self,
        module: nn.Module,
        asker: Asker,
        parts: Sequence[Mapping[str, Tensor]],
        images: ImageSet | None,
        count: int,
        seed: int = 0,
    ) -> None:
        self._module, self._asker = module.eval(), asker
        sets = (images.validation, images.test) if images is not None else ()
        self._images = [part.some(count, seed) for part in sets]
        self._answers = [] if images is not None else [asker.ask(part, keep=True) for part in parts]

    @property
    def judged_by(self) -> str:
        """What scores rest on, in words."""
        if not self._images:
            return str(self._asker.questions)
        count = len(self._images[0].labels)
        return f"{count:,} validation image{'' if count == 1 else 's'}"

    @property
    def tells(self) -> bool:
        """Whether scores say something: not if parts answer nearly all inputs alike, or nothing finite."""
        if self._images:
            return True
        returned = [answers.returned[0] for answers in self._answers]
        if not all(bool(own.isfinite().all()) for own in returned):
            return False
        if not self._answers[0].scores:
            return all(float(own.std(0).max()) > SMALLEST for own in returned)
        winners = torch.cat([own.argmax(-1).flatten() for own in returned])
        return float(winners.bincount().max() / len(winners)) < ALWAYS

    def score(self, weights: Mapping[str, Tensor]) -> Score:
        """The score of one network."""
        if not self._images:
            return self._agreeing(self._asker.ask(weights, keep=True), self._answers)
        self._module.load_state_dict(weights)
        return self._scored([predict(self._module, part.inputs) for part in self._images])

    def score_part(self, weights: Mapping[str, Tensor], number: int) -> Score:
        """The score of a part; without images, how far it answers as the *other* parts do."""
        if self._images:
            return self.score(weights)
        return self._agreeing(self._answers[number], [*self._answers[:number], *self._answers[number + 1 :]])

    def score_ensemble(self, networks: Sequence[Mapping[str, Tensor]]) -> Score:
        """The score of networks that vote: the mean of their probabilities."""
        if not self._images:
            first = self._answers[0]
            vote = _vote([answers.returned[0] for answers in self._answers], first.scores)
            return self._agreeing(first._replace(returned=(vote,)), self._answers)
        outputs = []
        for network in networks:
            self._module.load_state_dict(network)
            outputs.append([predict(self._module, part.inputs) for part in self._images])
        return self._scored([_vote(list(votes), True) for votes in zip(*outputs, strict=True)])

    def _scored(self, outputs: Sequence[Tensor]) -> Score:
        parts = [score_outputs(own[None], part.labels) for own, part in zip(outputs, self._images, strict=True)]
        return Score(*(float(value[0]) for part in parts for value in part))

    def _agreeing(self, responses: Responses, others: Sequence[Responses]) -> Score:
        shares = [agreement(responses, answers) for answers in others]
        return Score(agreement=sum(shares) / len(shares))


def _vote(outputs: Sequence[Tensor], scores: bool) -> Tensor:
    """The logarithm of the mean of probabilities; of outputs that are no scores of classes their mean."""
    if not scores:
        return torch.stack(list(outputs)).mean(0)
    return torch.stack([own.softmax(-1) for own in outputs]).mean(0).clamp_min(SMALLEST).log()
