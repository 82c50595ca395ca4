"""Derive where a network's units may be scaled, or change their sign, from its graph; then prove it.

Every axis of every value is labelled with the units it carries. What writes a unit (a linear layer, a
convolution, a norm's scale and shift, an embedding) may be multiplied along it, what reads it must be divided;
operations that are neither positively homogeneous (for scales) nor odd (for signs), and all that have no rule,
freeze the units they touch. The eps of a batch norm makes it no exact reader, so it freezes what it reads; max
pooling keeps scales and breaks signs.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from weightspace.graphs import Graph, copy_module, one_by_one, shapes_of_node, trace_graph
from weightspace.symmetry.axes import groups_of
from weightspace.symmetry.labels import AxisLabel, Labels, ValueLabel, axis_of, name_groups, reasons_of
from weightspace.symmetry.proving import prove_unchanged
from weightspace.symmetry.rescaling import Kind, Place, Rescaling, random_factors, rescale
from weightspace.symmetry.rules import arithmetic, convolving, shaping
from weightspace.symmetry.rules.operation import Known, Operation, values_of
from weightspace.symmetry.rules.table import CHECKS
from weightspace.weights.values import Weights, find_aliases

HOMOGENEOUS = {"relu", "leaky_relu", "prelu"}
ODD = {"tanh", "sin", "erf", "softsign", "tanhshrink", "softshrink", "hardshrink", "asinh", "atan"}
LINEAR = {"dropout", "feature_dropout", "clone", "contiguous", "detach", "alias", "to", "_to_copy", "neg", "positive"}
MOVING = {
    **dict.fromkeys(("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"), shaping.reshape),
    "permute": shaping.permute,
    "transpose": shaping.transpose,
    "t": shaping.transpose,
    "expand": shaping.expand,
    "cat": shaping.cat,
    "split": shaping.split,
    "split_with_sizes": shaping.split,
    "chunk": shaping.split,
    "select": shaping.select,
    "slice": shaping.slice_,
    **{f"{kind}{dim}d": convolving.pool for kind in ("avg_pool", "adaptive_avg_pool") for dim in (1, 2, 3)},
    **{f"upsample_{kind}": convolving.resize for kind in ("nearest1d", "nearest2d", "bilinear2d", "trilinear3d")},
}


class Attachment(NamedTuple):
    """A parameter that writes (1) or reads (-1) units along one of its axes, in one operation."""

    parameter: fx.Node
    operation: fx.Node
    number: int
    units: AxisLabel
    exponent: int


class _UnitLabels(Labels):
    """Labels of units: what is constant along an axis has none there."""

    def filled(self, value: ValueLabel, shape: Sequence[int]) -> ValueLabel:
        pairs = zip(value, shape, strict=True)
        return tuple(axis if self.size(axis) == size else self.new(size, "broadcasting") for axis, size in pairs)


def trace_rescaling(module: nn.Module, kind: Kind, *examples: Any, **named: Any) -> Rescaling:
    """The scales, or signs, that a module's units may change, derived from its graph and proved.

    Args:
        module: any module that `torch.export` can trace; traced in evaluation mode.
        kind: `scale` or `sign`.
        examples, named: inputs as for `trace_symmetry`.

    Raises:
        InputError: the module cannot be traced.
        SymmetryDisproved: a rule of ours is wrong for this network (a bug worth reporting).
    """
    examples = one_by_one(examples)
    graph, module = trace_graph(copy_module(module), examples, named), copy_module(module)
    units = _Units(graph, kind)
    for node in graph.nodes.nodes:
        units.visit(node)
    rescaling = _build(module, units, graph, kind)

    def changed(weights: Weights, groups: Collection[str], generator: torch.Generator) -> Weights:
        drawn = random_factors(rescaling, 1, generator)
        factors = {name: own if name in groups else torch.ones_like(own) for name, own in drawn.items()}
        stack = {name: weights[name][None] for name in weights}
        return {name: tensor[0] for name, tensor in rescale(stack, rescaling, factors).items()}

    tensors = {
        group: [place.tensor for place in rescaling.places if group in groups_of((place.axis,))]
        for group in rescaling.groups
    }
    if rescaling.groups:
        # What no output depends on may be scaled as one likes, so what is not proved of it does no harm.
        prove_unchanged(module, changed, tensors, examples, named)
    return rescaling


class _Units:
    """Labels of the units that values carry, and what writes and reads them."""

    def __init__(self, graph: Graph, kind: Kind) -> None:
        self.graph, self.kind, self.labels = graph, kind, _UnitLabels()
        self.known: Known = {}
        self.attachments: list[Attachment] = []

    def visit(self, node: fx.Node) -> None:
        """Label a node's results."""
        if node.op in ("placeholder", "get_attr"):
            reason = "parameter" if node in self.graph.names else "input"
            self.known[node] = self.labels.new_value(shapes_of_node(node)[0], reason)
        elif node.op == "call_function":
            op = Operation(self.labels, node, self.known, {})
            try:
                self.known[node] = self._apply(op)
            except (IndexError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
                self.known[node] = op.freeze_everything()
        else:
            for result in node.all_input_nodes:
                for value in values_of(self.known.get(result)):
                    for axis in value:
                        self.labels.freeze(axis, "output")

    def _apply(self, op: Operation) -> Any:
        name = op.name.removeprefix("aten.").removesuffix("_")
        if op.name in CHECKS:
            return ()
        if op.name == "getitem":
            return shaping.item(op)
        if name in MOVING:
            return MOVING[name](op)
        if name in ("mean", "sum"):
            return self._sum(op)
        rule = WRITERS.get(name)
        if rule is not None:
            return rule(self, op)
        passing = LINEAR | (HOMOGENEOUS if self.kind == "scale" else ODD)
        if name in passing and op.node.meta["val"].is_floating_point():
            return op.label(op.argument(0))
        pooled = self.kind == "scale" and name.startswith(("max_pool", "adaptive_max_pool"))
        return convolving.pool(op) if pooled else op.freeze_everything()

    def _sum(self, op: Operation) -> ValueLabel:
        """A sum over an axis mixes its units, so they stand still."""
        axes = op.label(op.argument(0))
        op.freeze(axes[dim] for dim in arithmetic.reduced_dims(op))
        return arithmetic.reduce(op)

    def attach(self, op: Operation, parameter: object, number: int, units: AxisLabel, exponent: int = 1) -> None:
        """Note that a parameter writes or reads units; what is no parameter freezes them."""
        if isinstance(parameter, fx.Node) and parameter in self.graph.names:
            self.attachments.append(Attachment(parameter, op.node, number, units, exponent))
        elif parameter is not None:
            self.labels.freeze(units, "computed weights")

    def settle(self, tied: set[str]) -> None:
        """Units of parameters that are used in more than one place stand still."""
        operations: dict[fx.Node, set[fx.Node]] = {}
        for own in self.attachments:
            operations.setdefault(own.parameter, set()).add(own.operation)
        for own in self.attachments:
            shared = len(operations[own.parameter]) > 1 or len(own.parameter.users) > 1
            if shared or self.graph.names[own.parameter] in tied:
                self.labels.freeze(own.units, "shared parameters")


def _linear(units: _Units, op: Operation) -> ValueLabel:
    inputs, weight = op.label(op.argument(0)), op.argument(1)
    out = units.labels.new(op.shape_of(weight)[0])
    units.attach(op, weight, 1, inputs[-1], -1)
    units.attach(op, weight, 0, out)
    units.attach(op, op.argument(2, "bias"), 0, out)
    op.freeze(inputs[:-1])
    return (*inputs[:-1], out)


def _convolution(units: _Units, op: Operation) -> ValueLabel:
    inputs, weight, groups = op.label(op.argument(0)), op.argument(1), op.argument(6, "groups", 1)
    shape = op.shape_of(weight)
    space = len(shape) - 2
    channels, out = inputs[-space - 1], units.labels.new(shape[0])
    if groups == 1:
        units.attach(op, weight, 1, channels, -1)
    elif groups == shape[0] == units.labels.size(channels):
        units.attach(op, weight, 0, channels, -1)
    else:
        op.freeze((channels,))
    units.attach(op, weight, 0, out)
    units.attach(op, op.argument(2, "bias"), 0, out)
    op.freeze((*inputs[: -space - 1], *inputs[-space:]), "space")
    return (*inputs[: -space - 1], out, *op.fixed(op.shape[-space:], "space"))


def _norm(units: _Units, op: Operation) -> Any:
    """A norm reads nothing exactly (its eps), and writes with its scale and shift."""
    inputs = op.label(op.argument(0))
    first, axis = (1, 1) if "batch" in op.name or "instance" in op.name else (2, 1 if "group" in op.name else -1)
    weight, bias = op.argument(first, "weight"), op.argument(first + 1, "bias") if "rms" not in op.name else None
    op.freeze(inputs)
    if not isinstance(weight, fx.Node) or len(op.shape_of(weight)) != 1:
        return op.freeze_everything()
    out = units.labels.new(op.shape_of(weight)[0])
    units.attach(op, weight, 0, out)
    units.attach(op, bias, 0, out)
    value = list(inputs)
    value[axis] = out
    return op.first_only(tuple(value))


def _add(units: _Units, op: Operation) -> ValueLabel:
    """Sums join units; where one operand is the same along an axis, or a number, the other's units stand still."""
    operands = [own for own in (op.argument(0), op.argument(1)) if isinstance(own, fx.Node)]
    values = [own for own in operands if own not in units.graph.names]
    if len(operands) < 2 or not values:
        return op.frozen_result()
    result = []
    for offset in range(-len(op.shape), 0):
        axes = [op.label(own)[offset] if len(op.label(own)) >= -offset else () for own in values]
        units_of = axes[0]
        whole = all(
            len(op.shape_of(own)) >= -offset and op.shape_of(own)[offset] == op.shape[offset] for own in operands
        )
        for axis in axes[1:]:
            units.labels.unite(units_of, axis)
        if op.shape[offset] > 1 and (not whole or not all(axes)):
            op.freeze(axes)
            units_of = units.labels.new(op.shape[offset], op.name)
        for parameter in (own for own in operands if own in units.graph.names):
            if whole:
                units.attach(op, parameter, len(op.shape_of(parameter)) + offset, units_of)
        result.append(units_of)
    return tuple(result)


def _scaled(units: _Units, op: Operation) -> ValueLabel:
    """A product with a number; any other product stands still."""
    if isinstance(op.argument(1), fx.Node) or op.node.kwargs.get("rounding_mode"):
        return op.frozen_result()
    return op.label(op.argument(0))


def _embedding(units: _Units, op: Operation) -> ValueLabel:
    table, chosen = op.argument(0), op.label(op.argument(1))
    out = units.labels.new(op.shape_of(table)[1])
    units.attach(op, table, 1, out)
    return (*chosen, out)


WRITERS: dict[str, Callable[[_Units, Operation], Any]] = {
    "linear": _linear,
    **{f"conv{dim}d": _convolution for dim in (1, 2, 3)},
    "batch_norm": _norm,
    "instance_norm": _norm,
    "layer_norm": _norm,
    "group_norm": _norm,
    "rms_norm": _norm,
    "add": _add,
    "mul": _scaled,
    "div": _scaled,
    "embedding": _embedding,
}


def _build(module: nn.Module, units: _Units, graph: Graph, kind: Kind) -> Rescaling:
    aliases = find_aliases(module.state_dict(keep_vars=True))
    units.settle({*aliases, *aliases.values()})
    names: dict[int, str] = {}
    groups: dict[str, int] = {}
    places: list[Place] = []
    frozen: dict[str, dict[str, None]] = {}
    for own in sorted(units.attachments, key=lambda own: -own.exponent):
        tensor = graph.names[own.parameter]
        name_groups(units.labels, own.units, f"{tensor}:{own.number}", names, groups)
    for own in units.attachments:
        tensor = graph.names[own.parameter]
        axis = axis_of(units.labels, own.units, names)
        if groups_of((axis,)):
            places.append(Place(tensor, own.number, axis, own.exponent))
        for reason in reasons_of(units.labels, own.units):
            frozen.setdefault(reason, {})[f"{tensor}[{own.number}]"] = None
    return Rescaling(kind, groups, tuple(places), {reason: tuple(own) for reason, own in frozen.items()})
