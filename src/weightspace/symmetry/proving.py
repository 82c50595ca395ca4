"""Prove a symmetry on the network itself: permute, and compare outputs."""

import contextlib
import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from weightspace.errors import InputError
from weightspace.graphs import copy_module, one_by_one
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import (
    Permutations,
    Symmetry,
    groups_of,
    identity_permutations,
    leaves,
    permute,
    shape_of,
)
from weightspace.weights.values import Weights, find_aliases

# How far apart outputs may be, relative to their size: in double precision, and in single precision where an operation
# of the network has no other.
TOLERANCE, SINGLE_TOLERANCE = 1e-9, 1e-4
_PRECISION: ContextVar[torch.dtype] = ContextVar("precision", default=torch.float64)
GAINS = (1.0, 0.5, 1.0)

SMALLEST_SCALE = 1e-4
TINY = 1e-300

Change = Callable[[Weights, Collection[str], torch.Generator], Weights]


class SymmetryDisproved(AssertionError):
    """A permutation that a `Symmetry` allows changed the network's outputs; the message names the group."""


def prove_symmetry(module: nn.Module, symmetry: Symmetry, *examples: Any, seed: int = 0, **named: Any) -> None:
    """Check on the network itself that every group of a symmetry, and all together, leave its function alone.

    On random inputs, with parameters *and buffers* drawn at random: on a fresh initialisation a forgotten batch norm
    goes unnoticed, since its statistics are all alike. In float64, or, where an operation has none, in float32 with a
    tolerance of 1e-4. All groups are permuted together, three times, and then half of them without the other half, so
    that any two groups are moved apart once (two units have one other order only: groups that belong together would
    always move alike). A change beyond rounding is traced to the groups that cause it.

    Raises:
        SymmetryDisproved: outputs differ beyond rounding; the message names the group.
        InputError: the symmetry does not fit the module; outputs are not finite, or do not depend on what a group
            moves, so that nothing is proved; or the module runs neither in float64 nor in float32.
    """
    _require_fit(module, symmetry)
    unproved = find_unproved(module, symmetry, one_by_one(examples), named, seed=seed)
    if unproved:
        raise InputError(
            f"expected outputs of {type(module).__name__} that depend on what every group moves, found none for "
            f"{', '.join(unproved)}: nothing is proved of it"
        )


def find_unproved(
    module: nn.Module,
    symmetry: Symmetry,
    examples: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    seed: int = 0,
    training: bool = False,
) -> list[str]:
    """`prove_symmetry`; returns the groups of which nothing is proved, since no output depends on what they move."""

    def moved(weights: Weights, groups: Collection[str], generator: torch.Generator) -> Weights:
        return permute(weights, symmetry, _derange(symmetry, groups, generator))

    tensors = {
        group: [name for name in symmetry.axes if group in groups_of(symmetry.axes[name])] for group in symmetry.groups
    }
    return prove_unchanged(module, moved, tensors, examples, named, seed=seed, training=training)


class _NotInDouble(InputError):
    """A module that has no double precision."""


def prove_unchanged(
    module: nn.Module,
    change: Change,
    groups: Mapping[str, Collection[str]],
    examples: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    seed: int = 0,
    training: bool = False,
) -> list[str]:
    """Check that a change of weights, of any of its groups, leaves a module's function alone.

    Args:
        module: it is copied.
        change: changes weights, those of the groups it is given.
        groups: for every group the tensors that it changes.
        examples, named: inputs.
        seed: of weights and inputs.
        training: as in training, but for the layers of torch, which would draw random numbers.

    Returns:
        Groups of which nothing is proved: no output depends on any of their tensors, whatever the weights (they may
        be multiplied by zeros, or what they make is cut off).

    Raises:
        SymmetryDisproved, InputError: as for `prove_symmetry`.
    """
    module = copy_module(module, training=training)
    try:
        return _prove(module, change, groups, (examples, dict(named)), seed)
    except _NotInDouble:
        token = _PRECISION.set(torch.float32)
        try:
            return _prove(module, change, groups, (examples, dict(named)), seed)
        finally:
            _PRECISION.reset(token)


def _prove(
    module: nn.Module, change: Change, groups: Mapping[str, Collection[str]], given: Any, seed: int
) -> list[str]:
    """`prove_unchanged` in the precision of the moment."""
    module = copy.deepcopy(module)._apply(_cast)  # `.to` would make real numbers of complex ones
    unnoticed = set(groups)
    for attempt, gain in enumerate(GAINS):
        generator = derive_generator(seed, "proof", attempt)
        weights = {name: _cast(tensor) for name, tensor in random_weights(module, generator, gain=gain).items()}
        weights |= {alias: weights[name] for alias, name in find_aliases(module.state_dict(keep_vars=True)).items()}
        inputs = _random_inputs(module, weights, given, generator)
        together = [list(groups), *(_halves(list(groups)) if attempt == 0 else [])]
        _prove_once(module, weights, inputs, change, together, generator)
        if unnoticed:
            felt = _felt(module, weights, inputs)
            unnoticed = {group for group in unnoticed if not felt & set(groups[group])}
    return [group for group in groups if group in unnoticed]


