"""Batch-norm conditioning of generated networks, counted in their coverage."""

from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.conditioning import condition_weights
from weightspace.batch_norms import norm_statistics
from weightspace.generation.generating import Generated


def condition(network: Generated, inputs: Float[Tensor, "n ..."]) -> Generated:
    """A network whose batch norms have statistics of the inputs; without batch norms or inputs the network itself."""
    if len(inputs) == 0:
        return network
    weights = condition_weights(network.weights, network.architecture, inputs)
    if weights is network.weights:
        return network
    counts, sizes = dict(network.coverage), {name: own.numel() for name, own in weights.items()}
    for name in norm_statistics(network.architecture.build()):
        counts["carried" if name in network.architecture.dtypes else "generated"] -= sizes[name]
        counts["conditioned"] += sizes[name]
    return network._replace(weights=weights, coverage=counts)
