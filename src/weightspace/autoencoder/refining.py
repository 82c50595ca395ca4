"""Latents that are moved, through the decoder, until what they decode to computes what is wanted.

Ours, not the paper's. An encoder sees weights, and cannot know which of them matter to the function; some gradient
steps on the latents can tell. The model stays as it is, so that the result is a network that its decoder can write.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from weightspace.autoencoder.inference import encode_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.behaviour import WindowCoder, answer_decoded, stack_tokens
from weightspace.errors import require_between
from weightspace.images import Images
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator
from weightspace.supervised import answer_stack, stack_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import require_shape

IMAGES_PER_STEP, TOGETHER = 128, 32
# Outputs of decoded networks on some images, and which images these were; returns a loss for every network.
Wanted = Callable[[Float[Tensor, "networks images outputs"], Int[Tensor, "images"]], Float[Tensor, "networks"]]


class Descent(NamedTuple):
    """How latents are moved.

    Attributes:
        images: every step asks some of them, drawn at random.
        steps: how many steps of Adam.
        rate: the learning rate at the start, as a share of the latents' root mean square; it falls to 0 along a cosine.
        seed: decides which images are asked.
    """

    images: Images
    steps: int = 200
    rate: float = 0.03
    seed: int = 0


def refine_latents(
    sane: SANE,
    latents: Float[Tensor, "networks tokens latent"],
    architecture: Architecture,
    wanted: Wanted,
    descent: Descent,
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of networks of one architecture after some steps down what is wanted of the decoded networks.

    Raises:
        InputError: an architecture that nobody knows how to build, no images or such that it does not take, or a
            negative number of steps or rate.
    """
    images, steps = descent.images, descent.steps
    require_between("the number of steps", steps, 0)
    require_between("the rate", descent.rate, 0)
    require_between("the number of images", len(images.labels), 1)
    require_shape(architecture, images.inputs)
    frame = sane.preparation.frame_of(architecture)
    module = architecture.build().eval()
    coder = WindowCoder(sane.eval(), frame.layout)
    latents = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=descent.rate * float(latents.detach().square().mean().sqrt()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    generator = derive_generator(descent.seed, "refine")
    with progress_bar("refining", steps) as advance:
        for _ in range(steps):
            chosen = torch.randint(len(images.labels), (IMAGES_PER_STEP,), generator=generator)
            stack = stack_tokens(coder.decode(latents), frame, architecture)
            loss = wanted(answer_decoded(module, stack, images.inputs[chosen]), chosen).sum()
            (latents.grad,) = torch.autograd.grad(loss, latents)
            optimizer.step()
            schedule.step()
            advance()
    return latents.detach()


def encode_closely(
    sane: SANE, networks: Sequence[Weights], architecture: Architecture, descent: Descent
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of networks, moved until the decoded networks answer as the networks themselves do.

    The loss is the Kullback-Leibler divergence of answers on images; labels are not used. Batch norms of decoded
    networks are asked with the images' statistics, so that what is decoded needs conditioning (`reconstruct` does it).

    Args:
        sane: a trained model.
        networks: raw weights of one architecture.
        architecture: theirs.
        descent: images that the networks are asked about, and how.

    Raises:
        InputError: see `refine_latents`.
    """
    parts = [networks[start : start + TOGETHER] for start in range(0, len(networks), TOGETHER)]
    return torch.cat([_encode_together(sane, part, architecture, descent) for part in parts])


def _encode_together(
    sane: SANE, networks: Sequence[Weights], architecture: Architecture, descent: Descent
) -> Float[Tensor, "networks tokens latent"]:
    """As many as are in memory at once: their latents have one learning rate."""
    layout = sane.preparation.frame_of(architecture).layout
    tokens = torch.stack([sane.preparation.prepare(weights, architecture).tokens for weights in networks])
    module, stack = architecture.build().eval(), stack_weights(list(networks))

    def wanted(answers: Tensor, chosen: Tensor) -> Tensor:
        with torch.no_grad():
            taught = answer_stack(module, stack, descent.images.inputs[chosen]).softmax(-1)
        divergence = functional.kl_div(answers.log_softmax(-1), taught, reduction="none")
        return divergence.sum(-1).flatten(1).mean(1)

    return refine_latents(sane, encode_tokens(sane, tokens, layout), architecture, wanted, descent)
