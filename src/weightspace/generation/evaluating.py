"""Fine-tune and score populations of networks under one schedule, so that methods can be compared."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from weightspace.errors import InputError
from weightspace.generation.config import EvaluateConfig
from weightspace.images import ImageSet
from weightspace.randomness import derive_seed
from weightspace.supervised import FitConfig, fit_stack, score_stack, stack_weights
from weightspace.weights import Weights
from weightspace.zoo.architecture import Architecture

BOOTSTRAPS = 1_000


class Population(NamedTuple):
    """Networks of one architecture that one method made.

    Attributes:
        latents_per_weight: how many latent numbers the method keeps per real weight; 0 where it has none.
    """

    method: str
    architecture: Architecture
    networks: list[Weights]
    latents_per_weight: float = 0.0


class Outcome(NamedTuple):
    """Test accuracy of one population after some epochs of fine-tuning.

    Attributes:
        accuracy: mean over the networks; `low` and `high` the 95 % interval of that mean, by bootstrap over
            the networks.
        each: every network's accuracy.
    """

    method: str
    epochs: int
    accuracy: float
    low: float
    high: float
    each: Float[np.ndarray, "networks"]


def evaluate(populations: list[Population], images: ImageSet, config: EvaluateConfig | None = None) -> list[Outcome]:
    """Fine-tune every population on the training images and score it on the test images.

    All networks of one architecture are trained side by side with the same optimiser, learning rate and
    number of steps; each has a data order of its own.

    Raises:
        InputError: no populations, or a negative number of epochs.
    """
    config = config or EvaluateConfig()
    config.check()
    if not populations or not config.epochs or min(config.epochs) < 0:
        raise InputError(f"expected networks to evaluate and epochs from 0, found epochs {config.epochs}")
    by_architecture: dict[str, list[Population]] = {}
    for population in populations:
        by_architecture.setdefault(population.architecture.id, []).append(population)
    accuracies: dict[tuple[str, int], list[float]] = {}
    for group in by_architecture.values():
        for epoch, scored in _fine_tune(group, images, config).items():
            for method, values in scored.items():
                accuracies.setdefault((method, epoch), []).extend(values)
    order = {population.method: number for number, population in enumerate(populations)}
    outcomes = [_outcome(method, epoch, values, config.seed) for (method, epoch), values in accuracies.items()]
    return sorted(outcomes, key=lambda outcome: (order[outcome.method], outcome.epochs))


def _fine_tune(
    group: list[Population], images: ImageSet, config: EvaluateConfig
) -> Mapping[int, Mapping[str, list[float]]]:
    """`epoch -> method -> test accuracy of every network` for populations of one architecture."""
    networks = [weights for population in group for weights in population.networks]
    owners = [population.method for population in group for _ in population.networks]
    module = group[0].architecture.build()
    fitting = fit_stack(
        module,
        stack_weights(networks),
        images.train,
        FitConfig(epochs=max(config.epochs), batch_size=config.batch_size),
        learning_rates=torch.full((len(networks),), config.learning_rate),
        weight_decays=torch.zeros(len(networks)),
        seeds=[derive_seed(config.seed, p.method, number) for p in group for number in range(len(p.networks))],
    )
    scored: dict[int, dict[str, list[float]]] = {}
    for epoch, stack in fitting:
        if epoch in config.epochs:
            accuracy = score_stack(module, stack, images.test).accuracy.tolist()
            scored[epoch] = {method: [] for method in owners}
            for method, value in zip(owners, accuracy, strict=True):
                scored[epoch][method].append(value)
    return scored


def _outcome(method: str, epoch: int, values: list[float], seed: int) -> Outcome:
    each = np.array(values)
    generator = np.random.default_rng(derive_seed(seed, "bootstrap", method, epoch))
    means = generator.choice(each, size=(BOOTSTRAPS, len(each))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Outcome(method, epoch, float(each.mean()), float(low), float(high), each)
