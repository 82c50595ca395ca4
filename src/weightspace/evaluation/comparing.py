"""Generated networks beside what they have to beat, under one schedule, with novelty."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.devices import choose_device, count_operations
from weightspace.errors import InputError
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.controls import CONTROLS, Contest, controls_of
from weightspace.evaluation.fine_tuning import Outcome, Population, fine_tune
from weightspace.generation.anchors import training_members
from weightspace.generation.config import SelectConfig
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.generation.sampling import Coverage, Generated, by_architecture
from weightspace.images import ImageSet
from weightspace.outputs import hash_input
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import images_for, require_images
from weightspace.zoo.zoo import Zoo

GENERATED = "SANE, kernel density"


class WritingRow(NamedTuple):
    """What one method's networks are worth after some epochs of fine-tuning.

    Attributes:
        method: its label; key: `generated`, or that of a control (see `CONTROLS`).
        accuracy, accuracy_low, accuracy_high: mean test accuracy over the networks, and its 95 % interval.
        networks: how many there are.
        ensemble, error_overlap: see `Outcome`; None for a single network.
        novelty, functional_novelty, diversity: medians over the networks before fine-tuning (see `Novelty`).
        latents_per_weight: of the method; 0 where it has none.
    """

    method: str
    epochs: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    networks: int
    ensemble: float
    error_overlap: float | None
    novelty: float
    functional_novelty: float
    diversity: float | None
    latents_per_weight: float
    key: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields by name."""
        return self._asdict()


class WritingComparison(NamedTuple):
    """Rows for tables, and every network's figures behind them (by method, in the order they were made)."""

    rows: list[WritingRow]
    outcomes: list[Outcome]
    novelty: dict[str, Novelty]


class Competitors(NamedTuple):
    """Generated networks by method, and what they come from.

    Attributes:
        sane: the model that generated them.
        train: its training members; novelty is measured against all their checkpoints.
        anchors: what was sampled around.
        generated: `method -> networks`; anchors with noise get the novelty of the first method, and every control as
            many networks of an architecture as the first method has.
        select: how the first method's networks were selected; controls are drawn as often and conditioned alike.
    """

    sane: SANE
    train: Zoo
    anchors: Zoo
    generated: Mapping[str, list[Generated]]
    select: SelectConfig


def evaluate(generated: Zoo, source: str, config: EvaluateConfig | None = None) -> list[WritingRow]:
    """Evaluate a generated zoo beside its controls, from what its `zoo.json` records.

    Args:
        generated: what `write_generated` wrote.
        source: of the images; see `open_images`. They are divided as the anchors' zoo was grown with, so that nothing
            is tested on images it was trained on.
        config: the schedule.

    Raises:
        InputError: not a generated zoo, or its model or anchors have moved or changed.

    Examples:
        >>> rows = evaluate(Zoo.open("generated"), "mnist.npz")  # doctest: +SKIP
    """
    record = generated.about.get("generated")
    if not isinstance(record, dict):
        raise InputError(f"expected generated networks in {generated.folder}, found a zoo that was not generated")
    sane, anchors = _reopen(generated, record)
    zoo = Zoo.open(anchors.folder, generated.trusted)
    networks = [
        Generated(generated.architectures[str(name)], generated.weights(row), Coverage({}, {}))
        for row, name in enumerate(generated.table["architecture"])
    ]
    images = images_for(zoo, source)
    for architecture in generated.architectures.values():
        require_images(architecture, images)
    config = config or EvaluateConfig()
    device = choose_device(config.device, lambda: _operations(generated, images, config))
    images, sane = images.to(device), sane.to(device)
    select = SelectConfig(**record["select"])
    method = f"SANE, {record['sampler']['sampler'].replace('-', ' ')}{_described(select)}"
    known = sane.adopting(anchors)
    competitors = Competitors(known, training_members(known, zoo), anchors, {method: networks}, select)
    return compare_with_controls(competitors, images, config).rows


def _operations(generated: Zoo, images: ImageSet, config: EvaluateConfig) -> float:
    """Of fine-tuning as many networks of every method: forward, and twice as many backward."""
    first = next(iter(generated.architectures.values()))
    each = count_operations(first.build(), images.train.inputs[:1])
    trained = config.seeds * (1 + len(CONTROLS)) * len(generated)
    return 3.0 * each * len(images.train.labels) * max(config.epochs) * trained


def _reopen(generated: Zoo, record: Mapping[str, Any]) -> tuple[SANE, Zoo]:
    """The model and the anchors that networks were generated from, unchanged."""
    try:
        sane_folder, zoo_folder = generated.folder / record["sane"], generated.folder / record["anchors"]["zoo"]
        wanted = {(member, epoch): place for place, (member, epoch) in enumerate(record["anchors"]["checkpoints"])}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {generated.folder} to name its model and anchors, found no such entry") from error
    sane, zoo = SANE.open(sane_folder), Zoo.open(zoo_folder, generated.trusted)
    places = zoo.table[["member", "epoch"]].apply(tuple, axis=1).map(wanted).dropna().sort_values()
    if len(places) != len(wanted) or not wanted:
        raise InputError(f"expected {len(wanted)} anchors in {zoo.folder}, found {len(places)} of them")
    for name, source in (("sane", sane_folder), ("anchors", zoo_folder)):
        if record.get("hashes", {}).get(name) != hash_input(source):
            raise InputError(f"expected {source} as it was when networks were generated, found it changed")
    return sane, replace(zoo, table=zoo.table.loc[places.index])


