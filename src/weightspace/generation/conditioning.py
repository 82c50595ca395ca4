"""Batch-norm conditioning: running statistics of generated networks, averaged over images.

Paper, section 3.4 (table 7). Deviation: exact averages over a stated number of images, where the published code takes
200 momentum steps that keep a share of the old statistics.
"""

from torch import nn

from weightspace.generation.generating import Generated
from weightspace.images import ImageSet
from weightspace.supervised import recalibrate_batch_norm


def condition(network: Generated, images: ImageSet, count: int) -> Generated:
    """A network whose batch norms have statistics of the first `count` training images.

    One without batch norms, and any with a count of 0, is returned as it is.
    """
    if not count:
        return network
    module = network.architecture.build()
    statistics = norm_statistics(module)
    if not statistics:
        return network
    module.load_state_dict(network.weights)
    recalibrate_batch_norm(module, images.train.inputs[:count])
    weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    conditioned = sum(weights[name].numel() for name in statistics)
    generated = network.coverage["generated"] - conditioned + network.coverage["conditioned"]
    coverage = {**network.coverage, "generated": generated, "conditioned": conditioned}
    return network._replace(weights=weights, coverage=coverage)


def norm_statistics(module: nn.Module) -> list[str]:
    """Names of the running means and variances of a module's batch norms."""
    return [
        f"{name}.{statistic}" if name else statistic
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None
        for statistic in ("running_mean", "running_var")
    ]
