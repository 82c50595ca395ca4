"""Batch norms of ordinary modules: which there are, and their running statistics made exact."""

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.weights.values import Weights

SMALLEST_VARIANCE = 1e-4


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """A module's batch norms that keep running statistics."""
    return list(_named_norms(module).values())


def _named_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    norms = ((name, part) for name, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return {name: norm for name, norm in norms if norm.running_mean is not None}


def norm_statistics(module: nn.Module) -> list[str]:
    """Names of the running means, variances and counters of a module's batch norms, as in its state dict."""
    return [
        f"{name}.{statistic}" if name else statistic
        for name in _named_norms(module)
        for statistic in ("running_mean", "running_var", "num_batches_tracked")
    ]


def with_positive_variances(weights: Weights, module: nn.Module) -> Weights:
    """The weights with running variances of at least 1e-4: decoded ones may be below 0, which no network bears."""
    variances = {name for name in norm_statistics(module) if name.endswith("running_var")}
    return {name: own.clamp_min(SMALLEST_VARIANCE) if name in variances else own for name, own in weights.items()}


def norms_in_training(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, so that nothing is dropped, but for its batch norms, which take a batch's own
    statistics; returns it.
    """
    module.eval()
    for norm in batch_norms(module):
        norm.train()
    return module


def recalibrate_batch_norm(
    module: nn.Module, inputs: Float[Tensor, "n ..."] | Sequence[Tensor], batch_size: int = 256
) -> nn.Module:
    """Set every batch norm's running statistics to exact averages over `inputs`, in place; returns the module.

    Deviates from the paper's conditioning (200 momentum steps, which keep a share of the old statistics): mean and
    variance of what every batch norm is given over all inputs, each batch normalised by its own statistics on the
    way. Nothing is dropped out. Batches are of equal size up to one image. Modes are left as they were.

    Args:
        module: whose statistics are set.
        inputs: a tensor, or one for each input that the module takes.
        batch_size: at most.

    Raises:
        InputError: fewer than two inputs.
    """
    several = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    count = len(several[0])
    if count < 2:
        raise InputError(f"expected at least 2 inputs to recalibrate batch norms with, found {count}")
    norms = batch_norms(module)
    kept = {id(norm): _Moments() for norm in norms}
    modes = {part: part.training for part in module.modules()}
    hooks = [norm.register_forward_pre_hook(lambda part, given: kept[id(part)].add(given[0])) for norm in norms]
    parts = max(1, min(count // 2, math.ceil(count / batch_size)))
    batches = list(zip(*(tensor.tensor_split(parts) for tensor in several), strict=True))
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    try:
        with torch.no_grad():
            for batch in batches:
                norms_in_training(module)(*batch)
    except BaseException:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    for norm in norms:
        kept[id(norm)].write(norm)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(len(batches))
    return module


class _Moments:
    """Sums of what a batch norm is given, channel by channel, in float64."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Float[Tensor, "n channels ..."]) -> None:
        flat = values.detach().transpose(0, 1).flatten(1).double()
        self.count += flat.shape[1]
        self.sum, self.square = self.sum + flat.sum(1), self.square + flat.square().sum(1)

    def write(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """The mean, and the variance as torch keeps it: over one less than the count."""
        if self.count < 2 or norm.running_mean is None or norm.running_var is None:
            return
        mean = self.sum / self.count
        variance = (self.square / self.count - mean.square()).clamp_min(0) * self.count / (self.count - 1)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
