"""A reference that is no member: the mean of all networks, aligned to it."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from weightspace.symmetry.axes import Symmetry
from weightspace.symmetry.matching import match_stack, permute_stack_tensor
from weightspace.weights.values import Weights

ROUNDS = 10
SMALLEST_GAIN = 1e-3


def iterated_mean(
    stacks: Callable[[], Iterable[Mapping[str, Tensor]]], start: Mapping[str, Tensor], symmetry: Symmetry
) -> Weights:
    """Align all networks to a reference, average them, align to the average, and so on.

    The squared length of the mean says how well the aligned networks agree; it rises from round to round, and the
    search ends when it rises by less than a thousandth, or after ten rounds.

    Args:
        stacks: gives the networks, stack by stack `[networks, *shape]`, every time it is called.
        start: the weights of one network, the first reference.
        symmetry: of all of them.

    Returns:
        The mean; no network in itself, but one can be aligned to it.
    """
    reference, reached = dict(start), 0.0
    for _ in range(ROUNDS):
        mean = _aligned_mean(stacks(), reference, symmetry)
        length = sum(float(mean[name].double().square().sum()) for name in mean if name not in symmetry.buffers)
        if length <= reached * (1 + SMALLEST_GAIN):
            break
        reference, reached = mean, length
    return reference


def _aligned_mean(
    stacks: Iterable[Mapping[str, Tensor]], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> Weights:
    total: Weights = {}
    count = 0
    for stack in stacks:
        found = match_stack(stack, reference, symmetry)
        for name in reference:
            aligned = permute_stack_tensor(stack[name], symmetry.axes[name], found)
            total[name] = aligned.double().sum(0) + total.get(name, 0)
        count += len(next(iter(stack.values())))
    return {name: (tensor / count).to(reference[name].dtype) for name, tensor in total.items()}
