"""Generated networks beside what they have to beat, under one schedule, with novelty."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.generation.choosing import training_members
from weightspace.generation.config import EvaluateConfig
from weightspace.generation.controls import WeightComponents, average, from_scratch, noise_of_novelty
from weightspace.generation.evaluating import Outcome, Population, evaluate
from weightspace.generation.flat import FlatSpace
from weightspace.generation.generating import Generated
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.images import ImageSet
from weightspace.weights import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

GENERATED, NOISE, ANCHORS, SCRATCH = "SANE, kernel density", "anchor + noise", "anchors as they are", "from scratch"
AVERAGE, GAUSSIAN, DENSITY = "average of anchors", "PCA + Gaussian", "PCA + kernel density"
DENSITY_BANDWIDTH = 0.2


class Comparison(NamedTuple):
    """Rows for tables, and every network's figures behind them (by method, in the order they were made)."""

    rows: list[dict[str, Any]]
    outcomes: list[Outcome]
    novelty: dict[str, Novelty]


def compare_generated(
    generated: Zoo, open_images: Callable[..., ImageSet], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Evaluate a generated zoo beside its controls, from what its `zoo.json` records.

    Args:
        generated: what `write_generated` wrote.
        open_images: images of a given `size`, `seed` of their split, and `limits`: those that the anchors' zoo was
            grown with, so that nothing is tested on images it was trained on.
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
    size = next(iter(generated.architectures.values())).example_shape
    if size is None:
        raise InputError(f"expected an architecture that can be run in {generated.folder}, found none")
    networks = [
        Generated(generated.architectures[str(name)], generated.weights(row), {})
        for row, name in enumerate(generated.table["architecture"])
    ]
    train = training_members(sane, zoo)
    grown = zoo.about.get("images", {})
    limits = tuple(grown.get("limits", (None, None)))
    images = open_images(size=size[-1], seed=grown.get("seed", 0), limits=limits)
    return compare(sane, train, anchors, {GENERATED: networks}, images, config).rows


def compare(
    sane: SANE,
    train: Zoo,
    anchors: Zoo,
    generated: Mapping[str, list[Generated]],
    images: ImageSet,
    config: EvaluateConfig,
) -> Comparison:
    """Fine-tune generated networks beside networks made without an autoencoder.

    Args:
        sane: the model that generated them.
        train: its training members; novelty is measured against all their checkpoints.
        anchors: what was sampled around.
        generated: `method -> networks`; anchors with noise get the novelty of the first method, and every
            control as many networks of an architecture as the first method has.
        images: training images to fine-tune on, test images to score and to compare functions on.
        config: the schedule, the same for all.
    """
    populations: list[Population] = []
    novelty: dict[str, list[Novelty]] = {}
    first = next(iter(generated.values()))
    for architecture in {network.architecture.id: network.architecture for network in first}.values():
        reference = NoveltyReference(train, sane.preparation, architecture)
        space = FlatSpace(sane.preparation, architecture)
        near = anchors.where(architecture=architecture.id)
        canonical = [sane.preparation.canonicalize(near.weights(row), architecture) for row in range(len(near))]
        own = _generated_populations(generated, architecture, sane.latents_per_weight)
        own += _controls(canonical, own[0], space, reference, sane, config.seed)
        for population in own:
            measured = reference.measure(population.networks, architecture, images.test)
            novelty.setdefault(population.method, []).append(measured)
        populations += own
    outcomes = evaluate(populations, images, config)
    joined = {method: _join(parts) for method, parts in novelty.items()}
    densities = {population.method: population.latents_per_weight for population in populations}
    rows = [_row(outcome, joined[outcome.method], densities[outcome.method]) for outcome in outcomes]
    return Comparison(rows, outcomes, joined)


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


def _controls(
    anchors: list[Weights],
    generated: Population,
    space: FlatSpace,
    reference: NoveltyReference,
    sane: SANE,
    seed: int,
) -> list[Population]:
    """Networks made without an autoencoder, as many as were generated."""
    architecture, count = generated.architecture, len(generated.networks)
    layout = sane.preparation.frame_of(architecture).layout
    latents = len(layout) * sane.config.latent_width
    linear = WeightComponents(reference.flat, latents, space)
    distance = float(reference.distances(generated.networks, architecture)[0].median())
    per_weight = linear.size / layout.size
    return [
        Population(ANCHORS, architecture, anchors),
        Population(
            NOISE, architecture, noise_of_novelty(anchors, space, reference, novelty=distance, count=count, seed=seed)
        ),
        Population(AVERAGE, architecture, average(anchors, space, count=count, seed=seed)),
        Population(GAUSSIAN, architecture, linear.sample_gaussian(anchors, count=count, seed=seed), per_weight),
        Population(
            DENSITY,
            architecture,
            linear.sample_density(anchors, bandwidth=DENSITY_BANDWIDTH, count=count, seed=seed),
            per_weight,
        ),
        Population(SCRATCH, architecture, from_scratch(architecture, count, seed)),
    ]


def _join(parts: list[Novelty]) -> Novelty:
    return Novelty(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _row(outcome: Outcome, novelty: Novelty, latents_per_weight: float) -> dict[str, Any]:
    """A table row; novelty is the median over the networks before fine-tuning."""
    return {
        "method": outcome.method,
        "epochs": outcome.epochs,
        "accuracy": outcome.accuracy,
        "accuracy_low": outcome.low,
        "accuracy_high": outcome.high,
        "networks": len(outcome.each),
        "novelty": float(np.median(novelty.weights)),
        "functional_novelty": float(np.median(novelty.function)),
        "latents_per_weight": latents_per_weight,
    }
