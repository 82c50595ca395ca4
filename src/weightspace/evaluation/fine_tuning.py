"""Fine-tune and score populations of networks under one schedule, so that methods can be compared."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.evaluation.config import EvaluateConfig
from weightspace.images import ImageSet
from weightspace.progress import progress_bar
from weightspace.randomness import derive_seed
from weightspace.side_by_side import (
    BESIDE_EACH_OTHER,
    SideBySide,
    can_stand_side_by_side,
    fit_side_by_side,
    predict_side_by_side,
)
from weightspace.supervised import (
    FitConfig,
    bears_channels_last,
    can_be_stacked,
    draws_at_random,
    faster_alone,
    fit_one,
    fit_stack,
    predict,
    predict_stack,
    stack_weights,
)
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture

BOOTSTRAPS = 1_000


class Population(NamedTuple):
    """Networks of one architecture that one method made.

    Attributes:
        method: what tables call it, and what seeds derive from; key: what rows are found by.
        latents_per_weight: how many latent numbers the method keeps per real weight; 0 where it has none.
    """

    key: str
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
        ensemble: accuracy of the mean answer of the first networks (`EvaluateConfig.ensemble`) of each architecture.
        overlap: of the images that either of two networks gets wrong, the share that both do: mean over pairs; NaN
            for one network.
    """

    method: str
    epochs: int
    accuracy: float
    low: float
    high: float
    each: Float[np.ndarray, "networks"]
    ensemble: float
    overlap: float


def fine_tune(populations: list[Population], images: ImageSet, config: EvaluateConfig | None = None) -> list[Outcome]:
    """Fine-tune every population on the training images and score it on the test images.

    Runs where the images are. All networks are trained with the same optimiser, learning rate and number of steps,
    those of one architecture side by side where that is faster; each has a data order of its own.

    Raises:
        InputError: no populations, or a negative number of epochs.
    """
    config = config or EvaluateConfig()
    if not populations or not config.epochs or min(config.epochs) < 0:
        raise InputError(f"expected networks to evaluate and epochs from 0, found epochs {config.epochs}")
    by_architecture: dict[str, list[Population]] = {}
    for population in populations:
        by_architecture.setdefault(population.architecture.id, []).append(population)
    answered: dict[tuple[str, int], list[_Answered]] = {}
    epochs = sum(len(population.networks) for population in populations) * config.seeds * (max(config.epochs) + 1)
    with progress_bar("fine-tuning", epochs) as advance:
        for group in by_architecture.values():
            for number in range(config.seeds):
                for place, answers in _answers_of(group, images, config, number, advance).items():
                    answered.setdefault(place, []).append(answers)
    order = {population.method: number for number, population in enumerate(populations)}
    outcomes = [_outcome(*place, parts, config) for place, parts in answered.items()]
    return sorted(outcomes, key=lambda outcome: (order[outcome.method], outcome.epochs))


class _Answered(NamedTuple):
    """What the networks of one population and architecture answer on the test images, with one seed."""

    architecture: str
    wrong: Bool[Tensor, "networks images"]
    together: float


def _answers_of(
    group: list[Population], images: ImageSet, config: EvaluateConfig, number: int, advance: Callable[..., None]
) -> dict[tuple[str, int], _Answered]:
    """`(method, epoch) -> answers` for populations of one architecture, with the data orders of one seed."""
    networks = [weights for population in group for weights in population.networks]
    device = images.train.labels.device
    module, labels = group[0].architecture.build().to(device), images.test.labels.cpu()
    names = [(p.method, number_within) for p in group for number_within in range(len(p.networks))]
    seeds = [derive_seed(config.seed, *name, *([number] if number else [])) for name in names]
    answer = _fastest(module, images.train.inputs[:2])
    sizes = [len(population.networks) for population in group]
    answered = {}
    for epoch, outputs in answer(module, networks, images, config, seeds, advance).items():
        for population, answers in zip(group, outputs.cpu().softmax(-1).split(sizes), strict=True):
            mean = answers[: config.ensemble].mean(0).argmax(-1)
            together = float((mean == labels).float().mean())
            wrong = answers.argmax(-1) != labels
            answered[population.method, epoch] = _Answered(population.architecture.id, wrong, together)
    return answered


def _fastest(module: nn.Module, inputs: Float[Tensor, "n ..."]) -> "_Answer":
    """How networks of a module are trained: as a stack, a few side by side, or one by one."""
    if not faster_alone(module, inputs.device):
        return _answer_stacked if can_be_stacked(module, inputs) else _answer_alone
    beside = not draws_at_random(module, inputs) and can_stand_side_by_side(module, inputs)
    return _answer_side_by_side if beside else _answer_alone


