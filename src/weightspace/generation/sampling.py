"""Networks from sampled latents: a sampler by name, latents drawn around anchors, whole weights decoded, and where
every number of a network comes from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.reconstructing import condition_weights
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import norm_statistics, with_positive_variances
from weightspace.errors import InputError
from weightspace.generation.anchors import Anchors
from weightspace.generation.config import SamplerConfig
from weightspace.generation.samplers.gaussian import Gaussian, Mixture, RandomLatents
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity, published_sampler
from weightspace.generation.samplers.sampler import Sampler
from weightspace.randomness import derive_generator
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import OUR_FACTORIES, Architecture

SOURCES = {
    "generated": "generated",
    "copied": "copied from generated rows",
    "conditioned": "averaged over images",
    "reinitialized": "as the module was initialised",
    "carried": "carried over from an anchor",
}


@dataclass(frozen=True)
class Coverage:
    """Where every tensor of a network comes from.

    Attributes:
        tensors: name -> `generated`; `copied`: rows drawn from the generated rows of a head of another size;
            `conditioned`: batch-norm statistics averaged over images; `reinitialized`: left as the module was
            initialised; `carried`: no 16- or 32-bit float, taken from an anchor.
        sizes: name -> how many numbers it has.

    Examples:
        >>> print(Coverage({"weight": "generated", "count": "carried"}, {"weight": 6, "count": 1}))
        6 numbers generated, 1 numbers carried over from an anchor
    """

    tensors: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers by where they come from."""
        counts = dict.fromkeys(SOURCES, 0)
        for name, source in self.tensors.items():
            counts[source] += self.sizes[name]
        return counts

    def share(self, source: str) -> float:
        """The share of all numbers that come from one source, in [0, 1]."""
        return self.counts[source] / max(1, sum(self.sizes.values()))

    def with_source(self, source: str, names: Iterable[str]) -> "Coverage":
        """The same, but for some of its tensors."""
        return replace(self, tensors={**self.tensors, **{name: source for name in names if name in self.tensors}})

    def __str__(self) -> str:
        return describe_counts(self.counts)


def describe_counts(counts: Mapping[str, int]) -> str:
    """Numbers by where they come from, in words; what there is none of is left out."""
    return ", ".join(f"{counts[name]:,} numbers {words}" for name, words in SOURCES.items() if counts.get(name))


@dataclass(frozen=True, eq=False)
class Generated(Mapping[str, Tensor]):
    """One generated network: its weights by name, as `load_state_dict` takes them, and where they come from.

    Attributes:
        architecture: of its anchor.
        weights: complete: they load strictly.
        coverage: which tensors were generated, conditioned (batch-norm statistics averaged over images) and carried
            over from an anchor.
        latents: what it was decoded from, if it was just now.
        anchor: the number of the anchor it is centred on; -1 if there is no single one.
    """

    architecture: Architecture
    weights: Weights
    coverage: Coverage
    latents: Float[Tensor, "tokens latent"] | None = None
    anchor: int = -1

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _density(config: SamplerConfig) -> KernelDensity:
    relative = config.bandwidth_in == "spread"
    return KernelDensity(bandwidth=config.bandwidth, relative=relative, anchor=config.anchor, noise=config.noise)


def _interpolation(config: SamplerConfig) -> Interpolation:
    noise = config.bandwidth if config.noisy else 0.0
    return Interpolation(mixed=config.mixed, neighbors=config.neighbors, along=config.along, bandwidth=noise)


SAMPLERS: dict[str, Callable[[SamplerConfig], Sampler]] = {
    "kernel-density": _density,
    "published": lambda config: published_sampler(config.bandwidth),
    "gaussian": lambda config: Gaussian(scale=config.scale),
    "mixture": lambda config: Mixture(components=config.components, scale=config.scale),
    "interpolation": _interpolation,
    "random": lambda config: RandomLatents(scale=config.scale, onwards=_density(config)),
}


def make_sampler(config: SamplerConfig) -> Sampler:
    """The sampler that a configuration names."""
    return SAMPLERS[config.sampler](config)


def sample_networks(
    sane: SANE, anchors: Anchors, count: int, *, seed: int = 0, sampler: Sampler | None = None
) -> list[Generated]:
    """Networks as they are drawn around encoded anchors, neither conditioned nor selected.

    Raises:
        InputError: no networks asked for, or a sampler that blends anchors and a single one, or some of different
            architectures.
    """
    sampler = sampler or KernelDensity()
    if count < 1:
        raise InputError(f"expected at least 1 network to generate, found {count}")
    names = {architecture.id for architecture in anchors.architectures}
    if not sampler.keeps_anchor and len(names) > 1:
        raise InputError(f"expected anchors of one architecture to blend, found {', '.join(sorted(names))}")
    if not sampler.keeps_anchor and len(anchors.latents) < 2:
        raise InputError("expected at least 2 anchors to blend, found 1")
    samples = sampler.fit(anchors.latents, anchors.layers).sample(count, derive_generator(seed, "generate"))
    networks = []
    for latents, chosen in zip(samples.latents, samples.anchors, strict=True):
        anchor = max(0, int(chosen[0]))
        network = decode_network(sane, latents, anchors.architectures[anchor], anchors.carried[anchor])
        networks.append(replace(network, anchor=anchor) if sampler.keeps_anchor else network)
    return networks


def decode_network(
    sane: SANE, latents: Float[Tensor, "tokens latent"], architecture: Architecture, carried: Weights
) -> Generated:
    """A whole network from its latents, and what is carried beside them."""
    weights = sane.decode(latents, architecture, carried)
    if carried and architecture.factory in OUR_FACTORIES:  # counters: there may be batch norms
        weights = with_positive_variances(weights, architecture.build())
    frame = sane.preparation.frame_of(architecture)
    names = frame.own_names(architecture)
    sources = {names[name]: "generated" for name in frame.layout.names} | {names[name]: "carried" for name in carried}
    sizes = {name: weights[name].numel() for name in sources}
    return Generated(architecture, weights, Coverage(sources, sizes), latents)


def condition(network: Generated, inputs: Float[Tensor, "n ..."]) -> Generated:
    """A network whose batch norms have statistics of the inputs; without batch norms or inputs the network itself."""
    if len(inputs) == 0:
        return network
    weights = condition_weights(network.weights, network.architecture, inputs)
    if weights is network.weights:
        return network
    statistics = norm_statistics(network.architecture.build())
    return replace(network, weights=weights, coverage=network.coverage.with_source("conditioned", statistics))


def carried_of(sane: SANE, network: Generated) -> Weights:
    """What a network's latents do not hold, under the names of its frame."""
    return sane.preparation.frame_of(network.architecture).carried_of(network.weights, network.architecture)


def latents_of(networks: Sequence[Generated]) -> Float[Tensor, "networks tokens latent"]:
    """What networks were decoded from."""
    return torch.stack([network.latents for network in networks if network.latents is not None])


def by_architecture(networks: Sequence[Generated]) -> Iterator[tuple[Architecture, list[int]]]:
    """Every architecture of some networks, and the places of those that have it."""
    for architecture in {network.architecture.id: network.architecture for network in networks}.values():
        yield architecture, [n for n, network in enumerate(networks) if network.architecture.id == architecture.id]
