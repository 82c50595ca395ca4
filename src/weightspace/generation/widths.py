"""How wide to sample: as validation networks' latents are likeliest, or as makes networks new, and no wider."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.coding import encode_corpus
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import opened_corpus
from weightspace.errors import InputError, require_between
from weightspace.generation.anchors import Anchors
from weightspace.generation.config import SamplerConfig
from weightspace.generation.novelty import NoveltyReference
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import Generated, by_architecture, make_sampler
from weightspace.images import ImageSet
from weightspace.zoo.zoo import Zoo

CANDIDATES = tuple(round(0.02 * 1.25**step, 3) for step in range(24))
BANDWIDTHS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
SMALLEST_SPREAD = 1e-6


def with_likeliest_bandwidth(sane: SANE, config: SamplerConfig, anchors: Anchors, validation: Zoo) -> SamplerConfig:
    """A kernel density with the bandwidth under which the last checkpoints of validation members are likeliest.

    Raises:
        InputError: another sampler, members the model was trained on, or a refusal of `choose_bandwidth`.
    """
    sampler = make_sampler(config)
    if not isinstance(sampler, KernelDensity):
        raise InputError(f"expected a kernel density to choose a bandwidth for, found {config.sampler}")
    known = sane.trained_on(validation)
    if known:
        raise InputError(f"expected members that the model was not trained on, found {min(known)}")
    names = {architecture.id for architecture in anchors.architectures}
    alike = validation.last().where(lambda table: table["architecture"].isin(names))
    if len(alike):
        with opened_corpus(alike, sane.preparation) as corpus:
            for latents in encode_corpus(sane.network, corpus):
                if latents.values.shape[1:] == anchors.latents.shape[1:]:
                    chosen = choose_bandwidth(sampler, anchors.latents, latents.values, anchors.layers)
                    return replace(config, bandwidth=chosen)
    raise InputError("expected validation members of the anchors' architectures, found none")


def choose_bandwidth(
    sampler: KernelDensity,
    anchors: Float[Tensor, "anchors tokens latent"],
    validation: Float[Tensor, "networks tokens latent"],
    layers: Int[Tensor, "tokens"] | None = None,
) -> float:
    """The candidate, between 0.02 and 2.7, under which validation networks' latents are likeliest.

    The likelihood is that of the sampler: of whole sequences where tokens share an anchor, else of layers or tokens.

    Raises:
        InputError: fewer than two anchors, no validation networks, or a sampler whose bandwidth or noise is of another
            kind (in latent units; one noise vector for all tokens).
    """
    if len(anchors) < 2 or len(validation) == 0:
        found = f"{len(anchors)} and {len(validation)}"
        raise InputError(f"expected at least 2 anchors and 1 validation network to choose a bandwidth, found {found}")
    if not sampler.relative or sampler.noise == "shared":
        raise InputError("expected a kernel density with relative bandwidth and independent noise, found another")
    owner = sampler.owners(anchors.shape[1], layers)
    spread = anchors.std(0).clamp_min(SMALLEST_SPREAD)
    gaps = ((validation[:, None] - anchors[None]) / spread).square().sum(-1)
    grouped = torch.zeros(*gaps.shape[:2], int(owner.max()) + 1).index_add(2, owner, gaps)
    size = anchors[0].numel()

    def likelihood(bandwidth: float) -> float:
        per_group = torch.logsumexp(-grouped / (2 * bandwidth**2), dim=1)
        return float(per_group.sum(1).mean()) - size * float(torch.tensor(bandwidth).log())

    return max(CANDIDATES, key=likelihood)


class Width(NamedTuple):
    """A kernel density that is wide enough, and the networks that it made."""

    sampling: SamplerConfig
    networks: list[Generated]


def width_for_novelty(
    sampling: SamplerConfig,
    novelty: float,
    make: Callable[[Sampler], list[Generated]],
    measure: Callable[[list[Generated]], float],
) -> Width:
    """The narrowest of some bandwidths, from 0.05 to 0.4, at which what is made is as new as asked.

    A decoder alone makes networks somewhat new; noise on latents makes them newer and less accurate.

    Args:
        sampling: a kernel density, whose bandwidth is replaced; it counts as a share of the anchors' spread.
        novelty: see `measure`.
        make: networks of a sampler, as they will be kept.
        measure: how new they are; see `novelty_of`.

    Raises:
        InputError: another sampler, a bandwidth in latent units, a negative novelty, or one that none of the bandwidths
            gives.
    """
    require_between("the novelty", novelty, 0)
    if sampling.sampler != "kernel-density" or sampling.bandwidth_in != "spread":
        found = f"{sampling.sampler}, in units of the {sampling.bandwidth_in}"
        raise InputError(f"expected a kernel density to widen, in units of the anchors' spread, found {found}")
    reached = 0.0
    for bandwidth in BANDWIDTHS:
        wider = replace(sampling, bandwidth=bandwidth)
        networks = make(make_sampler(wider))
        reached = measure(networks)
        if reached >= novelty:
            return Width(wider, networks)
    raise InputError(f"expected networks of novelty {novelty:g}, found {reached:.2f} at bandwidth {BANDWIDTHS[-1]:g}")


def novelty_of(sane: SANE, train: Zoo, images: ImageSet | None) -> Callable[[list[Generated]], float]:
    """How new networks are to a zoo: the median in weights or in function (see `Novelty`), whichever is less.

    Args:
        sane: the model that made them.
        train: all checkpoints that it was trained on.
        images: functions are compared on the validation images. Of several architectures the least new one counts.

    Raises:
        InputError: no images; when measuring, an architecture with the tensors of no checkpoint.
    """
    if images is None:
        raise InputError("expected images (--data) to compare functions on, found none, nor those of the anchors' zoo")
    validation = images.validation
    references: dict[str, NoveltyReference] = {}

    def measure(networks: list[Generated]) -> float:
        least = []
        for architecture, places in by_architecture(networks):
            if architecture.id not in references:
                references[architecture.id] = NoveltyReference(train, sane.preparation, architecture)
            alike = [networks[place].weights for place in places]
            novelty = references[architecture.id].measure(alike, architecture, validation)
            least += [float(np.median(novelty.weights)), float(np.median(novelty.function))]
        return min(least)

    return measure