def _prove_once(
    module: nn.Module,
    weights: Weights,
    inputs: Any,
    change: Change,
    together: list[list[str]],
    generator: torch.Generator,
) -> None:
    aliases = find_aliases(module.state_dict(keep_vars=True))
    before = _provable_outputs(module, weights, inputs)
    scale = max(SMALLEST_SCALE, *(float(value.abs().max()) for value in before))

    def difference(groups: Collection[str]) -> float:
        moved = change(weights, groups, generator)
        moved.update({alias: moved[name] for alias, name in aliases.items()})
        return _difference(before, _outputs(module, moved, inputs))

    for groups in together:
        worst = difference(groups)
        if worst <= _tolerance() * scale:
            continue
        guilty = {group: own for group in groups if not (own := difference([group])) <= _tolerance() * scale}
        what = f"group {', '.join(guilty)}" if guilty else f"groups {', '.join(groups)} together"
        raise SymmetryDisproved(
            f"moving {what} changed the outputs by {max(guilty.values(), default=worst):.2g} "
            f"(their size is {scale:.2g})"
        )


def _halves(groups: list[str]) -> list[list[str]]:
    """Sets of groups such that of any two groups one is in some set without the other."""
    bits = max(0, len(groups) - 1).bit_length()
    return [[group for number, group in enumerate(groups) if number >> bit & 1] for bit in range(bits)]


def _require_fit(module: nn.Module, symmetry: Symmetry) -> None:
    """Refuse a symmetry that was not written for the module."""
    state = module.state_dict()
    for name in symmetry.moved:
        if name not in state or tuple(state[name].shape) != shape_of(symmetry.axes[name]):
            found = tuple(state[name].shape) if name in state else "no such tensor"
            raise InputError(f"expected {name} of shape {shape_of(symmetry.axes[name])}, found {found}")
        for leaf in (leaf for axis in symmetry.axes[name] for leaf in leaves(axis) if leaf.group is not None):
            if symmetry.groups.get(str(leaf.group)) != leaf.size:
                raise InputError(
                    f"expected a group {leaf.group} of {leaf.size} units, which {name} has, found "
                    f"{symmetry.groups.get(str(leaf.group), 'none')}"
                )


def _felt(module: nn.Module, weights: Weights, inputs: Any) -> set[str]:
    """The parameters that outputs depend on: those with a gradient, and those without whose values matter: part of a
    network may run without gradients (frozen, detached).
    """
    aliases = find_aliases(module.state_dict(keep_vars=True))
    parameters = [name for name, _ in module.named_parameters(remove_duplicate=False) if name not in aliases]
    if _PRECISION.get() == torch.float32:  # an operation without double precision may have no gradient either
        return _felt_by_value(
            module, weights, inputs, [name for name in parameters if weights[name].is_floating_point()]
        )
    leaves = {name: weights[name].clone().requires_grad_() for name in parameters if weights[name].is_floating_point()}
    tied = {alias: leaves[name] for alias, name in aliases.items() if name in leaves}
    with _repeatably(), torch.enable_grad():
        results = _tensors(functional_call(module, {**weights, **leaves, **tied}, *inputs, tie_weights=False))
        outputs = [value / value.detach().abs().max().clamp_min(TINY) for value in results if value.requires_grad]
        if not outputs:
            return _felt_by_value(module, weights, inputs, list(leaves))
        total = torch.stack([(value * torch.randn_like(value)).sum() for value in outputs]).sum()
        try:
            slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        except RuntimeError:
            return set(leaves)  # some operation has no gradient: nothing can be told, so nothing is held against them
    felt = {
        name for name, slope in zip(leaves, slopes, strict=True) if slope is not None and slope.abs().max() > TOLERANCE
    }
    return felt | _felt_by_value(module, weights, inputs, [name for name in leaves if name not in felt])


def _felt_by_value(module: nn.Module, weights: Weights, inputs: Any, names: list[str]) -> set[str]:
    """Those of some parameters that outputs change with: tried together first, one by one where they do."""
    aliases = find_aliases(module.state_dict(keep_vars=True))
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(weights[name].shape, generator=generator, dtype=_PRECISION.get()) for name in names}
    before = _outputs(module, weights, inputs)

    def changes(moved: list[str]) -> bool:
        tried = {name: tensor + noise[name] if name in moved else tensor for name, tensor in weights.items()}
        tried |= {alias: tried[name] for alias, name in aliases.items() if name in moved}
        pairs = zip(before, _outputs(module, tried, inputs), strict=True)
        return any(not torch.allclose(one, other, rtol=_tolerance(), atol=_tolerance()) for one, other in pairs)

    if not names or not changes(names):
        return set()
    return {name for name in names if changes([name])}


