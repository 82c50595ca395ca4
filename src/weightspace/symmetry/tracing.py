"""Derive a network's permutation symmetry from its computation graph, then prove it.

The published code lists symmetries by hand for thirteen architectures, several of them wrong. Here every
axis of every value in the `torch.export` graph carries a label; labels are united through the operations
(`rules`), and what is still free at the end may be permuted. The result is then checked on the network
itself with random parameters and buffers.
"""

import copy
import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import Factor, Permutations, Symmetry, identity_permutations, permute
from weightspace.symmetry.labels import Labels, ValueLabel
from weightspace.symmetry.rules import Known, Use, apply_rule
from weightspace.weights import Weights, find_aliases

TOLERANCE = 1e-9


class SymmetryDisproved(AssertionError):
    """A permutation that a `Symmetry` allows changed the network's outputs; the message names the group."""


class Trace(NamedTuple):
    """What a computation graph tells of a network's tensors.

    Attributes:
        symmetry: proved.
        uses: for parameters used as weights: layer kind, output axis and bias.
    """

    symmetry: Symmetry
    uses: dict[str, Use]


def trace_symmetry(module: nn.Module, *examples: Tensor) -> Symmetry:
    """The permutation symmetry of a module, derived from its graph and proved.

    Args:
        module: any module that `torch.export` can trace; traced in evaluation mode.
        examples: inputs as the module takes them, batch first.

    Raises:
        InputError: the module cannot be traced.
        SymmetryDisproved: a rule of ours is wrong for this network (a bug worth reporting).
    """
    return trace(module, *examples).symmetry


def trace(module: nn.Module, *examples: Tensor) -> Trace:
    """`trace_symmetry`, with the use of every parameter as well."""
    module = _copy(module)
    graph, names = _export(module, examples)
    labels, known = Labels(), Known()
    aliases = find_aliases(module.state_dict(keep_vars=True))
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = labels.new_value(shape_of_value(node), None if node in names else "input")
        elif node.op == "get_attr":
            known[node] = labels.new_value(shape_of_value(node), "constant")
        elif node.op == "call_function":
            label = apply_rule(labels, node, known)
            if label is not None:
                known[node] = label
        else:
            for result in node.all_input_nodes:
                _freeze(labels, known[result], "output")
    tensors = {names[node]: known[node] for node in names}
    _settle_unused(labels, tensors, {names[node] for node in names if node.users}, aliases)
    uses = {
        names[node]: Use(kind, axis, names.get(bias) if bias is not None else None)
        for node, (kind, axis, bias) in known.uses.items()
        if node in names
    }
    symmetry = _build(module, labels, {**tensors, **{a: tensors[b] for a, b in aliases.items() if b in tensors}})
    prove_symmetry(module, symmetry, *examples)
    return Trace(symmetry, uses)


def prove_symmetry(module: nn.Module, symmetry: Symmetry, *examples: Tensor, seed: int = 0) -> None:
    """Check on the network itself that every group of a symmetry, and all together, leave its function alone.

    In float64, on random inputs, with parameters *and buffers* drawn at random: on a fresh initialisation a
    forgotten batch norm goes unnoticed, since its statistics are all alike.

    Raises:
        SymmetryDisproved: outputs differ beyond rounding; the message names the group.
        InputError: the module's outputs are random or not finite, or it does not run in float64.
    """
    module = _copy(module).to(torch.float64)
    aliases = find_aliases(module.state_dict(keep_vars=True))
    for attempt in range(2):
        generator = derive_generator(seed, "proof", attempt)
        weights = _random_weights(module, generator)
        inputs = [_random_like(example, generator) for example in examples]
        before = _provable_outputs(module, weights, inputs)
        scale = max((float(value.abs().max()) for value in before), default=0.0)
        for group in (*symmetry.groups, None):
            moved = permute(weights, symmetry, _derange(symmetry, group, generator))
            moved.update({alias: moved[name] for alias, name in aliases.items()})
            change = _difference(before, _outputs(module, moved, inputs))
            if not change <= TOLERANCE * max(scale, 1.0):
                what = f"group {group}" if group is not None else "all groups together"
                raise SymmetryDisproved(
                    f"permuting {what} changed the outputs by {change:.2g} (their size is {scale:.2g})"
                )


def shape_of_value(node: fx.Node) -> tuple[int, ...]:
    """The shape of a placeholder's tensor; () for what is no tensor."""
    return tuple(int(size) for size in getattr(node.meta.get("val"), "shape", ()))


def _export(module: nn.Module, examples: tuple[Tensor, ...]) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """The graph, and the name of every placeholder that is a parameter or buffer."""
    try:
        with warnings.catch_warnings():
            # torch warns of how its own recurrent modules keep their weights; the proof decides, not the warning.
            warnings.filterwarnings("ignore", "The tensor attributes .* were assigned during export", UserWarning)
            program = torch.export.export(module, examples)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected a module that torch.export can trace, found {type(module).__name__}, which it cannot "
            f"({reason}); give a Symmetry by hand instead"
        ) from error
    signature = program.graph_signature
    known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    # Buffers that are not saved with the weights are constants to us.
    saved = module.state_dict()
    named = {node: known[node.name] for node in program.graph.nodes if node.name in known}
    return program.graph, {node: name for node, name in named.items() if name in saved}