def compare_with_controls(competitors: Competitors, images: ImageSet, config: EvaluateConfig) -> WritingComparison:
    """Fine-tune generated networks beside networks made without an autoencoder.

    Args:
        competitors: generated networks, and what they come from.
        images: training images to fine-tune on, test images to score and to compare functions on; validation images
            select controls.
        config: the schedule, the same for all.
    """
    populations: list[Population] = []
    novelty: dict[str, list[Novelty]] = {}
    first = next(iter(competitors.generated.values()))
    for architecture, _ in by_architecture(first):
        made = _generated_populations(competitors, architecture)
        contest = _contest(competitors, architecture, made[0].networks, images, config)
        for population in [*made, *controls_of(contest)]:
            measured = contest.reference.measure(population.networks, architecture, images.test)
            novelty.setdefault(population.method, []).append(measured)
            populations.append(population)
    outcomes = fine_tune(populations, images, config)
    outcomes += _longer(populations, competitors.train, images, config)
    joined = {method: _join(parts) for method, parts in novelty.items()}
    return WritingComparison(writing_rows(populations, outcomes, joined), outcomes, joined)


def _contest(
    competitors: Competitors,
    architecture: Architecture,
    generated: list[Weights],
    images: ImageSet,
    config: EvaluateConfig,
) -> Contest:
    sane, anchors, select = competitors.sane, competitors.anchors, competitors.select
    near = anchors.where(architecture=architecture.id)
    whole = len(next(iter(competitors.generated.values())))
    return Contest(
        sane=sane,
        architecture=architecture,
        anchors=[sane.preparation.canonicalize(near.weights(row), architecture) for row in range(len(near))],
        train=competitors.train,
        reference=NoveltyReference(competitors.train, sane.preparation, architecture),
        generated=generated,
        drawn=round(select.draws * select.rounds * len(generated) / whole),
        images=images,
        select=select,
        config=config,
    )


def writing_rows(
    populations: Sequence[Population], outcomes: Sequence[Outcome], novelty: Mapping[str, Novelty]
) -> list[WritingRow]:
    """A row for every outcome, with the novelty of its method's networks."""
    made_by = {population.method: population for population in populations}
    return [_row(outcome, made_by[outcome.method], novelty[outcome.method]) for outcome in outcomes]


def _described(select: SelectConfig) -> str:
    """How networks were selected, for the name of their method."""
    parts = [f"best of {select.draws}"] if select.draws else []
    parts += [f"{select.rounds} rounds"] if select.rounds > 1 else []
    parts += [f"refined {select.refine} steps"] if select.refine else []
    return "".join(f", {part}" for part in parts)


def _longer(populations: list[Population], train: Zoo, images: ImageSet, config: EvaluateConfig) -> list[Outcome]:
    """What is trained for longer than the schedule: some methods as asked for, scratch for as long as the zoo was."""
    full, first = config.full_length or int(train.table["epoch"].max()), populations[0].method
    lengths = {full: {"scratch"}} | {config.long: {"generated", "anchors", "noise", "scratch"}}
    outcomes = []
    for epochs, keys in lengths.items():
        if epochs > max(config.epochs):
            # Of several methods that generated networks only the first goes on.
            longer = [p for p in populations if p.key in keys and (p.key != "generated" or p.method == first)]
            outcomes += fine_tune(longer, images, replace(config, epochs=(epochs,), long=0))
    return outcomes


def _generated_populations(competitors: Competitors, architecture: Architecture) -> list[Population]:
    """The generated networks of one architecture, by method; methods that made none of it are left out."""
    layout = competitors.sane.preparation.frame_of(architecture).layout
    density = len(layout) * competitors.sane.config.latent_width / layout.size
    populations = []
    for method, networks in competitors.generated.items():
        alike = [network.weights for network in networks if network.architecture.id == architecture.id]
        if alike:
            populations.append(Population("generated", method, architecture, alike, density))
    return populations


def _join(parts: list[Novelty]) -> Novelty:
    return Novelty(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _row(outcome: Outcome, made_by: Population, novelty: Novelty) -> WritingRow:
    return WritingRow(
        method=outcome.method,
        key=made_by.key,
        epochs=outcome.epochs,
        accuracy=outcome.accuracy,
        accuracy_low=outcome.low,
        accuracy_high=outcome.high,
        networks=len(outcome.each),
        ensemble=outcome.ensemble,
        error_overlap=_or_none(outcome.overlap),
        novelty=float(np.median(novelty.weights)),
        functional_novelty=float(np.median(novelty.function)),
        diversity=_or_none(float(np.median(novelty.diversity))),
        latents_per_weight=made_by.latents_per_weight,
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
