"""The bandwidth that makes networks as new as they are asked to be, and no wider."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError, require_between
from weightspace.generation.config import SamplerConfig
from weightspace.generation.generating import Generated
from weightspace.generation.novelty import NoveltyReference
from weightspace.generation.samplers.named import make_sampler
from weightspace.generation.samplers.sampler import Sampler
from weightspace.images import ImageSet
from weightspace.zoo.zoo import Zoo

BANDWIDTHS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


class Widened(NamedTuple):
    """A kernel density that is wide enough, and the networks that it made."""

    sampling: SamplerConfig
    networks: list[Generated]


def widen(
    sampling: SamplerConfig,
    novelty: float,
    make: Callable[[Sampler], list[Generated]],
    measure: Callable[[list[Generated]], float],
) -> Widened:
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
            return Widened(wider, networks)
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
        for architecture in {network.architecture.id: network.architecture for network in networks}.values():
            if architecture.id not in references:
                references[architecture.id] = NoveltyReference(train, sane.preparation, architecture)
            own = [network.weights for network in networks if network.architecture.id == architecture.id]
            found = references[architecture.id].measure(own, architecture, validation)
            least += [float(np.median(found.weights)), float(np.median(found.function))]
        return min(least)

    return measure