def _build(module: nn.Module, labels: Labels, tensors: dict[str, ValueLabel]) -> Symmetry:
    """Turn what is still free into named groups; a group is named after the first axis it moves."""
    state = module.state_dict(keep_vars=True)
    names: dict[int, str] = {}
    groups: dict[str, int] = {}
    axes = {}
    frozen: dict[str, dict[str, None]] = {}
    for name, tensor in state.items():
        value = tensors.get(name) or labels.new_value(tensor.shape, "not used")
        built = []
        for number, axis in enumerate(value):
            factors: list[Factor] = []
            for atom in labels.resolve(axis):
                reason, size = labels.reason(atom), labels.size((atom,))
                if reason is not None:
                    frozen.setdefault(reason, {})[f"{name}[{number}]"] = None
                elif atom not in names:
                    names[atom] = f"{name}:{number}" + ("" if len(labels.resolve(axis)) == 1 else f".{len(factors)}")
                    groups[names[atom]] = size
                factors.append(Factor(None if reason is not None else names[atom], size))
            built.append(tuple(factors) or (Factor(None, 1),))
        axes[name] = tuple(built)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return Symmetry(
        groups=groups,
        axes=axes,
        buffers=tuple(name for name in state if name not in parameters),
        frozen={reason: tuple(places) for reason, places in frozen.items()},
    )


def _settle_unused(labels: Labels, tensors: dict[str, ValueLabel], used: set[str], aliases: dict[str, str]) -> None:
    """Tied tensors move alike; what the graph does not use stands still."""
    tied = {**aliases, **{name: name for name in aliases.values()}}
    alive = {tied.get(name, name) for name in used}
    for alias, name in aliases.items():
        if alias in tensors and name in tensors:
            for own, other in zip(tensors[alias], tensors[name], strict=True):
                labels.unite(own, other)
    for name, value in tensors.items():
        if tied.get(name, name) not in alive:
            _freeze(labels, value, "not used")


def _freeze(labels: Labels, value: ValueLabel, reason: str) -> None:
    for axis in value:
        labels.freeze(axis, reason)


def _random_weights(module: nn.Module, generator: torch.Generator) -> Weights:
    """Parameters of a size that keeps signals alive; buffers positive, since they may be variances."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state = module.state_dict(keep_vars=True)
    weights: Weights = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            weights[name] = tensor.detach()
        elif name in parameters and tensor.ndim > 1:
            fan_in = max(1, math.prod(tensor.shape[1:]))
            weights[name] = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
        else:
            weights[name] = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    weights.update({alias: weights[name] for alias, name in find_aliases(state).items()})
    return weights


def _random_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers where the example has such; else its own entries, shuffled (indices, positive numbers)."""
    if example.is_floating_point() and (example.min() < 0 or not example.any()):
        return torch.randn(example.shape, generator=generator, dtype=torch.float64)
    pick = torch.randint(example.numel(), (example.numel(),), generator=generator)
    drawn = example.reshape(-1)[pick].reshape(example.shape)
    return drawn.to(torch.float64) if drawn.is_floating_point() else drawn


def _outputs(module: nn.Module, weights: Weights, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        made = functional_call(module, weights, tuple(inputs))
    flat, _ = torch.utils._pytree.tree_flatten(made)
    return [value.to(torch.float64) for value in flat if isinstance(value, Tensor) and value.numel()]


def _provable_outputs(module: nn.Module, weights: Weights, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, if they are finite and the same twice."""
    name = type(module).__name__
    try:
        first, second = _outputs(module, weights, inputs), _outputs(module, weights, inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected {name} to run in float64, so that its symmetry can be proved, found {reason}"
        ) from error
    if not all(value.isfinite().all() for value in first) or _difference(first, second) > 0:
        raise InputError(f"expected {name} to give finite outputs that are not random, found others")
    return first


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    return max((float((a - b).abs().max()) for a, b in zip(first, second, strict=True)), default=0.0)


def _copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode."""
    try:
        return copy.deepcopy(module).eval()
    except RuntimeError as error:
        raise InputError(f"expected a module that can be copied, found {type(module).__name__} ({error})") from error


def _derange(symmetry: Symmetry, group: str | None, generator: torch.Generator) -> Permutations:
    """A permutation that moves every entry of `group` (of every group for None)."""
    permutations = identity_permutations(symmetry)
    for name in symmetry.groups if group is None else [group]:
        order = torch.randperm(symmetry.groups[name], generator=generator)
        permutations[name] = torch.empty_like(order).scatter_(0, order, order.roll(1))
    return permutations
