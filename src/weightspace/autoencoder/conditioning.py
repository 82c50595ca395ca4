"""Batch-norm conditioning: running statistics of decoded networks, averaged over images.

Paper, section 3.4 (table 7). Deviation: exact averages over a stated number of images, where the published code takes
200 momentum steps that keep a share of the old statistics.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.batch_norms import batch_norms, recalibrate_batch_norm
from weightspace.images import Images
from weightspace.randomness import derive_generator
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture


def conditioning_images(images: Images, count: int, seed: int) -> Float[Tensor, "n ..."]:
    """At most so many training images, drawn at random: files are often sorted by class."""
    order = torch.randperm(len(images.labels), generator=derive_generator(seed, "conditioning"))
    return images.inputs[order[:count].sort().values]


def condition_weights(weights: Weights, architecture: Architecture, inputs: Float[Tensor, "n ..."]) -> Weights:
    """Weights whose batch norms have statistics of the inputs; without batch norms or inputs the weights themselves."""
    module = architecture.build()
    if not batch_norms(module) or len(inputs) == 0:
        return weights
    module.load_state_dict(weights)
    recalibrate_batch_norm(module, inputs)
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
