"""Generated networks beside what they have to beat, under one schedule, with novelty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.generation.choosing import training_members
from weightspace.generation.config import EvaluateConfig
from weightspace.generation.controls import from_scratch, noise_of_novelty
from weightspace.generation.evaluating import Outcome, Population, evaluate
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.images import ImageSet
from weightspace.zoo.zoo import Zoo

GENERATED, NOISE, ANCHORS, SCRATCH = (
    "SANE, kernel density",
    "anchor + noise",
    "anchors as they are",
    "from scratch",
)


class Comparison(NamedTuple):
    """Rows for tables, and every network's figures behind them."""

    rows: list[dict[str, Any]]
    outcomes: list[Outcome]
    novelty: dict[str, list[Novelty]]


def compare_generated(
    generated: Zoo, open_images: Callable[[int], ImageSet], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Evaluate a generated zoo beside its anchors, from what its `zoo.json` records.

    Args:
        generated: what `write_generated` wrote.
        open_images: images of a given size.
        config: the schedule.

    Raises:
        InputError: not a generated zoo, or its model or anchors have moved.
    """
    made = generated.about.get("generated")
    if not isinstance(made, dict):
        raise InputError(f"expected generated networks in {generated.folder}, found a zoo that was not generated")
    sane = SANE.open(generated.folder / Path(made["sane"]))
    zoo = Zoo.open(generated.folder / Path(made["anchors"]["zoo"]))
    wanted = {(member, epoch) for member, epoch in made["anchors"]["checkpoints"]}
    anchors = zoo.where(lambda table: table[["member", "epoch"]].apply(tuple, axis=1).isin(wanted))
    size = next(iter(generated.architectures.values())).example_shape
    if size is None:
        raise InputError(f"expected an architecture that can be run in {generated.folder}, found none")
    return compare(sane, training_members(sane, zoo), anchors, generated, open_images(size[-1]), config).rows


def compare(
    sane: SANE, train: Zoo, anchors: Zoo, generated: Zoo, images: ImageSet, config: EvaluateConfig
) -> Comparison:
    """Fine-tune generated networks beside anchors, anchors with noise of equal novelty, and random networks.

    Every method has as many networks of an architecture as were generated of it, except that the anchors are
    those there are.
    """
    populations: list[Population] = []
    novelty: dict[str, list[Novelty]] = {}
    for identity in dict.fromkeys(generated.table["architecture"]):
        own = generated.where(architecture=identity)
        near = anchors.where(architecture=identity)
        reference = NoveltyReference(train, sane.preparation, own.architectures[identity])
        for population in _populations(sane, near, own, reference, config.seed):
            populations.append(population)
            measured = reference.measure(population.networks, population.architecture, images.test)
            novelty.setdefault(population.method, []).append(measured)
    outcomes = evaluate(populations, images, config)
    densities = {population.method: population.latents_per_weight for population in populations}
    rows = [to_row(outcome, novelty[outcome.method], densities[outcome.method]) for outcome in outcomes]
    return Comparison(rows, outcomes, novelty)


def to_row(outcome: Outcome, novelty: list[Novelty], latents_per_weight: float) -> dict[str, Any]:
    """A table row; novelty is the median over the networks before fine-tuning."""
    return {
        "method": outcome.method,
        "epochs": outcome.epochs,
        "accuracy": outcome.accuracy,
        "accuracy_low": outcome.low,
        "accuracy_high": outcome.high,
        "networks": len(outcome.each),
        "novelty": float(np.median(np.concatenate([part.weights for part in novelty]))),
        "functional_novelty": float(np.median(np.concatenate([part.function for part in novelty]))),
        "latents_per_weight": latents_per_weight,
    }


def _populations(sane: SANE, anchors: Zoo, generated: Zoo, reference: NoveltyReference, seed: int) -> list[Population]:
    architecture = generated.architectures[str(generated.table["architecture"].iloc[0])]
    made = [generated.weights(row) for row in range(len(generated))]
    near = [sane.preparation.canonicalize(anchors.weights(row), architecture) for row in range(len(anchors))]
    distance = float(reference.distances(made, architecture)[0].median())
    noisy = noise_of_novelty(
        near, architecture, sane.preparation, reference, novelty=distance, count=len(made), seed=seed
    )
    return [
        Population(GENERATED, architecture, made, sane.latents_per_weight),
        Population(NOISE, architecture, noisy),
        Population(ANCHORS, architecture, near),
        Population(SCRATCH, architecture, from_scratch(architecture, len(made), seed)),
    ]
