"""The bandwidth that makes networks as new as they are asked to be, and no wider."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError, require_between
from weightspace.generation.generating import Generated
from weightspace.generation.novelty import NoveltyReference
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.images import Images
from weightspace.zoo.zoo import Zoo

BANDWIDTHS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)


class Widened(NamedTuple):
    """A sampler that is wide enough, and the networks that it made."""

    sampler: KernelDensity
    networks: list[Generated]


def widen(
    sampler: KernelDensity,
    novelty: float,
    make: Callable[[Sampler], list[Generated]],
    measure: Callable[[list[Generated]], float],
) -> Widened:
    """The narrowest of some bandwidths, from 0.05 to 0.4, at which what is made is as new as asked.

    A decoder alone makes networks somewhat new; noise on latents makes them newer and less accurate.

    Args:
        sampler: whose bandwidth is replaced; it counts as a share of the anchors' spread.
        novelty: see `measure`.
        make: networks of a sampler, as they will be kept.
        measure: how new they are; see `novelty_of`.

    Raises:
        InputError: a bandwidth in latent units, a negative novelty, or one that none of the bandwidths gives.
    """
    require_between("the novelty", novelty, 0)
    if not sampler.relative:
        raise InputError("expected a bandwidth relative to the anchors' spread to widen, found one in latent units")
    found = 0.0
    for bandwidth in BANDWIDTHS:
        wider = replace(sampler, bandwidth=bandwidth)
        networks = make(wider)
        found = measure(networks)
        if found >= novelty:
            return Widened(wider, networks)
    raise InputError(f"expected networks of novelty {novelty:g}, found {found:.2f} at bandwidth {BANDWIDTHS[-1]:g}")


def novelty_of(sane: SANE, train: Zoo, validation: Images) -> Callable[[list[Generated]], float]:
    """How new networks are to a zoo: the median in weights or in function (see `Novelty`), whichever is less.

    Args:
        sane: the model that made them.
        train: all checkpoints that it was trained on.
        validation: what functions are compared on. Of several architectures the least new one counts.

    Raises:
        InputError: when measuring, an architecture with the tensors of no checkpoint.
    """
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
