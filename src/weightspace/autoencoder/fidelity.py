"""How much of a network survives the autoencoder: layer by layer, in its weights."""

import torch

from weightspace.autoencoder.inference import decode_latents, encode_zoo
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.views import whole_networks
from weightspace.zoo.zoo import Zoo


def reconstruction_r2(sane: SANE, zoo: Zoo) -> dict[str, float]:
    """Share of the standardised weights' variance that is reconstructed, by tensor.

    Variance is taken over all checkpoints of `zoo` and all entries of a tensor. Tensors are named as in the
    first architecture of their layout.
    """
    scores = {}
    for latents in encode_zoo(sane, zoo):
        part = latents.part
        true = whole_networks(part, slice(None))
        decoded = decode_latents(sane, latents.values, part.tokens.positions)
        for number, name in enumerate(part.frame.layout.names):
            own = (part.tokens.tensor == number) & part.tokens.mask
            spread = (true[:, own] - true[:, own].mean()).square().sum()
            error = (decoded[:, own] - true[:, own]).square().sum()
            scores[name] = float(1 - error / torch.clamp_min(spread, 1e-12))
    return scores
