"""Latent refinement: a few gradient steps on a network's latents, through the decoder.

Ours, not the paper's. Only latents move, so that the network stays one that the decoder can write. It uses labels of
training images, so that a refined network is no longer untrained: tables say how many steps were made.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from weightspace.autoencoder.behaviour import WindowCoder, answer_decoded, stack_tokens
from weightspace.autoencoder.sane import SANE
from weightspace.generation.config import SelectConfig
from weightspace.generation.generating import Generated, carried_of, decode_network, latents_of
from weightspace.images import Images
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator
from weightspace.zoo.architecture import Architecture

IMAGES_PER_STEP = 64


def refine(
    sane: SANE, networks: list[Generated], images: Images, config: SelectConfig, *, seed: int = 0
) -> list[Generated]:
    """The networks after `config.refine` steps of Adam on their latents; the model itself stays as it is."""
    refined: dict[int, Generated] = {}
    for name in dict.fromkeys(network.architecture.id for network in networks):
        places = [place for place, network in enumerate(networks) if network.architecture.id == name]
        own = [networks[place] for place in places]
        latents = _descend(sane, own, images, config, seed)
        for place, network, found in zip(places, own, latents, strict=True):
            refined[place] = decode_network(sane, found, network.architecture, carried_of(sane, network))
    return [refined[place] for place in range(len(networks))]


def _descend(
    sane: SANE, networks: list[Generated], images: Images, config: SelectConfig, seed: int
) -> Float[Tensor, "networks tokens latent"]:
    architecture: Architecture = networks[0].architecture
    frame = sane.preparation.frame_of(architecture)
    module = architecture.build().eval()
    latents = latents_of(networks).clone().requires_grad_()
    rate = config.refine_rate * float(latents.detach().square().mean().sqrt())
    optimizer = torch.optim.Adam([latents], lr=rate)
    coder = WindowCoder(sane.eval(), frame.layout)
    generator = derive_generator(seed, "refine")
    with progress_bar("refining", config.refine) as advance:
        for _ in range(config.refine):
            chosen = torch.randint(len(images.labels), (IMAGES_PER_STEP,), generator=generator)
            stack = stack_tokens(coder.decode(latents), frame, architecture)
            outputs = answer_decoded(module, stack, images.inputs[chosen])
            labels = images.labels[chosen].expand(len(networks), -1)
            loss = functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
            (gradient,) = torch.autograd.grad(loss.view(len(networks), -1).mean(1).sum(), latents)
            latents.grad = gradient
            optimizer.step()
            advance()
    return latents.detach()
