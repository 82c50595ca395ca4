"""May networks be averaged? Their average, and how it compares with its parts, their ensemble and a soup.

Networks from different starts have their units in different orders, so that their plain average is worse than either.
Here units are first brought together (by weights or by what they do), then averaged; batch norms are set anew
(Jordan et al., 2023), as averaged statistics do not belong to averaged weights, and units get back the variance that
averaging took from them (REPAIR, the same paper). Of several networks a greedy soup (Wortsman et al., 2022) is tried:
from the best on, each is kept only if validation images do not lose by it. Choices are made on validation images alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from weightspace.autoencoder.reconstructing import conditioning_images
from weightspace.batch_norms import batch_norms, recalibrate_batch_norm
from weightspace.corpus.asking import NOISE, make_asker, require_runnable
from weightspace.corpus.frame import symmetry_of
from weightspace.corpus.matching_units import match_units
from weightspace.errors import InputError
from weightspace.generation.config import By, MergeConfig
from weightspace.generation.judging import Judge, Score
from weightspace.generation.parts import open_parts
from weightspace.images import ImageSet, open_images
from weightspace.linear_paths import average
from weightspace.progress import progress_bar
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.responses.questions import given_questions
from weightspace.responses.repairing import repair
from weightspace.symmetry.axes import Symmetry, permute
from weightspace.symmetry.matching import match_weights
from weightspace.weights.values import Weights
from weightspace.zoo.addressing import short_names
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import require_images, square_size

# Without images: an average that answers so much less as its parts do than their ensemble does is taken for worse.
APART = 0.05
ALIGNED = {"names": "as they are", "weights": "aligned by weights", "activations": "aligned by activations"}
Kind = Literal["part", "ensemble", "average", "soup", "layers"]


class Row(NamedTuple):
    """One network of the table.

    Attributes:
        what: it is, in words; kind: in a word.
        score: of it.
        barrier: how far its loss lies above the mean of its parts' losses; without images, how much less it answers as
            its parts do than their ensemble does. None for parts.
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
        notes: what else is to be known.
    """

    weights: Weights
    rows: tuple[Row, ...]
    chosen: Row
    part: Row
    judged_by: str
    judged: bool
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether the best part is better; without images, whether it answers too unlike its parts."""
        if self.judged:
            return (self.chosen.score.accuracy or 0.0) < (self.part.score.accuracy or 0.0)
        return (self.chosen.barrier or 0.0) > APART

    def describe(self) -> str:
        """The answer, in a sentence."""
        score, best = self.chosen.score, self.part.score
        if not self.judged_by:
            return f"{self.chosen.what}: {', '.join(self.notes)}"
        if self.judged:
            verdict = "worse than" if self.worse else "as good as" if score.accuracy == best.accuracy else "better than"
            return (
                f"{self.chosen.what}: {score.accuracy:.1%} of {self.judged_by}, {verdict} the best part, "
                f"{self.part.what} ({best.accuracy:.1%}); on test images {score.test_accuracy:.1%} and "
                f"{best.test_accuracy:.1%}"
            )
        verdict = "too unlike its parts to be trusted" if self.worse else "about as its parts do"
        return (
            f"{self.chosen.what}: answers {score.agreement:.1%} of {self.judged_by} as its parts do, "
            f"{self.chosen.barrier:.1%} less than their ensemble: {verdict}; which is better, only images tell (--data)"
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


def merge(
    parts: Mapping[str, Weights],
    module: nn.Module,
    symmetry: Symmetry,
    asker: Asker,
    images: ImageSet | None = None,
    config: MergeConfig | None = None,
) -> Merge:
    """Average networks in every way that is asked for, and choose the best.

    Args:
        parts: by name, two or more networks under the module's names; units are brought into the order of the first.
        module: of their architecture; it is used to score networks.
        symmetry: of it; without groups nothing is aligned.
        asker: of it: asks what activations are matched and repaired by, and judges without images.
        images: judge, set batch norms anew, and report.
        config: how.

    Raises:
        InputError: fewer than two networks, or a refusal of matching.
    """
    config = config or MergeConfig()
    if len(parts) < 2:
        raise InputError(f"expected two or more networks to merge, found {len(parts)}")
    work = _Work(parts, module, symmetry, asker, images, config)
    work.score_parts()
    work.average_all()
    if images is not None and len(parts) > 2:
        work.cook_soup()
    if config.per == "layer":
        work.mix_layers()
    return work.finish()


class _Work:
    """The table of a merge as it grows."""

    def __init__(
        self,
        parts: Mapping[str, Weights],
        module: nn.Module,
        symmetry: Symmetry,
        asker: Asker,
        images: ImageSet | None,
        config: MergeConfig,
    ) -> None:
        self.names, self.networks = list(parts), list(parts.values())
        self.module, self.symmetry, self.asker = module, symmetry, asker
        self.images, self.config = images, config
        self.judge = Judge(module, asker, self.networks, images, config.images)
        self.normed = bool(batch_norms(module))
        self.rows: list[Row] = []
        self.merged: list[tuple[Row, Weights, list[Weights], bool]] = []

    def score_parts(self) -> None:
        """The parts, and their ensemble."""
        for name, network in zip(self.names, self.networks, strict=True):
            self.rows.append(Row(name, "part", self.judge.score(network)))
        score = self.judge.score_ensemble(self.networks)
        self.rows.append(Row("ensemble", "ensemble", score, self._barrier(score)))

    def average_all(self) -> None:
        """The average of all parts, aligned in every way, as it is and mended."""
        ways = list(self._ways())
        with progress_bar("averaging", len(ways)) as advance:
            for way in ways:
                aligned = self._aligned(way)
                what = f"average, {ALIGNED[way]}"
                for weights, mended, repaired in self._mended(aligned):
                    self._add(what + mended, "average", weights, aligned, repaired)
                advance()

    def cook_soup(self) -> None:
        """From the best part on, every part that validation images do not lose by, mended as the best average is."""
        _, _, aligned, repaired = self._best()
        order = sorted(range(len(aligned)), key=lambda number: self.rows[number].score.rank, reverse=True)
        chosen = order[:1]
        weights, score = aligned[chosen[0]], self.rows[chosen[0]].score
        for number in order[1:]:
            trial = self._whole([aligned[other] for other in (*chosen, number)], repaired)
            tried = self.judge.score(trial)
            if tried.rank[0] >= score.rank[0]:
                chosen, weights, score = [*chosen, number], trial, tried
        if len(chosen) == 1:
            self.rows.append(Row(f"soup: {self.names[chosen[0]]} alone", "soup", score, self._barrier(score)))
            return
        what = f"soup of {len(chosen)}: {', '.join(self.names[number] for number in chosen)}"
        self._add(what, "soup", weights, aligned, repaired)

    def mix_layers(self) -> None:
        """The best part, with the average's layers wherever validation images gain by them."""
        _, _, aligned, _ = self._best()
        first = max(range(len(aligned)), key=lambda number: self.rows[number].score.rank)
        weights, score = aligned[first], self.rows[first].score
        mean, taken = average(aligned), 0
        layers = layers_of(mean)
        for names in layers:
            trial = self._with_new_norms({**weights, **{name: mean[name] for name in names}})
            tried = self.judge.score(trial)
            if tried.rank > score.rank:
                weights, score, taken = trial, tried, taken + 1
        what = f"layer by layer: {taken} of {len(layers)} averaged"
        if taken:
            self._add(what, "layers", weights, aligned, False)
        else:
            self.rows.append(Row(what, "layers", score, self._barrier(score)))

    def finish(self) -> Merge:
        """The best of what was merged."""
        row, weights, _, _ = self._best()
        part = max(self.rows[: len(self.networks)], key=lambda own: own.score.rank)
        by = f"{min(self.config.images, len(self.images.validation.labels)):,} validation images" if self.images else ""
        return Merge(
            weights, tuple(self.rows), row, part, by or str(self.asker.questions), bool(self.images), self._notes()
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if not self.symmetry.groups:
            notes.append("nothing is known to be permutable: networks were averaged as they are")
        if self.normed and (self.images is None or not self.config.recalibrate):
            notes.append("batch norms keep the average of their statistics, which averaged weights do not fit (--data)")
        return tuple(notes)

    def _ways(self) -> Iterator[By]:
        wanted: Sequence[By] = ("names", "weights", "activations") if self.config.by == "auto" else (self.config.by,)
        yield from (way for way in wanted if way == "names" or self.symmetry.groups or self.config.by != "auto")

    def _aligned(self, way: By) -> list[Weights]:
        """All parts with their units in the order of the first."""
        first, *rest = self.networks
        if way == "names":
            return self.networks
        if not self.symmetry.groups:
            raise InputError(f"expected units that may change places, found none ({self.symmetry.report()})")
        moved = [first]
        for network in rest:
            if way == "weights":
                orders = match_weights(network, first, self.symmetry, restarts=None, seed=self.config.seed)
            else:
                orders = match_units(self.asker, network, first, self.symmetry)
            moved.append(permute(network, self.symmetry, orders))
        return moved

    def _mended(self, aligned: Sequence[Weights]) -> Iterator[tuple[Weights, str, bool]]:
        """The average as it is, with new batch norms, and repaired, with what was done in words."""
        mean, said = average(aligned), ""
        yield mean, said, False
        if self._sets_norms:
            mean, said = self._with_new_norms(mean), ", batch norms set anew"
            yield mean, said, False
        if self.config.repair:
            repaired = repair(self.asker, mean, aligned)
            if repaired.places:
                yield repaired.weights, f"{said}, repaired", True

    def _whole(self, aligned: Sequence[Weights], repaired: bool) -> Weights:
        """An average with all that is done to it."""
        mean = self._with_new_norms(average(aligned))
        return repair(self.asker, mean, aligned).weights if repaired else mean

    @property
    def _sets_norms(self) -> bool:
        return self.normed and self.images is not None and self.config.recalibrate > 1

    def _with_new_norms(self, weights: Weights) -> Weights:
        if not self._sets_norms or self.images is None:
            return weights
        self.module.load_state_dict(weights)
        inputs = conditioning_images(self.images.train, self.config.recalibrate, self.config.seed)
        recalibrate_batch_norm(self.module, inputs)
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def _add(self, what: str, kind: Kind, weights: Weights, aligned: list[Weights], repaired: bool) -> None:
        score = self.judge.score(weights)
        row = Row(what, kind, score, self._barrier(score))
        self.rows.append(row)
        self.merged.append((row, weights, aligned, repaired))

    def _best(self) -> tuple[Row, Weights, list[Weights], bool]:
        return max(self.merged, key=lambda one: one[0].score.rank)

    def _barrier(self, score: Score) -> float | None:
        parts = [row.score for row in self.rows if row.kind == "part"]
        if score.loss is not None:
            return score.loss - sum(part.loss or 0.0 for part in parts) / len(parts)
        ensemble = next((row.score.agreement for row in self.rows if row.kind == "ensemble"), score.agreement)
        return (ensemble or 0.0) - (score.agreement or 0.0)


def layers_of(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of tensors, those of one module together, in order."""
    layers: dict[str, list[str]] = {}
    for name in weights:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return list(layers.values())


def merge_networks(
    names: Sequence[str],
    config: MergeConfig,
    *,
    ask: AskConfig | None = None,
    given: Architecture | None = None,
    symmetry: Path | None = None,
) -> Merge:
    """`merge` for networks by name (see `open_network`).

    What `weightspace merge` does.

    Args:
        names: of networks of one architecture.
        config: how they are averaged and judged.
        ask: what they are asked with: training images, where there are images, if it says noise.
        given: an architecture that the caller vouches for; else that of a zoo's member.
        symmetry: a JSON file with a symmetry by hand.

    Raises:
        InputError: no such networks, two architectures, or nobody says how they are built (unless `config.anyway`).
    """
    opened, known = open_parts(names, given)
    parts = {short: opened[name] for name, short in short_names(opened).items()}
    if known is None:
        return _unseen(parts, config, symmetry)
    require_runnable(known)
    images = _images_for(known, config) if config.data else None
    asking = ask or AskConfig()
    if images is not None and asking.ask_with == NOISE:
        inputs = conditioning_images(images.train, config.match_on, config.seed)
        asker = Asker(known.build(), given_questions((inputs,), seed=asking.ask_seed))
    else:
        asker = make_asker(known, asking)
    return merge(parts, known.build(), symmetry_of(known, symmetry), asker, images, config)


def _unseen(parts: dict[str, Weights], config: MergeConfig, symmetry: Path | None) -> Merge:
    """The average of networks that nobody can run: what it is worth, nobody knows."""
    if not config.anyway:
        raise InputError(
            "expected --architecture my_nets:Net --example SHAPE, or ZOO:MEMBER, to run the average, found files "
            "alone, which --anyway averages unseen"
        )
    if config.data:
        raise InputError("expected --architecture my_nets:Net --example SHAPE to judge by images, found files alone")
    networks = list(parts.values())
    if symmetry is not None:
        axes = symmetry_of(None, symmetry)
        first, *rest = networks
        networks = [first, *(permute(own, axes, match_weights(own, first, axes, restarts=None)) for own in rest)]
    row = Row("average, " + ALIGNED["weights" if symmetry is not None else "names"], "average", Score())
    return Merge(average(networks), (row,), row, row, "", False, ("it was not run: nobody said how it is built",))


def _images_for(architecture: Architecture, config: MergeConfig) -> ImageSet:
    shape = architecture.example_shape or ()
    images = open_images(config.data, size=square_size(shape[1:]) if len(shape) == 4 else None)
    require_images(architecture, images)
    return images
