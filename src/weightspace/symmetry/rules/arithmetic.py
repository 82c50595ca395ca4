"""Arithmetic: functions of single elements, sums, and products of matrices."""

from torch import fx

from weightspace.symmetry.labels import AxisLabel, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several, dims_of


def same(op: Operation) -> ValueLabel:
    """The first argument, element by element or symmetric in each of its axes (softmax)."""
    return op.label(op.argument(0))


def constant(op: Operation) -> ValueLabel:
    """One number everywhere, in the shape of the result."""
    return tuple(() for _ in op.shape)


def pointwise(op: Operation) -> ValueLabel:
    """Broadcasting functions of single elements."""
    result: list[AxisLabel] = [() for _ in op.shape]
    for argument in op.node.all_input_nodes:
        for offset, axis in enumerate(reversed(op.label(argument)), start=1):
            if op.labels.size(axis) != op.shape[-offset]:
                continue
            if op.labels.size(result[-offset]) == op.shape[-offset]:
                op.labels.unite(result[-offset], axis)
            else:
                result[-offset] = axis
    return tuple(result)


def prelu(op: Operation) -> ValueLabel:
    """A slope per channel, or one for all."""
    inputs, slope = op.label(op.argument(0)), op.label(op.argument(1))
    if len(inputs) > 1 and slope and op.labels.size(slope[0]) > 1:
        op.labels.unite(inputs[1], slope[0])
    return inputs


def reduce(op: Operation) -> ValueLabel:
    """Sums, means and extremes over axes do not depend on the order along them."""
    return _without(op, reduced_dims(op))


def extreme(op: Operation) -> ValueLabel | Several:
    """max and min: of everything, of two values, or along an axis (then where they are must not be read)."""
    if isinstance(op.argument(1, "other"), fx.Node):
        return pointwise(op)
    return op.first_only(reduce(op))


def reduced_dims(op: Operation) -> tuple[int, ...]:
    """Which axes of the first argument go."""
    listed = op.argument(1, "dim")
    if isinstance(listed, bool) or not isinstance(listed, int | list | tuple):
        listed = None
    axes = op.label(op.argument(0))
    return dims_of(listed, len(axes)) if axes else ()


def norm(op: Operation) -> ValueLabel:
    """A norm over axes: the argument before its dimensions is the order."""
    axes = op.label(op.argument(0))
    return _without(op, dims_of(op.argument(2, "dim"), len(axes)) if axes else ())


def _without(op: Operation, gone: tuple[int, ...]) -> ValueLabel:
    axes = op.label(op.argument(0))
    if len(op.shape) == len(axes):
        return tuple(() if number in gone else axis for number, axis in enumerate(axes))
    return tuple(axis for number, axis in enumerate(axes) if number not in gone)


def linear(op: Operation) -> ValueLabel:
    """inputs @ weight^T + bias."""
    inputs, weight, bias = op.argument(0), op.argument(1), op.argument(2, "bias")
    own = op.label(weight)
    if len(own) != 2:
        return op.frozen_result()
    op.labels.unite(op.label(inputs)[-1], own[1])
    if bias is not None:
        op.labels.unite(own[0], op.label(bias)[0])
    op.use(weight, "linear", 0, bias)
    return (*op.label(inputs)[:-1], own[0])


def matmul(op: Operation) -> ValueLabel:
    """Matrix products, batched or not."""
    return _product(op, op.argument(0), op.argument(1))


def addmm(op: Operation) -> ValueLabel:
    """bias + left @ right."""
    bias, right = op.argument(0), op.argument(2)
    product = _product(op, op.argument(1), right)
    for offset, axis in enumerate(reversed(op.label(bias)), start=1):
        op.labels.unite(product[-offset], axis)
    if len(op.label(right)) == 2:
        op.use(right, "linear", 1, bias)
    return product


def einsum(op: Operation) -> ValueLabel:
    """An Einstein sum: axes with one letter move together, and sums do not depend on order."""
    equation, operands = op.argument(0), op.argument(1)
    inputs, _, result = equation.replace(" ", "").partition("->")
    if "." in equation or not result:
        return op.frozen_result()
    letters: dict[str, AxisLabel] = {}
    for name, operand in zip(inputs.split(","), operands, strict=True):
        for letter, axis in zip(name, op.label(operand), strict=True):
            op.labels.unite(letters.get(letter, ()), axis)
            letters[letter] = letters.get(letter) or axis
    return tuple(letters[letter] for letter in result)


def _product(op: Operation, left: fx.Node, right: fx.Node) -> ValueLabel:
    rows, columns = op.label(left), op.label(right)
    inner = columns[-2] if len(columns) > 1 else columns[0]
    op.labels.unite(rows[-1], inner)
    ends = (*rows[-2:-1], *(columns[-1:] if len(columns) > 1 else ()))
    batch: list[AxisLabel] = [() for _ in range(len(op.shape) - len(ends))]
    for own in (rows[:-2], columns[:-2]):
        for offset, axis in enumerate(reversed(own), start=1):
            if batch[-offset]:
                op.labels.unite(batch[-offset], axis)
            elif op.labels.size(axis) > 1:
                batch[-offset] = axis
    return (*batch, *ends)
