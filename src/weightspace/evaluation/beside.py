"""The populations that generated networks are shown beside: everything honest that needs no sampling from SANE."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.autoencoder.conditioning import condition_weights
from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.fidelity import reconstruct
from weightspace.autoencoder.hyper_representation import fit_hyper_representation
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import with_positive_variances
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.controls import (
    WeightComponents,
    add_noise,
    average,
    from_scratch,
    interpolate,
    noise_of_novelty,
)
from weightspace.evaluation.fine_tuning import Population
from weightspace.generation.flat import FlatSpace
from weightspace.generation.novelty import Novelty, NoveltyReference
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.selecting import in_turns, validation_accuracy
from weightspace.images import Images
from weightspace.randomness import derive_generator
from weightspace.tokens.patterns import positions_of
from weightspace.tokens.tokenizing import gather_tokens
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

ANCHORS, MEMBERS, SCRATCH = "anchors as they are", "random zoo members", "from scratch"
DECODED = "anchors, encoded and decoded"
NOISE, NOISE_FUNCTION = "anchor + noise", "anchor + noise, same functional novelty"
WEIGHTS, WEIGHTS_NEW, AVERAGE = "anchors, interpolated", "anchors, interpolated, as new", "average of anchors"
GAUSSIAN, DENSITY, HYPER = "PCA + Gaussian", "PCA + kernel density", "hyper-representation, kernel density"
DENSITY_BANDWIDTHS, HYPER_BANDWIDTH = (0.05, 0.1, 0.2, 0.4), 0.2
BETWEEN = 3


@dataclass(frozen=True)
class Beside:
    """What controls are made of, for one architecture.

    Attributes:
        anchors: in canonical form.
        train: all members that the model was trained on.
        count: how many networks a control keeps.
        draws: so many are drawn by every control that draws, of which validation images keep the best; 0: as many as
            are kept.
        inputs: what batch norms are conditioned on; none are, if there are none.
        spread: whether the best of every anchor are kept first.
    """

    sane: SANE
    architecture: Architecture
    anchors: list[Weights]
    train: Zoo
    reference: NoveltyReference
    validation: Images
    count: int
    draws: int
    inputs: Tensor
    spread: bool

    @property
    def space(self) -> FlatSpace:
        """Where weights are mixed."""
        return FlatSpace(self.sane.preparation, self.architecture)

    def best(self, networks: list[Weights], anchors: list[int] | None = None) -> list[Weights]:
        """The best on validation images, best first, their batch norms conditioned.

        Of networks that have an anchor each, the best of every anchor come first, if those generated were kept so.
        """
        made = [condition_weights(weights, self.architecture, self.inputs) for weights in networks]
        accuracy = validation_accuracy(self.architecture, made, self.validation)
        order = accuracy.argsort(descending=True, stable=True).tolist()
        if self.spread and anchors is not None:
            order = [order[place] for place in in_turns([anchors[place] for place in order])]
        return [made[place] for place in order[: self.count]]


def controls_of(beside: Beside, generated: list[Weights], config: EvaluateConfig) -> list[Population]:
    """Networks that SANE did not sample; what is drawn, as many as were generated and selected alike.

    Args:
        beside: what they are made of.
        generated: noise is chosen to give as much novelty as these have, in weights or in function.
        config: the schedule.
    """
    architecture, anchors, space, seed = beside.architecture, beside.anchors, beside.space, config.seed
    novelty = beside.reference.measure(generated, architecture, beside.validation)
    layout = space.preparation.frame_of(architecture).layout
    latents = len(layout) * beside.sane.config.latent_width
    linear = WeightComponents(beside.reference.flat, latents, space)
    per_weight = linear.size / layout.size
    draws = max(beside.count, beside.draws)
    between = interpolate(anchors, space, count=max(draws, BETWEEN * beside.count), seed=seed)
    as_new = _as_new(beside, between, float(np.median(novelty.weights)))
    gaussian = linear.sample_gaussian(anchors, count=draws, seed=seed)
    density = linear.sample_density(anchors, bandwidths=DENSITY_BANDWIDTHS, count=draws, seed=seed)
    made = [
        Population(ANCHORS, architecture, anchors),
        Population(DECODED, architecture, decoded_anchors(beside), latents / layout.size),
        Population(MEMBERS, architecture, random_members(beside, seed)),
        *_noisy(beside, novelty, draws, seed),
        Population(WEIGHTS, architecture, beside.best(between[:draws])),
        Population(WEIGHTS_NEW, architecture, beside.best(as_new[:draws])),
        Population(AVERAGE, architecture, beside.best(average(anchors, space, count=draws, seed=seed))),
        Population(GAUSSIAN, architecture, beside.best(gaussian), per_weight),
        Population(DENSITY, architecture, beside.best(density), per_weight),
    ]
    if config.hyper_steps:
        made.append(hyper_population(beside, config, draws))
    return [*made, Population(SCRATCH, architecture, from_scratch(architecture, beside.count, seed))]


def decoded_anchors(beside: Beside) -> list[Weights]:
    """What comes of the anchors without sampling: all that is new in them is what the autoencoder loses."""
    architecture = beside.architecture
    decoded = [own.made for own in reconstruct(beside.sane, beside.anchors, architecture)]
    networks = [with_positive_variances(weights, architecture.build()) for weights in decoded]
    return [condition_weights(weights, architecture, beside.inputs) for weights in networks]


def _noisy(beside: Beside, novelty: Novelty, draws: int, seed: int) -> list[Population]:
    """Anchors with noise that, once the best are kept, are as new in weights, and others as new in function."""
    architecture = beside.architecture

    def kept(level: float) -> list[Weights]:
        return beside.best(*add_noise(beside.anchors, beside.space, level=level, count=draws, seed=seed))

    def in_weights(level: float) -> float:
        return float(beside.reference.distances(kept(level), architecture)[0].median())

    def in_function(level: float) -> float:
        return float(np.median(beside.reference.measure(kept(level), architecture, beside.validation).function))

    wanted = {NOISE: (in_weights, novelty.weights), NOISE_FUNCTION: (in_function, novelty.function)}
    return [
        Population(method, architecture, kept(noise_of_novelty(measure, float(np.median(values)))))
        for method, (measure, values) in wanted.items()
    ]


def _as_new(beside: Beside, networks: list[Weights], novelty: float) -> list[Weights]:
    """Those with at least a novelty in weights; the newest of all where too few have it."""
    distances = beside.reference.distances(networks, beside.architecture)[0]
    enough = [place for place, distance in enumerate(distances.tolist()) if distance >= novelty]
    if len(enough) < beside.count:
        enough = distances.argsort(descending=True)[: beside.count].tolist()
    return [networks[place] for place in enough]


def random_members(beside: Beside, seed: int) -> list[Weights]:
    """The last checkpoints of random training members of the architecture."""
    last = beside.train.last().where(architecture=beside.architecture.id)
    order = torch.randperm(len(last), generator=derive_generator(seed, "members"))[: beside.count].tolist()
    return [beside.sane.preparation.canonicalize(last.weights(row), beside.architecture) for row in order]


def hyper_population(beside: Beside, config: EvaluateConfig, draws: int) -> Population:
    """Networks sampled around the anchors in a hyper-representation (S_KDE30 of 2022), trained on the same members.

    Its latent is that of a whole network: as wide as SANE's model, whatever the network's size.
    """
    preparation, architecture = beside.sane.preparation, beside.architecture
    frame = preparation.frame_of(architecture)
    key = preparation.key_of(architecture)
    alike = {name for name, known in beside.train.architectures.items() if preparation.key_of(known) == key}
    own = beside.train.where(lambda table: table["architecture"].isin(alike))
    shape = SANEConfig(latent_width=beside.sane.config.model_width, model_width=beside.sane.config.model_width)
    model = fit_hyper_representation(own, preparation, shape, TrainConfig(steps=config.hyper_steps, seed=config.seed))
    flats = torch.stack([beside.space.flatten(anchor) for anchor in beside.anchors])
    positions = positions_of(frame.layout)
    with torch.inference_mode():
        codes = model.encode(gather_tokens(flats, frame.layout), positions.expand(len(flats), -1, -1))
        sampler = KernelDensity(bandwidth=HYPER_BANDWIDTH).fit(codes[:, None].clone())
        samples = sampler.sample(draws, derive_generator(config.seed, "hyper-representation")).latents[:, 0]
        tokens = model.decode(samples, positions.expand(len(samples), -1, -1)).clone()
    carried = frame.carried_of(beside.anchors[0], architecture.shapes)
    networks = [preparation.restore(one, architecture, carried) for one in tokens]
    return Population(HYPER, architecture, beside.best(networks), shape.latent_width / frame.layout.size)
