"""Norms: what they average over is symmetric, and their scales and shifts move with what they are applied to."""

from torch import fx

from weightspace.symmetry.labels import ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several


def batch_norm(op: Operation) -> ValueLabel | Several:
    """Batch and instance norm: a scale, shift, mean and variance per channel."""
    inputs = op.label(op.argument(0))
    vectors = [op.argument(n, name) for n, name in enumerate(("weight", "bias", "running_mean", "running_var"), 1)]
    for vector in (own for own in vectors if isinstance(own, fx.Node)):
        op.labels.unite(inputs[1], op.label(vector)[0])
        op.use(vector, "norm")
    _note(op, *vectors[:2])
    return op.first_only(inputs)


def layer_norm(op: Operation) -> ValueLabel | Several:
    """Layer and RMS norm over the last axes."""
    return _over_last(op, op.argument(2, "weight"), op.argument(3, "bias") if "layer" in op.name else None)


def group_norm(op: Operation) -> ValueLabel:
    """Channels are (groups, channels in a group); both may move."""
    inputs, groups = op.filled(op.argument(0)), op.argument(1, "num_groups")
    return _by_groups(op, inputs, groups, op.argument(2, "weight"), op.argument(3, "bias"))


def native_group_norm(op: Operation) -> ValueLabel | Several:
    """`group_norm` as a tracer of the second kind names it."""
    inputs, groups = op.filled(op.argument(0)), op.argument(6)
    return op.first_only(_by_groups(op, inputs, groups, op.argument(1), op.argument(2)))


def weight_norm(op: Operation) -> ValueLabel | Several:
    """A direction and a length per output: v * g / |v|."""
    direction, length = op.label(op.argument(0)), op.label(op.argument(1))
    for axis, scale_axis in zip(direction, length, strict=True):
        if op.labels.size(axis) == op.labels.size(scale_axis):
            op.labels.unite(axis, scale_axis)
    return op.first_only(direction)


def _by_groups(op: Operation, inputs: ValueLabel, groups: int, weight: object, bias: object) -> ValueLabel:
    split = op.labels.regroup((inputs[1],), (groups, op.labels.size(inputs[1]) // groups), op.name)
    channels = (*split[0], *split[1])
    for vector in (own for own in (weight, bias) if isinstance(own, fx.Node)):
        op.labels.unite(channels, op.label(vector)[0])
        op.use(vector, "norm")
    _note(op, weight, bias)
    return (inputs[0], channels, *inputs[2:])


def _over_last(op: Operation, weight: object, bias: object) -> ValueLabel | Several:
    inputs, normalized = op.label(op.argument(0)), len(op.argument(1))
    for vector in (own for own in (weight, bias) if isinstance(own, fx.Node)):
        for axis, own in zip(inputs[-normalized:], op.label(vector), strict=True):
            op.labels.unite(axis, own)
        op.use(vector, "norm")
    if normalized == 1:
        _note(op, weight, bias)
    return op.first_only(inputs)


def _note(op: Operation, weight: object, bias: object) -> None:
    if isinstance(weight, fx.Node) and isinstance(bias, fx.Node) and op.uses[weight].kind == "norm":
        op.uses[weight] = op.uses[weight]._replace(bias=bias)
