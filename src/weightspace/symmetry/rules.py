"""What each operation does to the labels of its values.

A rule takes the labels, the node of the graph and the labels of its arguments, and returns the label of the
result. An operation without a rule freezes everything it touches: unknown means fewer symmetries, never
wrong ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from torch import fx

from weightspace.symmetry.labels import AxisLabel, Labels, ValueLabel

Rule: TypeAlias = Callable[[Labels, fx.Node, "Known"], ValueLabel]


class Use(NamedTuple):
    """How a parameter is used: layer kind, which axis counts the outputs, and the bias that goes with it."""

    kind: str
    axis: int
    bias: str | None


class Known(dict[fx.Node, ValueLabel]):
    """Labels of the values so far, and how parameters (named by their node) are used."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[fx.Node, tuple[str, int, fx.Node | None]] = {}


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The static shape of a node's tensor."""
    return tuple(int(size) for size in node.meta["val"].shape)


def apply_rule(labels: Labels, node: fx.Node, known: Known) -> ValueLabel | None:
    """The label of the node's result; None where the result is no tensor."""
    name = operation_name(node)
    rule = RULES.get(name)
    if rule is not None:
        return rule(labels, node, known)
    return _freeze_inputs(labels, node, known)


def _freeze_inputs(labels: Labels, node: fx.Node, known: Known) -> Any:
    """Nothing that the operation touches may move."""
    name = operation_name(node)
    for argument in node.all_input_nodes:
        for axis in known.get(argument, ()):
            labels.freeze(axis, name)
    return labels.new_value(shape_of(node), name) if hasattr(node.meta.get("val"), "shape") else None


def operation_name(node: fx.Node) -> str:
    """The operation's name without its overload, such as `aten.linear`."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(packet)


def _argument(node: fx.Node, position: int, name: str = "", default: Any = None) -> Any:
    """An argument by position or name; the types of graph arguments are known to the rules only."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _linear(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    inputs, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2, "bias")
    if len(known[weight]) != 2:
        return _freeze_inputs(labels, node, known)
    labels.unite(known[inputs][-1], known[weight][1])
    if bias is not None:
        labels.unite(known[weight][0], known[bias][0])
    known.uses.setdefault(weight, ("linear", 0, bias))
    return (*known[inputs][:-1], known[weight][0])


def _conv(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    inputs, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2, "bias")
    groups = _argument(node, 6, "groups", 1)
    channels, kernel, image = known[inputs][-len(shape_of(weight)) + 1], known[weight][2:], known[inputs]
    depthwise = groups == shape_of(weight)[0] == labels.size(channels)
    if depthwise:
        labels.unite(channels, known[weight][0])
    elif groups == 1:
        labels.unite(channels, known[weight][1])
    else:
        for axis in (channels, *known[weight][:2]):
            labels.freeze(axis, "grouped convolution")
    for axis in (*kernel, *image[-len(kernel) :]):
        labels.freeze(axis, "space")
    if bias is not None:
        labels.unite(known[weight][0], known[bias][0])
    known.uses.setdefault(weight, ("conv", 0, bias))
    space = labels.new_value(shape_of(node)[-len(kernel) :], "space")
    return (*image[: -len(kernel) - 1], known[weight][0], *space)


