"""Controls: what a generator has to beat. Everything honest that needs no sampling from SANE.

Each is a function of a `Contest` and one row of `CONTROLS`. Anchors are in canonical form, so that their weights can be
averaged and mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.hyper_representation import fit_hyper_representation
from weightspace.autoencoder.reconstructing import condition_weights, conditioning_images, reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.batch_norms import with_positive_variances
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population
from weightspace.evaluation.mixing import (
    WeightComponents,
    add_noise,
    average,
    from_scratch,
    interpolate,
    noise_of_novelty,
    shrink,
)
from weightspace.generation.config import SelectConfig
from weightspace.generation.novelty import Novelty, NoveltyReference, StandardizedSpace
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.selecting import best_first, validation_accuracy
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import positions_of
from weightspace.tokens.tokenizing import gather_tokens
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

DENSITY_BANDWIDTHS, HYPER_BANDWIDTH = (0.05, 0.1, 0.2, 0.4), 0.2
BETWEEN = 3


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What generated networks of one architecture are compared under.

    Attributes:
        sane: the model that generated them.
        anchors: in canonical form.
        train: all members that the model was trained on; reference: what novelty is measured with.
        generated: the networks, of which controls are made as many, and selected alike.
        drawn: so many are drawn by every control that draws, of which validation images keep the best; 0: as many as
            are kept.
        images: training images condition batch norms, validation images select.
    """

    sane: SANE
    architecture: Architecture
    anchors: list[Weights]
    train: Zoo
    reference: NoveltyReference
    generated: list[Weights]
    drawn: int
    images: ImageSet
    select: SelectConfig
    config: EvaluateConfig

    @property
    def count(self) -> int:
        """How many networks a control keeps."""
        return len(self.generated)

    @property
    def draws(self) -> int:
        """How many networks a control draws."""
        return max(self.count, self.drawn)

    @property
    def layout(self) -> TokenLayout:
        """How the networks are tokenised."""
        return self.space.frame.layout

    @property
    def latents(self) -> int:
        """Latent numbers of one network in the model."""
        return len(self.layout) * self.sane.config.latent_width

    @cached_property
    def space(self) -> StandardizedSpace:
        """Where weights are mixed."""
        return StandardizedSpace(self.sane.preparation.frame_of(self.architecture), self.architecture)

    @cached_property
    def inputs(self) -> Tensor:
        """What batch norms are conditioned on."""
        return conditioning_images(self.images.train, self.select.condition, self.config.seed)

    @cached_property
    def novelty(self) -> Novelty:
        """That of the generated networks, on validation images."""
        return self.reference.measure(self.generated, self.architecture, self.images.validation)

    @cached_property
    def components(self) -> WeightComponents:
        """As many principal components of aligned weights as the model has latents."""
        return WeightComponents(self.reference.flat, self.latents, self.space)

    @cached_property
    def between(self) -> list[Weights]:
        """Interpolations of anchors: enough to choose new ones from."""
        count = max(self.draws, BETWEEN * self.count)
        return interpolate(self.anchors, self.space, count=count, seed=self.config.seed)

    def distance(self, networks: list[Weights]) -> float:
        """How new networks are in weights: their median distance from the nearest training checkpoint."""
        return float(self.reference.nearest(networks, self.architecture).distances.median())

    def best(self, networks: list[Weights], anchors: list[int] | None = None) -> list[Weights]:
        """The best on validation images, best first, their batch norms conditioned.

        Of networks that have an anchor each, the best of every anchor come first, if those generated were kept so.
        """
        conditioned = [condition_weights(weights, self.architecture, self.inputs) for weights in networks]
        accuracy = validation_accuracy(self.architecture, conditioned, self.images.validation)
        order = best_first(accuracy, anchors if self.select.spread else None)
        return [conditioned[place] for place in order[: self.count]]


def decoded_anchors(contest: Contest) -> list[Weights]:
    """What comes of the anchors without sampling: all that is new in them is what the autoencoder loses."""
    architecture = contest.architecture
    decoded = [pair.decoded for pair in reconstruct(contest.sane, contest.anchors, architecture)]
    networks = [with_positive_variances(weights, architecture.build()) for weights in decoded]
    return [condition_weights(weights, architecture, contest.inputs) for weights in networks]


def random_members(contest: Contest) -> list[Weights]:
    """The last checkpoints of random training members of the architecture."""
    last = contest.train.last().where(architecture=contest.architecture.id)
    order = torch.randperm(len(last), generator=derive_generator(contest.config.seed, "members"))
    chosen = order[: contest.count].tolist()
    return [contest.sane.preparation.canonicalize(last.weights(row), contest.architecture) for row in chosen]


def noise_as_new_in_weights(contest: Contest) -> list[Weights]:
    """Anchors with noise that, once the best are kept, are as new in weights."""
    return _noisy(contest, contest.distance, float(np.median(contest.novelty.weights)))


def noise_as_new_in_function(contest: Contest) -> list[Weights]:
    """Anchors with noise that, once the best are kept, are as new in function."""

    def measure(networks: list[Weights]) -> float:
        measured = contest.reference.measure(networks, contest.architecture, contest.images.validation)
        return float(np.median(measured.function))

    return _noisy(contest, measure, float(np.median(contest.novelty.function)))


def _noisy(contest: Contest, measure: Callable[[list[Weights]], float], novelty: float) -> list[Weights]:
    def kept(level: float) -> list[Weights]:
        noisy = add_noise(contest.anchors, contest.space, level=level, count=contest.draws, seed=contest.config.seed)
        return contest.best(*noisy)

    return kept(noise_of_novelty(lambda level: measure(kept(level)), novelty))


