"""May networks be averaged? Their average, and how it compares with its parts, their ensemble and a soup.

Networks from different starts have their units in different orders, so that their plain average is worse than either.
Here units are first brought together (by weights or by what they do), then averaged; batch norms are set anew
(Jordan et al., 2023), as averaged statistics do not belong to averaged weights, and units get back the variance that
averaging took from them (REPAIR, the same paper). Of several networks a greedy soup (Wortsman et al., 2022) is tried:
from the best on, each is kept only if validation images do not lose by it. Choices are made on validation images alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from weightspace.autoencoder.reconstructing import conditioning_images
from weightspace.batch_norms import batch_norms, recalibrate_batch_norm
from weightspace.corpus.asking import NOISE, make_asker, require_runnable
from weightspace.corpus.frame import symmetry_of
from weightspace.corpus.matching_units import match_units
from weightspace.errors import InputError
from weightspace.generation.config import By, MergeConfig
from weightspace.generation.judging import Judge, Kind, Merge, Row, Score
from weightspace.generation.parts import open_parts
from weightspace.images import ImageSet
from weightspace.linear_paths import average
from weightspace.progress import progress_bar
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.responses.questions import given_questions
from weightspace.responses.repairing import repair
from weightspace.symmetry.axes import Symmetry, permute
from weightspace.symmetry.matching import match_weights
from weightspace.weights.values import Weights, find_aliases
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import images_for_networks

ALIGNED = {"names": "as they are", "weights": "aligned by weights", "activations": "aligned by activations"}


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


class _Made(NamedTuple):
    """A network that was made: its row, its weights, and of which aligned parts it is an average, repaired or not."""

    row: Row
    weights: Weights
    aligned: list[Weights]
    repaired: bool


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
        self.judge = Judge(module, asker, self.networks, images, config.images, config.seed)
        self.normed = bool(batch_norms(module))
        self.rows: list[Row] = []
        self.made: list[_Made] = []

    def score_parts(self) -> None:
        """The parts, and their ensemble."""
        for number, (name, network) in enumerate(zip(self.names, self.networks, strict=True)):
            self.rows.append(Row(name, "part", self.judge.score_part(network, number)))
        self.together = self.judge.score_ensemble(self.networks)
        self.rows.append(Row("ensemble", "ensemble", self.together, self._barrier(self.together)))

    def average_all(self) -> None:
        """The average of all parts, aligned in every way, as it is and mended."""
        ways = list(self._ways())
        with progress_bar("averaging", len(ways)) as advance:
            for way in ways:
                aligned = self._aligned(way)
                for weights, mended, repaired in self._mended(aligned):
                    self._add(f"average, {ALIGNED[way]}{mended}", "average", weights, aligned, repaired)
                advance()

    def cook_soup(self) -> None:
        """From the best part on, every part that validation images do not lose by, mended as the best average is."""
        aligned, repaired = self._best().aligned, self._best().repaired
        first, *rest = sorted(range(len(aligned)), key=lambda number: self.rows[number].score.rank, reverse=True)
        chosen, weights, score = [first], aligned[first], self.rows[first].score
        for number in rest:
            trial = self._whole([aligned[one] for one in (*chosen, number)], repaired)
            tried = self.judge.score(trial)
            if tried.rank[0] >= score.rank[0]:
                chosen, weights, score = [*chosen, number], trial, tried
        if len(chosen) == 1:
            self.rows.append(Row(f"soup: {self.names[first]} alone", "soup", score))
            return
        what = f"soup of {len(chosen)}: {', '.join(self.names[number] for number in chosen)}"
        self._add(what, "soup", weights, aligned, repaired, chosen)

    def mix_layers(self) -> None:
        """The best part, with the average's layers wherever validation images gain by them."""
        aligned = self._best().aligned
        first = max(range(len(aligned)), key=lambda number: self.rows[number].score.rank)
        weights, score = aligned[first], self.rows[first].score
        mean, taken = average(aligned), 0
        layers = layers_of(mean, find_aliases(self.module.state_dict()))
        for names in layers:
            trial = self._with_new_norms({**weights, **{name: mean[name] for name in names}})
            tried = self.judge.score(trial)
            if tried.rank > score.rank:
                weights, score, taken = trial, tried, taken + 1
        what = f"layer by layer: {taken} of {len(layers)} averaged"
        if taken:
            self._add(what, "layers", weights, aligned, repaired=False)
        else:
            self.rows.append(Row(what, "layers", score))

    def finish(self) -> Merge:
        """The best of what was merged."""
        best = self._best()
        return Merge(
            weights=best.weights,
            rows=tuple(self.rows),
            chosen=best.row,
            part=max(self.rows[: len(self.networks)], key=lambda row: row.score.rank),
            judged_by=self.judge.judged_by,
            judged=self.images is not None,
            tells=self.judge.tells,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if not self.symmetry.groups:
            notes.append("nothing is known to be permutable: networks were averaged as they are")
        if self.normed and not self._sets_norms:
            hint = "--data" if self.images is None else "--recalibrate"
            notes.append(
                f"batch norms keep the average of their statistics, which averaged weights do not fit ({hint})"
            )
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
        if way == "weights":
            return align_by_weights(self.networks, self.symmetry, self.config.seed)
        orders = [match_units(self.asker, network, first, self.symmetry) for network in rest]
        moved = [permute(network, self.symmetry, order) for network, order in zip(rest, orders, strict=True)]
        return [first, *moved]

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

    def _add(
        self,
        what: str,
        kind: Kind,
        weights: Weights,
        aligned: list[Weights],
        repaired: bool,
        of: Sequence[int] | None = None,
    ) -> None:
        """A row, and what it is of; `of` are the parts that are in it, all without."""
        score = self.judge.score(weights)
        row = Row(what, kind, score, self._barrier(score, of))
        self.rows.append(row)
        self.made.append(_Made(row, weights, aligned, repaired))

    def _best(self) -> _Made:
        return max(self.made, key=lambda made: made.row.score.rank)

    def _barrier(self, score: Score, of: Sequence[int] | None = None) -> float:
        if score.loss is None:
            return (self.together.agreement or 0.0) - (score.agreement or 0.0)
        losses = [self.rows[number].score.loss or 0.0 for number in of or range(len(self.networks))]
        return score.loss - sum(losses) / len(losses)


def align_by_weights(networks: Sequence[Weights], symmetry: Symmetry, seed: int = 0) -> list[Weights]:
    """Networks with their units in the order of the first, matched by weights."""
    first, *rest = networks
    orders = [match_weights(network, first, symmetry, restarts=None, seed=seed) for network in rest]
    return [first, *(permute(network, symmetry, order) for network, order in zip(rest, orders, strict=True))]


def layers_of(weights: Mapping[str, Tensor], aliases: Mapping[str, str]) -> list[list[str]]:
    """Names of tensors, those of one module together, in order; tensors that are tied are in one layer."""
    layers: dict[str, list[str]] = {}
    for name in weights:
        layers.setdefault(aliases.get(name, name).rpartition(".")[0], []).append(name)
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
    parts, known, notes = open_parts(names, given)
    if known is None:
        merged = _unseen(parts, config, symmetry)
    else:
        require_runnable(known)
        axes = symmetry_of(known, symmetry, next(iter(parts.values())))
        images = images_for_networks(names, config.data, known) if config.data else None
        merged = merge(parts, known.build(), axes, _asker_of(known, images, config, ask), images, config)
    return replace(merged, notes=(*merged.notes, *notes))


def _asker_of(known: Architecture, images: ImageSet | None, config: MergeConfig, ask: AskConfig | None) -> Asker:
    """What asks with training images, where there are any and nothing else was named, or with noise."""
    asking = ask or AskConfig()
    if images is None or asking.ask_with != NOISE:
        return make_asker(known, asking)
    # Of a power of two as many as fit into memory divide it.
    count = 2 ** int(math.log2(min(config.match_on, len(images.train.labels))))
    inputs = images.train.some(count, config.seed).inputs
    return Asker(known.build(), given_questions((inputs,), seed=asking.ask_seed))


def _unseen(parts: dict[str, Weights], config: MergeConfig, symmetry: Path | None) -> Merge:
    """The average of networks that nobody can run: what it is worth, nobody knows."""
    lacking = "expected --architecture my_nets:Net --example SHAPE, or ZOO:MEMBER,"
    if config.data or config.by == "activations":
        what = "judge by images" if config.data else "match activations"
        raise InputError(f"{lacking} to {what}, found files alone")
    if not config.anyway:
        raise InputError(f"{lacking} to run the average, found files alone, which --anyway averages unseen")
    if config.by == "weights" and symmetry is None:
        raise InputError(f"{lacking} or --symmetry FILE to match weights, found files alone")
    networks, by = list(parts.values()), "names"
    if symmetry is not None and config.by != "names":
        networks, by = align_by_weights(networks, symmetry_of(None, symmetry, networks[0]), config.seed), "weights"
    row = Row(f"average, {ALIGNED[by]}", "average", Score())
    return Merge(average(networks), (row,), row, row, judged_by="", judged=False)