# After every epoch that is scored, what networks answer on the test images.
_Outputs = dict[int, Float[Tensor, "networks images classes"]]
_Answer = Callable[[nn.Module, list[Weights], ImageSet, EvaluateConfig, list[int], Callable[..., None]], _Outputs]


def _answer_stacked(
    module: nn.Module,
    networks: list[Weights],
    images: ImageSet,
    config: EvaluateConfig,
    seeds: list[int],
    advance: Callable[..., None],
) -> _Outputs:
    """All networks trained as one stack."""
    fitting = fit_stack(
        module,
        stack_weights(networks),
        images.train,
        _schedule(config),
        learning_rates=torch.full((len(networks),), config.learning_rate),
        weight_decays=torch.zeros(len(networks)),
        seeds=seeds,
    )
    found = {}
    for epoch, stack in fitting:
        advance(len(networks))
        if epoch in config.epochs:
            found[epoch] = predict_stack(module, stack, images.test.inputs)
    return found


def _answer_side_by_side(
    module: nn.Module,
    networks: list[Weights],
    images: ImageSet,
    config: EvaluateConfig,
    seeds: list[int],
    advance: Callable[..., None],
) -> _Outputs:
    """A few networks at a time, which is fastest for convolutions on a CPU."""
    found: dict[int, list[Tensor]] = {epoch: [] for epoch in sorted(set(config.epochs))}
    for first in range(0, len(networks), BESIDE_EACH_OTHER):
        some = slice(first, first + BESIDE_EACH_OTHER)
        beside = SideBySide(module, stack_weights(networks[some]))
        rates = torch.full((beside.count,), config.learning_rate)
        fitting = fit_side_by_side(
            beside, images.train, _schedule(config), learning_rates=rates, weight_decays=rates * 0, seeds=seeds[some]
        )
        for epoch in fitting:
            advance(beside.count)
            if epoch in found:
                found[epoch].append(predict_side_by_side(beside, images.test.inputs))
    return {epoch: torch.cat(outputs) for epoch, outputs in found.items()}


def _answer_alone(
    module: nn.Module,
    networks: list[Weights],
    images: ImageSet,
    config: EvaluateConfig,
    seeds: list[int],
    advance: Callable[..., None],
) -> _Outputs:
    """One network trained after the other, which is twice as fast as a stack for convolutions on a CPU."""
    found: dict[int, list[Tensor]] = {epoch: [] for epoch in sorted(set(config.epochs))}
    last, rate = bears_channels_last(module), config.learning_rate
    for weights, seed in zip(networks, seeds, strict=True):
        module.load_state_dict(weights)
        fitting = fit_one(module, images.train, _schedule(config), learning_rate=rate, seed=seed, channels_last=last)
        for epoch in fitting:
            advance()
            if epoch in found:
                found[epoch].append(predict(module, images.test.inputs))
    return {epoch: torch.stack(outputs) for epoch, outputs in found.items()}


def _schedule(config: EvaluateConfig) -> FitConfig:
    return FitConfig(epochs=max(config.epochs), batch_size=config.batch_size)


def _outcome(method: str, epoch: int, parts: list[_Answered], config: EvaluateConfig) -> Outcome:
    """A population's figures: networks of several architectures side by side, seeds averaged."""
    names = list(dict.fromkeys(part.architecture for part in parts))
    runs = [[part for part in parts if part.architecture == name] for name in names]
    each = torch.cat([1 - torch.stack([part.wrong.float().mean(1) for part in own]).mean(0) for own in runs]).numpy()
    generator = np.random.default_rng(derive_seed(config.seed, "bootstrap", method, epoch))
    means = generator.choice(each, size=(BOOTSTRAPS, len(each))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    ensemble = float(np.mean([part.together for part in parts]))
    wrong = torch.cat([own[0].wrong for own in runs])
    return Outcome(method, epoch, float(each.mean()), float(low), float(high), each, ensemble, _overlap(wrong))


def _overlap(wrong: Bool[Tensor, "networks images"]) -> float:
    """Jaccard index of the mispredicted images, mean over pairs of networks."""
    if len(wrong) < 2:
        return float("nan")
    shared = wrong.float() @ wrong.float().T
    either = (wrong.sum(1)[:, None] + wrong.sum(1)[None] - shared).clamp_min(1)
    apart = ~torch.eye(len(wrong), dtype=torch.bool)
    return float((shared / either)[apart].mean())
