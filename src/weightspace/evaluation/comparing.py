"""Generated networks beside what they have to beat, under one schedule, with novelty."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weightspace.autoencoder.conditioning import conditioning_images
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.evaluation.beside import ANCHORS, NOISE, SCRATCH, Beside, controls_of
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Outcome, Population, evaluate
from weightspace.generation.acquainting import acquaint
from weightspace.generation.choosing import training_members
from weightspace.generation.config import SelectConfig
from weightspace.generation.generating import Generated
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.images import ImageSet
from weightspace.outputs import hash_input
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import images_for, require_images
from weightspace.zoo.zoo import Zoo

GENERATED = "SANE, kernel density"


class Comparison(NamedTuple):
    """Rows for tables, and every network's figures behind them (by method, in the order they were made)."""

    rows: list[dict[str, Any]]
    outcomes: list[Outcome]
    novelty: dict[str, Novelty]


def compare_generated(generated: Zoo, source: str, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Evaluate a generated zoo beside its controls, from what its `zoo.json` records.

    Args:
        generated: what `write_generated` wrote.
        source: of the images; see `open_images`. They are divided as the anchors' zoo was grown with, so that nothing
            is tested on images it was trained on.
        config: the schedule.

    Raises:
        InputError: not a generated zoo, or its model or anchors have moved or changed.
    """
    made = generated.about.get("generated")
    if not isinstance(made, dict):
        raise InputError(f"expected generated networks in {generated.folder}, found a zoo that was not generated")
    try:
        sane_folder, zoo_folder = Path(made["sane"]), Path(made["anchors"]["zoo"])
        wanted = {(member, epoch): place for place, (member, epoch) in enumerate(made["anchors"]["checkpoints"])}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {generated.folder} to name its model and anchors, found no such entry") from error
    sane, zoo = SANE.open(generated.folder / sane_folder), Zoo.open(generated.folder / zoo_folder)
    places = zoo.table[["member", "epoch"]].apply(tuple, axis=1).map(wanted).dropna().sort_values()
    if len(places) != len(wanted) or not wanted:
        raise InputError(f"expected {len(wanted)} anchors in {zoo.folder}, found {len(places)} of them")
    anchors = replace(zoo, table=zoo.table.loc[places.index])
    sane = acquaint(sane, anchors)
    for name, folder in (("sane", generated.folder / sane_folder), ("anchors", generated.folder / zoo_folder)):
        if made.get("hashes", {}).get(name) != hash_input(folder):
            raise InputError(f"expected {folder} as it was when networks were generated, found it changed")
    networks = [
        Generated(generated.architectures[str(name)], generated.weights(row), {})
        for row, name in enumerate(generated.table["architecture"])
    ]
    train = training_members(sane, zoo)
    images = images_for(zoo, source)
    for architecture in generated.architectures.values():
        require_images(architecture, images)
    select = SelectConfig(**made["select"])
    method = f"SANE, {made['sampler']['sampler'].replace('-', ' ')}{_described(select)}"
    return compare(sane, train, anchors, {method: networks}, images, config, select).rows


def compare(
    sane: SANE,
    train: Zoo,
    anchors: Zoo,
    generated: Mapping[str, list[Generated]],
    images: ImageSet,
    config: EvaluateConfig,
    select: SelectConfig | None = None,
) -> Comparison:
    """Fine-tune generated networks beside networks made without an autoencoder.

    Args:
        sane: the model that generated them.
        train: its training members; novelty is measured against all their checkpoints.
        anchors: what was sampled around.
        generated: `method -> networks`; anchors with noise get the novelty of the first method, and every
            control as many networks of an architecture as the first method has.
        images: training images to fine-tune on, test images to score and to compare functions on; validation images
            select controls.
        config: the schedule, the same for all.
        select: how the first method's networks were selected; controls are drawn as often and conditioned alike.
    """
    populations: list[Population] = []
    novelty: dict[str, list[Novelty]] = {}
    select = select or SelectConfig()
    inputs = conditioning_images(images.train, select.condition, config.seed)
    first = next(iter(generated.values()))
    for architecture in {network.architecture.id: network.architecture for network in first}.values():
        layout = sane.preparation.frame_of(architecture).layout
        own = _generated_populations(generated, architecture, len(layout) * sane.config.latent_width / layout.size)
        near = anchors.where(architecture=architecture.id)
        canonical = [sane.preparation.canonicalize(near.weights(row), architecture) for row in range(len(near))]
        reference = NoveltyReference(train, sane.preparation, architecture)
        count = len(own[0].networks)
        draws = round(select.draws * select.rounds * count / len(first))
        beside = Beside(
            sane, architecture, canonical, train, reference, images.validation, count, draws, inputs, select.spread
        )
        for population in [*own, *controls_of(beside, own[0].networks, config)]:
            measured = reference.measure(population.networks, architecture, images.test)
            novelty.setdefault(population.method, []).append(measured)
            populations.append(population)
    outcomes = evaluate(populations, images, config)
    outcomes += _longer(populations, train, images, config)
    return Comparison(table_rows(populations, outcomes, novelty), outcomes, {m: _join(p) for m, p in novelty.items()})


def table_rows(
    populations: Sequence[Population], outcomes: Sequence[Outcome], novelty: Mapping[str, list[Novelty]]
) -> list[dict[str, Any]]:
    """A row for every outcome, with the novelty of its method's networks (a part for every architecture)."""
    joined = {method: _join(parts) for method, parts in novelty.items()}
    densities = {population.method: population.latents_per_weight for population in populations}
    return [_row(outcome, joined[outcome.method], densities[outcome.method]) for outcome in outcomes]


def _described(select: SelectConfig) -> str:
    """How networks were selected, for the name of their method."""
    parts = [f"best of {select.draws}"] if select.draws else []
    parts += [f"{select.rounds} rounds"] if select.rounds > 1 else []
    parts += [f"refined {select.refine} steps"] if select.refine else []
    return "".join(f", {part}" for part in parts)


def _longer(populations: list[Population], train: Zoo, images: ImageSet, config: EvaluateConfig) -> list[Outcome]:
    """What is trained for longer than the schedule: some methods as asked for, scratch for as long as the zoo was."""
    full = config.full_length or int(train.table["epoch"].max())
    some = {populations[0].method, ANCHORS, NOISE, SCRATCH}
    outcomes = []
    for epochs, methods in ({full: {SCRATCH}} | {config.long: some}).items():
        if epochs > max(config.epochs):
            own = [population for population in populations if population.method in methods]
            outcomes += evaluate(own, images, replace(config, epochs=(epochs,), long=0))
    return outcomes


def _generated_populations(
    generated: Mapping[str, list[Generated]], architecture: Architecture, latents_per_weight: float
) -> list[Population]:
    """The generated networks of one architecture, by method; methods that made none of it are left out."""
    populations = []
    for method, made in generated.items():
        own = [network.weights for network in made if network.architecture.id == architecture.id]
        if own:
            populations.append(Population(method, architecture, own, latents_per_weight))
    return populations


def _join(parts: list[Novelty]) -> Novelty:
    return Novelty(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _row(outcome: Outcome, novelty: Novelty, latents_per_weight: float) -> dict[str, Any]:
    """A table row; novelty and diversity are medians over the networks before fine-tuning."""
    return {
        "method": outcome.method,
        "epochs": outcome.epochs,
        "accuracy": outcome.accuracy,
        "accuracy_low": outcome.low,
        "accuracy_high": outcome.high,
        "networks": len(outcome.each),
        "ensemble": outcome.ensemble,
        "error_overlap": _or_none(outcome.overlap),
        "novelty": float(np.median(novelty.weights)),
        "functional_novelty": float(np.median(novelty.function)),
        "diversity": _or_none(float(np.median(novelty.diversity))),
        "latents_per_weight": latents_per_weight,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
