"""Controls: what a generator has to beat. Everything honest that needs no sampling from SANE.

Each is a function of a `Contest` and one row of `CONTROLS`. Anchors are in canonical form, so that their weights can be
averaged and mixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.hyper_representation import fit_hyper_representation
from weightspace.autoencoder.reconstructing import condition_weights, conditioning_images, reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.batch_norms import with_positive_variances
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.fine_tuning import Population
from weightspace.generation.config import SelectConfig
from weightspace.generation.novelty import Novelty, NoveltyReference, StandardizedSpace
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.selecting import best_first, validation_accuracy
from weightspace.images import ImageSet
from weightspace.randomness import derive_generator
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import positions_of
from weightspace.tokens.tokenizing import gather_tokens
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.growing.networks import initialize
from weightspace.zoo.zoo import Zoo

SEARCH_STEPS, MOST_NOISE = 10, 4.0
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
    def components(self) -> "WeightComponents":
        """As many principal components of aligned weights as the model has latents."""
        return WeightComponents(self.reference.flat, self.latents, self.space)

    @cached_property
    def between(self) -> list[Weights]:
        """Interpolations of anchors: enough to choose new ones from."""
        count = max(self.draws, BETWEEN * self.count)
        return interpolate(self.anchors, self.space, count=count, seed=self.config.seed)

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

    def measure(networks: list[Weights]) -> float:
        return float(contest.reference.nearest(networks, contest.architecture).distances.median())

    return _noisy(contest, measure, float(np.median(contest.novelty.weights)))


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
    seed = contest.config.seed
    return contest.best(average(contest.anchors, contest.space, count=contest.draws, seed=seed))


def gaussian_components(contest: Contest) -> list[Weights]:
    """The best from one Gaussian over principal components."""
    drawn = contest.components.sample_gaussian(contest.anchors, count=contest.draws, seed=contest.config.seed)
    return contest.best(drawn)


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


def from_scratch(architecture: Architecture, count: int, seed: int) -> list[Weights]:
    """Freshly initialised networks (Kaiming, uniform)."""
    return [
        initialize(architecture.build(), "kaiming_uniform", derive_generator(seed, "scratch", number)).state_dict()
        for number in range(count)
    ]


class Noisy(NamedTuple):
    """Networks with noise, and which anchor each one is of."""

    networks: list[Weights]
    anchors: list[int]


def add_noise(anchors: list[Weights], space: StandardizedSpace, *, level: float, count: int, seed: int) -> Noisy:
    """Anchors, drawn with replacement, with Gaussian noise on their weights.

    `level` is the standard deviation of the noise, as a share of that of each tensor.
    """
    generator = derive_generator(seed, "anchor noise")
    noisy = Noisy([], [])
    for _ in range(count):
        place = int(torch.randint(len(anchors), (), generator=generator))
        flat = space.flatten(anchors[place])
        flat = flat + level * torch.randn(flat.shape, generator=generator)
        noisy.networks.append(space.restore(flat, anchors[place]))
        noisy.anchors.append(place)
    return noisy


def noise_of_novelty(measure: Callable[[float], float], novelty: float) -> float:
    """The level of noise that gives a novelty, found by bisection.

    Args:
        measure: the novelty that a level gives to the networks which are kept; it grows with the level.
        novelty: what it should be.
    """
    low, high = 0.0, MOST_NOISE
    for _ in range(SEARCH_STEPS):
        level = (low + high) / 2
        low, high = (level, high) if measure(level) < novelty else (low, level)
    return level


def interpolate(anchors: list[Weights], space: StandardizedSpace, *, count: int, seed: int) -> list[Weights]:
    """Convex combinations of the weights of two anchors in random shares."""
    flats = torch.stack([space.flatten(anchor) for anchor in anchors])
    density = Interpolation().fit(flats[:, None])
    samples = density.sample(count, derive_generator(seed, "interpolation")).latents[:, 0]
    return [space.restore(flat, anchors[0]) for flat in samples]


def average(anchors: list[Weights], space: StandardizedSpace, *, count: int, seed: int) -> list[Weights]:
    """Averages of the weights of a random half of the anchors (at least two, where there are two)."""
    generator = derive_generator(seed, "average")
    size = min(len(anchors), max(2, len(anchors) // 2))
    flats = torch.stack([space.flatten(anchor) for anchor in anchors])
    chosen = [torch.randperm(len(anchors), generator=generator)[:size] for _ in range(count)]
    return [space.restore(flats[rows].mean(0), anchors[int(rows[0])]) for rows in chosen]


class WeightComponents:
    """Principal components of aligned weights: a linear autoencoder to sample in.

    Fitted on all training checkpoints, with as many components (`size`) as asked for where there are enough.
    """

    def __init__(self, training: Float[Tensor, "networks size"], components: int, space: StandardizedSpace) -> None:
        self._pca = PCA(min(components, *training.shape), random_state=0).fit(training.numpy())
        self._space = space
        self.size: int = int(self._pca.n_components_)

    def codes(self, anchors: list[Weights]) -> Float[Tensor, "anchors components"]:
        """The anchors' components."""
        flats = torch.stack([self._space.flatten(anchor) for anchor in anchors])
        return torch.from_numpy(self._pca.transform(flats.numpy()))

    def sample_gaussian(self, anchors: list[Weights], *, count: int, seed: int) -> list[Weights]:
        """Networks from a Gaussian with the anchors' mean and spread in every component."""
        codes = self.codes(anchors)
        noise = torch.randn(count, codes.shape[1], generator=derive_generator(seed, "components"))
        spread = codes.std(0, correction=0)
        return self._restore(codes.mean(0) + spread * noise, anchors)

    def sample_density(
        self, anchors: list[Weights], *, bandwidths: Sequence[float], count: int, seed: int
    ) -> list[Weights]:
        """Networks from kernel densities, as many with each bandwidth, so that selection can choose between them."""
        codes = self.codes(anchors)[:, None]
        drawn = []
        for number, bandwidth in enumerate(bandwidths):
            share = len(range(number, count, len(bandwidths)))
            if share:
                density = KernelDensity(bandwidth=bandwidth).fit(codes)
                drawn.append(density.sample(share, derive_generator(seed, "components", number)).latents[:, 0])
        return self._restore(torch.cat(drawn), anchors)

    def _restore(self, codes: Float[Tensor, "networks components"], anchors: list[Weights]) -> list[Weights]:
        flats = torch.from_numpy(self._pca.inverse_transform(codes.numpy()))
        return [self._space.restore(flat.float(), anchors[0]) for flat in flats]