def shrunk_anchors(contest: Contest) -> list[Weights]:
    """Anchors drawn towards fresh networks until, once the best are kept, they are as new in weights.

    What trainings that start from old weights are begun with: shrink and perturb (Ash and Adams, 2020, section 4), its
    two numbers made one, a share of the way.
    """
    fresh = from_scratch(contest.architecture, contest.draws, contest.config.seed)

    def kept(share: float) -> list[Weights]:
        return contest.best(*shrink(contest.anchors, fresh, contest.space, share=share, seed=contest.config.seed))

    wanted = float(np.median(contest.novelty.weights))
    return kept(noise_of_novelty(lambda share: contest.distance(kept(share)), wanted, most=1.0))


def interpolations(contest: Contest) -> list[Weights]:
    """The best between two anchors."""
    return contest.best(contest.between[: contest.draws])


def interpolations_as_new(contest: Contest) -> list[Weights]:
    """The best of those that are as new in weights; of the newest, where too few are."""
    distances = contest.reference.nearest(contest.between, contest.architecture).distances
    wanted = float(np.median(contest.novelty.weights))
    enough = [place for place, distance in enumerate(distances.tolist()) if distance >= wanted]
    if len(enough) < contest.count:
        enough = distances.argsort(descending=True)[: contest.count].tolist()
    return contest.best([contest.between[place] for place in enough][: contest.draws])


def averages(contest: Contest) -> list[Weights]:
    """The best averages of half of the anchors."""
    return contest.best(average(contest.anchors, contest.space, count=contest.draws, seed=contest.config.seed))


def gaussian_components(contest: Contest) -> list[Weights]:
    """The best from one Gaussian over principal components."""
    return contest.best(
        contest.components.sample_gaussian(contest.anchors, count=contest.draws, seed=contest.config.seed)
    )


def density_components(contest: Contest) -> list[Weights]:
    """The best from kernel densities over principal components."""
    return contest.best(
        contest.components.sample_density(
            contest.anchors, bandwidths=DENSITY_BANDWIDTHS, count=contest.draws, seed=contest.config.seed
        )
    )


def hyper_samples(contest: Contest) -> list[Weights]:
    """The best around the anchors in a hyper-representation (S_KDE30 of 2022), trained on the same members.

    Its latent is that of a whole network: as wide as SANE's model, whatever the network's size.
    """
    preparation, architecture, config = contest.sane.preparation, contest.architecture, contest.config
    key, frame = preparation.key_of(architecture), contest.space.frame
    names = {name for name, known in contest.train.architectures.items() if preparation.key_of(known) == key}
    alike = contest.train.where(lambda table: table["architecture"].isin(names))
    width = contest.sane.config.model_width
    training = TrainConfig(steps=config.hyper_steps, seed=config.seed, device=str(contest.sane.device))
    shape = SANEConfig(latent_width=width, model_width=width)
    network = fit_hyper_representation(alike, preparation, shape, training)
    flats = torch.stack([contest.space.flatten(anchor) for anchor in contest.anchors])
    positions = positions_of(frame.layout)
    with torch.no_grad():
        codes = network.encode(gather_tokens(flats, frame.layout), positions.expand(len(flats), -1, -1))
        density = KernelDensity(bandwidth=HYPER_BANDWIDTH).fit(codes[:, None])
        generator = derive_generator(config.seed, "hyper-representation")
        samples = density.sample(contest.draws, generator).latents[:, 0]
        tokens = network.decode(samples, positions.expand(len(samples), -1, -1))
    carried = frame.carried_of(contest.anchors[0], architecture)
    return contest.best([preparation.restore(one, architecture, carried) for one in tokens])


class Control(NamedTuple):
    """One control.

    Attributes:
        label: for tables.
        make: its networks, best first.
        latents: how many latent numbers a network has in it; 0 where it has none.
    """

    label: str
    make: Callable[[Contest], list[Weights]]
    latents: Callable[[Contest], int] = lambda contest: 0


CONTROLS: dict[str, Control] = {
    "anchors": Control("anchors as they are", lambda contest: contest.anchors),
    "decoded": Control("anchors, encoded and decoded", decoded_anchors, lambda contest: contest.latents),
    "members": Control("random zoo members", random_members),
    "noise": Control("anchor + noise", noise_as_new_in_weights),
    "functional noise": Control("anchor + noise, same functional novelty", noise_as_new_in_function),
    "shrunk": Control("anchors, shrunk and perturbed", shrunk_anchors),
    "interpolated": Control("anchors, interpolated", interpolations),
    "interpolated as new": Control("anchors, interpolated, as new", interpolations_as_new),
    "average": Control("average of anchors", averages),
    "gaussian": Control("PCA + Gaussian", gaussian_components, lambda contest: contest.components.size),
    "density": Control("PCA + kernel density", density_components, lambda contest: contest.components.size),
    "hyper": Control(
        "hyper-representation, kernel density", hyper_samples, lambda contest: contest.sane.config.model_width
    ),
    "scratch": Control(
        "from scratch", lambda contest: from_scratch(contest.architecture, contest.count, contest.config.seed)
    ),
}


def controls_of(contest: Contest) -> list[Population]:
    """Every control of a contest; the hyper-representation only where it is to be trained."""
    return [
        Population(
            key,
            control.label,
            contest.architecture,
            control.make(contest),
            control.latents(contest) / contest.layout.size,
        )
        for key, control in CONTROLS.items()
        if key != "hyper" or contest.config.hyper_steps
    ]
