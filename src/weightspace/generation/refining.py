"""Latent refinement: a few gradient steps on a network's latents, towards the labels of training images.

Ours, not the paper's. It uses labels, so that a refined network is no longer untrained: tables say how many steps were
made.
"""

from torch import Tensor
from torch.nn import functional

from weightspace.autoencoder.refining import Descent, refine_latents
from weightspace.autoencoder.sane import SANE
from weightspace.generation.config import SelectConfig
from weightspace.generation.generating import Generated, carried_of, decode_network, latents_of
from weightspace.images import Images


def refine(
    sane: SANE, networks: list[Generated], images: Images, config: SelectConfig, *, seed: int = 0
) -> list[Generated]:
    """The networks after `config.refine` steps of Adam on their latents; the model itself stays as it is."""

    def wanted(answers: Tensor, chosen: Tensor) -> Tensor:
        labels = images.labels[chosen].expand(len(answers), -1)
        losses = functional.cross_entropy(answers.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view(len(answers), -1).mean(1)

    descent = Descent(images, config.refine, config.refine_rate, seed)
    refined: dict[int, Generated] = {}
    for name in dict.fromkeys(network.architecture.id for network in networks):
        places = [place for place, network in enumerate(networks) if network.architecture.id == name]
        own = [networks[place] for place in places]
        latents = refine_latents(sane, latents_of(own), own[0].architecture, wanted, descent)
        for place, network, found in zip(places, own, latents, strict=True):
            refined[place] = decode_network(sane, found, network.architecture, carried_of(sane, network))
    return [refined[place] for place in range(len(networks))]
