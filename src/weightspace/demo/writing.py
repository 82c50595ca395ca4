"""The demo's second question: what are generated networks worth?"""

from typing import Any

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.demo.config import DemoConfig
from weightspace.generation.config import EvaluateConfig
from weightspace.generation.controls import from_scratch, noise_of_novelty
from weightspace.generation.evaluating import Outcome, Population, evaluate
from weightspace.generation.generating import Generated
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.images import ImageSet
from weightspace.zoo.zoo import Zoo


def choose_anchors(train: Zoo, count: int) -> Zoo:
    """The best members of the architecture whose best members are best, all by validation accuracy."""
    last = train.last()
    by_architecture = [last.where(architecture=name) for name in sorted(set(last.table["architecture"]))]
    candidates = [zoo.best(min(count, len(zoo.members)), by="validation_accuracy") for zoo in by_architecture]
    return max(candidates, key=lambda zoo: (len(zoo), zoo.table["validation_accuracy"].mean()))


def write_networks(
    sane: SANE, train: Zoo, anchors: Zoo, generated: list[Generated], images: ImageSet, config: DemoConfig
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fine-tune generated networks beside their controls; returns table rows and figure data."""
    architecture = generated[0].architecture
    reference = NoveltyReference(train, sane.preparation, architecture)
    canonical = sane.preparation.canonicalize
    anchor_weights = [canonical(anchors.weights(row), architecture) for row in range(len(anchors))]
    made = [network.weights for network in generated]
    novelty = float(np.median(reference.distances(made, architecture)[0]))
    noisy, level = noise_of_novelty(
        anchor_weights,
        architecture,
        sane.preparation,
        reference,
        novelty=novelty,
        count=config.networks,
        seed=config.seed,
    )
    populations = [
        Population("SANE, kernel density", architecture, made, sane.latents_per_weight),
        Population(f"anchor + noise ({level:.2f})", architecture, noisy),
        Population("anchors as they are", architecture, anchor_weights),
        Population("from scratch", architecture, from_scratch(architecture, config.networks, config.seed)),
    ]
    outcomes = evaluate(populations, images, EvaluateConfig(seed=config.seed))
    measured = {
        population.method: reference.measure(population.networks, architecture, images.test)
        for population in populations
    }
    densities = {population.method: population.latents_per_weight for population in populations}
    rows = [to_row(outcome, measured[outcome.method], densities[outcome.method]) for outcome in outcomes]
    return rows, {"fine_tuning": fine_tuning_figure(outcomes, config.networks)}


def to_row(outcome: Outcome, novelty: Novelty, latents_per_weight: float) -> dict[str, Any]:
    """A row of `results.json`; novelty is that of the networks before fine-tuning."""
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


def fine_tuning_figure(outcomes: list[Outcome], networks: int) -> dict[str, Any]:
    """Accuracy over epochs of fine-tuning, per method."""
    curves: dict[str, list[list[float]]] = {}
    for outcome in outcomes:
        curves.setdefault(outcome.method, []).append([outcome.epochs, outcome.accuracy, outcome.low, outcome.high])
    return {"curves": curves, "facts": {"networks": networks}}
