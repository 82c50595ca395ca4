"""Many samples, of which validation images keep the best.

Paper, section 3.4 and appendix: subsampling draws many networks and keeps the best; bootstrapping makes the best the
anchors of another round. Deviations: rankings are made on validation images only (the successor's code falls back to
test images), and what is returned is the best of the last round (the published code returns the first that were drawn).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.conditioning import conditioning_images
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import batch_norms
from weightspace.errors import InputError, require_between
from weightspace.generation.conditioning import condition
from weightspace.generation.config import SelectConfig
from weightspace.generation.generating import Anchors, Generated, carried_of, latents_of, sample_networks
from weightspace.generation.refining import refine
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.random_latents import RandomLatents
from weightspace.generation.samplers.sampler import Sampler
from weightspace.images import Images, ImageSet
from weightspace.randomness import derive_seed
from weightspace.supervised import score_stack, stack_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import require_images


class Ranked(NamedTuple):
    """Networks with their accuracy on validation images, in the order in which they are kept."""

    networks: list[Generated]
    accuracies: list[float]


def generate_selected(
    sane: SANE,
    anchors: Anchors,
    count: int,
    images: ImageSet,
    config: SelectConfig,
    *,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> Ranked:
    """Sample networks, condition them, and keep those that are best on validation images.

    Args:
        sane: a trained model.
        anchors: encoded.
        count: how many networks are kept.
        images: the training images condition (and refine), the validation images rank; test images are not used.
        config: how many are drawn, in how many rounds.
        seed: decides all that is random.
        sampler: kernel density with its default choices without it. From the second round on, a start from random
            latents goes on with its `onwards`.

    Raises:
        InputError: fewer draws than networks to keep, or a refusal of `generate`.
    """
    config.check()
    require_between("the number of networks", count, 1)
    draws = config.draws or count
    if draws < count:
        raise InputError(f"expected at least {count} draws to keep {count} networks, found {draws}")
    require_images_for(anchors, images)
    inputs = conditioning_images(images.train, config.condition, seed)
    sampler, ranked = sampler or KernelDensity(), Ranked([], [])
    for number in range(config.rounds):
        made = sample_networks(sane, anchors, draws, seed=derive_seed(seed, "round", number), sampler=sampler)
        ranked = rank([condition(network, inputs) for network in made], images)
        ranked = spread_out(ranked) if config.spread else ranked
        if number + 1 < config.rounds:
            anchors = _anchors_from(sane, ranked.networks[: config.keep], anchors)
            sampler = sampler.onwards if isinstance(sampler, RandomLatents) else sampler
    if not config.refine:
        return Ranked(ranked.networks[:count], ranked.accuracies[:count])
    kept = refine(sane, ranked.networks[:count], images.train, config, seed=seed)
    return rank([condition(network, inputs) for network in kept], images)


def spread_out(ranked: Ranked) -> Ranked:
    """The best of every anchor first, then the second of every anchor, and so on; blends count as an anchor each."""
    places = in_turns([network.anchor for network in ranked.networks])
    return Ranked([ranked.networks[place] for place in places], [ranked.accuracies[place] for place in places])


def in_turns(anchors: Sequence[int]) -> list[int]:
    """Places with the first of every anchor first, then the second of every anchor, and so on; -1 is always a first."""
    turns: dict[int, int] = {}
    order = []
    for place, anchor in enumerate(anchors):
        turn = turns.get(anchor, 0) if anchor >= 0 else 0
        turns[anchor] = turn + 1
        order.append((turn, place))
    return [place for _, place in sorted(order)]


def require_images_for(anchors: Anchors, images: ImageSet) -> None:
    """Raise `InputError` unless the anchors' networks take such images."""
    for architecture in anchors.architectures:
        require_images(architecture, images)


def _anchors_from(sane: SANE, networks: list[Generated], before: Anchors) -> Anchors:
    """The best networks of a round as the anchors of the next."""
    carried = [carried_of(sane, network) for network in networks]
    return Anchors(latents_of(networks), before.layers, [network.architecture for network in networks], carried)


def generate_with(
    sane: SANE,
    anchors: Anchors,
    count: int,
    images: ImageSet | None,
    config: SelectConfig,
    *,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> list[Generated]:
    """`generate_selected` where there are images; plain sampling where there are none and none are needed.

    Raises:
        InputError: networks are to be selected or refined without images.
    """
    config.check()
    wanted = [name for name in ("draws", "refine") if getattr(config, name)] + (["rounds"] if config.rounds > 1 else [])
    if images is not None:
        return generate_selected(sane, anchors, count, images, config, seed=seed, sampler=sampler).networks
    if config.condition and any(anchors.carried) and any(batch_norms(own.build()) for own in anchors.architectures):
        raise InputError("expected images (--data) to condition batch norms on, or --condition 0, found neither")
    if wanted:
        raise InputError(f"expected images (--data) for --{wanted[0]}, found none, nor those of the anchors' zoo")
    return sample_networks(sane, anchors, count, seed=seed, sampler=sampler)


def validation_accuracy(
    architecture: Architecture, networks: list[Weights], validation: Images
) -> Float[Tensor, "networks"]:
    """What every choice between networks is made by."""
    return score_stack(architecture.build(), stack_weights(networks), validation).accuracy


def rank(networks: list[Generated], images: ImageSet) -> Ranked:
    """Networks by their accuracy on validation images, best first; ties stay in order."""
    accuracies = torch.zeros(len(networks))
    for name in dict.fromkeys(network.architecture.id for network in networks):
        own = [place for place, network in enumerate(networks) if network.architecture.id == name]
        weights = [networks[place].weights for place in own]
        accuracies[own] = validation_accuracy(networks[own[0]].architecture, weights, images.validation)
    order = accuracies.argsort(descending=True, stable=True).tolist()
    return Ranked([networks[place] for place in order], accuracies[order].tolist())
