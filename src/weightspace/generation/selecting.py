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
from torch.nn import functional

from weightspace.autoencoder.reconstructing import LatentDescent, conditioning_images, refine_latents
from weightspace.autoencoder.sane import SANE
from weightspace.batch_norms import batch_norms
from weightspace.errors import InputError, require_between
from weightspace.generation.anchors import Anchors
from weightspace.generation.config import SelectConfig
from weightspace.generation.samplers.gaussian import RandomLatents
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import (
    Generated,
    by_architecture,
    carried_of,
    condition,
    decode_network,
    latents_of,
    sample_networks,
)
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

    def first(self, count: int) -> "Ranked":
        """The first so many."""
        return Ranked(self.networks[:count], self.accuracies[:count])


def select_networks(
    sane: SANE,
    anchors: Anchors,
    count: int,
    images: ImageSet | None,
    config: SelectConfig,
    *,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> list[Generated]:
    """Networks sampled, conditioned and kept as a configuration says; as they are drawn, where there are no images.

    Raises:
        InputError: networks are to be selected, refined or conditioned without images, or a refusal of `best_networks`.
    """
    if images is not None:
        return best_networks(sane, anchors, count, images, config, seed=seed, sampler=sampler).networks
    wanted = [name for name in ("draws", "refine") if getattr(config, name)] + (["rounds"] if config.rounds > 1 else [])
    normed = any(anchors.carried) and any(batch_norms(one.build()) for one in anchors.architectures)
    if config.condition and normed:
        raise InputError("expected images (--data) to condition batch norms on, or --condition 0, found neither")
    if wanted:
        raise InputError(f"expected images (--data) for --{wanted[0]}, found none, nor those of the anchors' zoo")
    return sample_networks(sane, anchors, count, seed=seed, sampler=sampler)


def best_networks(
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
        InputError: fewer draws than networks to keep, images that the networks do not take, or a refusal of
            `sample_networks`.
    """
    require_between("the number of networks", count, 1)
    draws = config.draws or count
    if draws < count:
        raise InputError(f"expected at least {count} draws to keep {count} networks, found {draws}")
    for architecture in anchors.architectures:
        require_images(architecture, images)
    inputs = conditioning_images(images.train, config.condition, seed)
    sampler, ranked = sampler or KernelDensity(), Ranked([], [])
    for number in range(config.rounds):
        drawn = sample_networks(sane, anchors, draws, seed=derive_seed(seed, "round", number), sampler=sampler)
        ranked = rank([condition(network, inputs) for network in drawn], images, spread=config.spread)
        if number + 1 < config.rounds:
            anchors = _anchors_from(sane, ranked.networks[: config.keep], anchors)
            sampler = sampler.onwards if isinstance(sampler, RandomLatents) else sampler
    kept = ranked.first(count)
    if not config.refine:
        return kept
    refined = refine(sane, kept.networks, images.train, config, seed=seed)
    return rank([condition(network, inputs) for network in refined], images)


def rank(networks: Sequence[Generated], images: ImageSet, *, spread: bool = False) -> Ranked:
    """Networks by their accuracy on validation images, best first; with `spread`, the best of every anchor first."""
    accuracies = torch.zeros(len(networks))
    for architecture, places in by_architecture(networks):
        weights = [networks[place].weights for place in places]
        accuracies[places] = validation_accuracy(architecture, weights, images.validation)
    order = best_first(accuracies, [network.anchor for network in networks] if spread else None)
    return Ranked([networks[place] for place in order], accuracies[order].tolist())


def best_first(accuracy: Float[Tensor, "networks"], anchors: Sequence[int] | None = None) -> list[int]:
    """Places by falling accuracy, ties in order; with anchors, the best of every anchor first, then the second ones.

    A blend of anchors (-1) counts as an anchor of its own.
    """
    order = accuracy.argsort(descending=True, stable=True).tolist()
    if anchors is None:
        return order
    turns: dict[int, int] = {}
    ranked = []
    for number, place in enumerate(order):
        anchor = anchors[place]
        turn = turns.get(anchor, 0) if anchor >= 0 else 0
        turns[anchor] = turn + 1
        ranked.append((turn, number, place))
    return [place for _, _, place in sorted(ranked)]


def validation_accuracy(
    architecture: Architecture, networks: list[Weights], validation: Images
) -> Float[Tensor, "networks"]:
    """What every choice between networks is made by."""
    return score_stack(architecture.build(), stack_weights(networks), validation).accuracy


def refine(
    sane: SANE, networks: Sequence[Generated], images: Images, config: SelectConfig, *, seed: int = 0
) -> list[Generated]:
    """The networks after `config.refine` steps of Adam on their latents, towards the labels of training images.

    Ours, not the paper's; the model stays as it is. It uses labels, so that a refined network is no longer untrained:
    tables say how many steps were made.
    """

    def wanted(answers: Tensor, chosen: Tensor) -> Tensor:
        labels = images.labels[chosen].to(answers.device).expand(len(answers), -1)
        losses = functional.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view(len(answers), -1).mean(1)

    descent = LatentDescent(images, config.refine, config.refine_rate, seed)
    refined: dict[int, Generated] = {}
    for architecture, places in by_architecture(networks):
        alike = [networks[place] for place in places]
        moved = refine_latents(sane, latents_of(alike), architecture, wanted, descent)
        for place, network, latents in zip(places, alike, moved, strict=True):
            refined[place] = decode_network(sane, latents, architecture, carried_of(sane, network))
    return [refined[place] for place in range(len(networks))]


def _anchors_from(sane: SANE, networks: list[Generated], before: Anchors) -> Anchors:
    """The best networks of a round as the anchors of the next."""
    carried = [carried_of(sane, network) for network in networks]
    return Anchors(latents_of(networks), before.layers, [network.architecture for network in networks], carried)