def random_weights(module: nn.Module, generator: torch.Generator, *, gain: float = 1.0) -> Weights:
    """Parameters of a size that keeps signals alive; buffers positive, since they may be variances."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state = module.state_dict(keep_vars=True)
    weights: Weights = {}
    for name, tensor in state.items():
        if tensor.is_complex():
            weights[name] = torch.randn(tensor.shape, generator=generator, dtype=torch.complex128)
        elif not tensor.is_floating_point():
            weights[name] = tensor.detach()
        elif name in parameters and tensor.ndim > 1:
            fan_in = max(1, math.prod(tensor.shape[1:]))
            weights[name] = gain * torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
        else:
            weights[name] = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    weights.update({alias: weights[name] for alias, name in find_aliases(state).items()})
    return weights


def _random_inputs(module: nn.Module, weights: Weights, examples: Any, generator: torch.Generator) -> Any:
    """Random inputs like the examples; two at once where one was given and the module takes two."""
    flat, spec = torch.utils._pytree.tree_flatten(examples)
    tensors = [value for value in flat if isinstance(value, Tensor)]
    if tensors and all(value.ndim and len(value) == 1 for value in tensors):
        doubled = [value.repeat(2, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value for value in flat]
        inputs = torch.utils._pytree.tree_unflatten([_draw_like(value, generator) for value in doubled], spec)
        try:
            _outputs(module, weights, inputs)
            return inputs
        except Exception:  # noqa: BLE001 # a module may insist on its batch size in any way it likes
            pass
    return torch.utils._pytree.tree_unflatten([_draw_like(value, generator) for value in flat], spec)


def _draw_like(example: Any, generator: torch.Generator) -> Any:
    """`_random_like` in the precision of the moment."""
    drawn = _random_like(example, generator)
    return _cast(drawn) if isinstance(drawn, Tensor) else drawn


def _random_like(example: Any, generator: torch.Generator) -> Any:
    """Normal numbers where the example has such; else its own entries, shuffled (indices, positive numbers)."""
    if not isinstance(example, Tensor):
        return example
    if not example.numel():
        return example.to(torch.float64) if example.is_floating_point() else example
    if example.is_floating_point() and (example.min() < 0 or not example.any()):
        return torch.randn(example.shape, generator=generator, dtype=torch.float64)
    pick = torch.randint(example.numel(), (example.numel(),), generator=generator)
    drawn = example.reshape(-1)[pick].reshape(example.shape)
    return drawn.to(torch.float64) if drawn.is_floating_point() else drawn


def _tolerance() -> float:
    return TOLERANCE if _PRECISION.get() == torch.float64 else SINGLE_TOLERANCE


def _cast(tensor: Tensor) -> Tensor:
    """Floating-point and complex numbers in the precision of the moment; others as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128 if _PRECISION.get() == torch.float64 else torch.complex64)
    return tensor.to(_PRECISION.get()) if tensor.is_floating_point() else tensor


class _DoublePrecision(TorchDispatchMode):
    """Computes in float64 what a module would turn to a smaller type on its way, as Llama's norms do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextlib.contextmanager
def _repeatably() -> Iterator[None]:
    """New tensors have the precision of the moment, and random numbers are the same each time; both as before
    afterwards.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(_PRECISION.get())
    double = _DoublePrecision() if _PRECISION.get() == torch.float64 else contextlib.nullcontext()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), double:
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(default)


def _outputs(module: nn.Module, weights: Weights, inputs: Any) -> list[Tensor]:
    """All tensors that come out; a module that draws random numbers draws the same ones each time."""
    with _repeatably():
        copies = {name: tensor.clone() for name, tensor in weights.items()}  # a forward may write into its buffers
        results = functional_call(module, copies, *inputs, tie_weights=False)
    return _tensors(results)


def _tensors(results: Any) -> list[Tensor]:
    """The tensors of what a module returns, as real numbers in float64."""
    tensors = [
        tensor for tensor in torch.utils._pytree.tree_leaves(results) if isinstance(tensor, Tensor) and tensor.numel()
    ]
    return [
        torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.to(torch.float64)
        for tensor in tensors
    ]


def _provable_outputs(module: nn.Module, weights: Weights, inputs: Any) -> list[Tensor]:
    """Outputs, if they are finite."""
    name = type(module).__name__
    try:
        found = _outputs(module, weights, inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        double = _PRECISION.get() == torch.float64
        raise (_NotInDouble if double else InputError)(
            f"expected {name} to run in float64 or float32, so that its symmetry can be proved, found {reason}"
        ) from error
    if not found:
        raise InputError(f"expected tensors as outputs of {name}, so that its symmetry can be proved, found none")
    if not all(value.isfinite().all() for value in found):
        raise InputError(f"expected {name} to give finite outputs, so that its symmetry can be proved, found others")
    return found


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    return max((float((a - b).abs().max()) for a, b in zip(first, second, strict=True)), default=0.0)


def _derange(symmetry: Symmetry, groups: Collection[str], generator: torch.Generator) -> Permutations:
    """A permutation that moves every entry of some groups, and none of the others."""
    permutations = identity_permutations(symmetry)
    for name in groups:
        order = torch.randperm(symmetry.groups[name], generator=generator)
        permutations[name] = torch.empty_like(order).scatter_(0, order, order.roll(1))
    return permutations