def _batch_norm(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    inputs, vectors = _argument(node, 0), [part for part in node.args[1:5] if isinstance(part, fx.Node)]
    for vector in vectors:
        labels.unite(known[inputs][1], known[vector][0])
        known.uses.setdefault(vector, ("norm", 0, None))
    _note_norm(node, known)
    return known[inputs]


def _layer_norm(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    inputs, normalized = _argument(node, 0), len(_argument(node, 1))
    for vector in (part for part in node.args[2:4] if isinstance(part, fx.Node)):
        for axis, own in zip(known[inputs][-normalized:], known[vector], strict=True):
            labels.unite(axis, own)
        known.uses.setdefault(vector, ("norm", 0, None))
    if normalized == 1:
        _note_norm(node, known, first=2)
    return known[inputs]


def _note_norm(node: fx.Node, known: Known, first: int = 1) -> None:
    weight, bias = _argument(node, first, "weight"), _argument(node, first + 1, "bias")
    if isinstance(weight, fx.Node) and isinstance(bias, fx.Node):
        known.uses[weight] = ("norm", 0, bias)


def _pointwise(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    """Broadcasting arithmetic and functions of single elements."""
    shape = shape_of(node)
    result: list[AxisLabel] = [() for _ in shape]
    for argument in node.all_input_nodes:
        axes = known[argument]
        for offset, axis in enumerate(reversed(axes), start=1):
            if labels.size(axis) != shape[-offset]:
                continue
            if labels.size(result[-offset]) == shape[-offset] and result[-offset]:
                labels.unite(result[-offset], axis)
            else:
                result[-offset] = axis
    return tuple(result)


def _pool(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    image = known[_argument(node, 0)]
    space = 1 if "1d" in operation_name(node) else 3 if "3d" in operation_name(node) else 2
    for axis in image[-space:]:
        labels.freeze(axis, "space")
    return (*image[:-space], *labels.new_value(shape_of(node)[-space:], "space"))


def _reduce(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    """Mean, sum and extremes over axes do not depend on the order along them."""
    axes, dims = known[_argument(node, 0)], _argument(node, 1, "dim")
    listed = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in listed}
    if _argument(node, 2, "keepdim", False):
        return tuple(() if number in gone else axis for number, axis in enumerate(axes))
    return tuple(axis for number, axis in enumerate(axes) if number not in gone)


def _reshape(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    return labels.regroup(known[_argument(node, 0)], shape_of(node), "reshape")


def _permute(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    axes = known[_argument(node, 0)]
    return tuple(axes[dim] for dim in _argument(node, 1))


def _transpose(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    axes = list(known[_argument(node, 0)])
    first, second = _argument(node, 1, default=0), _argument(node, 2, default=-1)
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def _matmul(labels: Labels, node: fx.Node, known: Known) -> ValueLabel:
    left, right = known[_argument(node, 0)], known[_argument(node, 1)]
    if len(right) != 2 or len(left) < 2:
        for axis in (*left, *right):
            labels.freeze(axis, "batched matrix product")
        return labels.new_value(shape_of(node), "batched matrix product")
    labels.unite(left[-1], right[0])
    return (*left[:-1], right[1])


_POINTWISE = [
    "relu",
    "relu_",
    "relu6",
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "silu_",
    "mish",
    "tanh",
    "sigmoid",
    "softplus",
    "hardtanh",
    "hardtanh_",
    "hardsigmoid",
    "hardswish",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "abs",
    "neg",
    "sin",
    "cos",
    "erf",
    "square",
    "pow",
    "clamp",
    "clamp_min",
    "clamp_max",
    "add",
    "add_",
    "sub",
    "mul",
    "mul_",
    "div",
    "div_",
    "maximum",
    "minimum",
    "dropout",
    "dropout_",
    "feature_dropout",
    "clone",
    "contiguous",
    "detach",
    "detach_",
    "alias",
    "to",
    "_to_copy",
    "lift_fresh_copy",
]
_RESHAPES = ["flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"]
_POOLS = [f"{kind}{dim}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool") for dim in (1, 2, 3)]
RULES: dict[str, Rule] = {
    "aten.linear": _linear,
    **{f"aten.conv{dim}d": _conv for dim in (1, 2, 3)},
    "aten.batch_norm": _batch_norm,
    "aten.layer_norm": _layer_norm,
    "aten.matmul": _matmul,
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.t": _transpose,
    **{f"aten.{name}": _pointwise for name in _POINTWISE},
    **{f"aten.{name}": _reshape for name in _RESHAPES},
    **{f"aten.{name}": _pool for name in _POOLS},
    **{f"aten.{name}": _reduce for name in ("mean", "sum", "amax", "amin")},
}
