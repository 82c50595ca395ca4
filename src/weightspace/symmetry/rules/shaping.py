"""Operations that move, cut and join axes without touching entries."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from weightspace.graphs import shapes_of_node
from weightspace.symmetry.labels import AxisLabel, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several, dims_of


def reshape(op: Operation) -> ValueLabel:
    """Flatten, view, squeeze and the like."""
    return op.labels.regroup(op.filled(op.argument(0)), op.shape, op.name)


def permute(op: Operation) -> ValueLabel:
    """Axes in another order."""
    axes = op.label(op.argument(0))
    return tuple(axes[dim] for dim in op.argument(1, "dims"))


def transpose(op: Operation) -> ValueLabel:
    """Two axes exchanged (`t`: the only two)."""
    axes = list(op.label(op.argument(0)))
    if len(axes) < 2:
        return tuple(axes)
    first, second = op.argument(1, "dim0", 0), op.argument(2, "dim1", 1)
    axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def matrix_transpose(op: Operation) -> ValueLabel:
    """The last two axes exchanged."""
    axes = op.label(op.argument(0))
    return (*axes[:-2], axes[-1], axes[-2])


def expand(op: Operation) -> ValueLabel:
    """Broadcast: the value is constant along what grows."""
    axes, old = op.label(op.argument(0)), op.shape_of(op.argument(0))
    new = len(op.shape) - len(axes)
    kept = (axis if size == old[n] else () for n, (axis, size) in enumerate(zip(axes, op.shape[new:], strict=True)))
    return (*(() for _ in range(new)), *kept)


def repeat(op: Operation) -> ValueLabel:
    """Tiles: a repeated axis is (copies, itself), and the copies may be taken in any order."""
    times, axes = op.argument(1, "repeats"), op.filled(op.argument(0))
    axes = (*(() for _ in range(len(op.shape) - len(axes))), *axes)
    times = [1] * (len(axes) - len(times)) + list(times)
    return tuple(axis if n == 1 else (*op.labels.new(n), *axis) for n, axis in zip(times, axes, strict=True))


def repeat_interleave(op: Operation) -> ValueLabel | Several:
    """Every entry several times: the axis is (itself, copies)."""
    times, dim = op.argument(1, "repeats"), op.argument(2, "dim")
    if not isinstance(times, int) or dim is None:
        return op.freeze_everything()
    axes = list(op.filled(op.argument(0)))
    axes[dim] = (*axes[dim], *op.labels.new(times))
    return tuple(axes)


def cat(op: Operation) -> ValueLabel:
    """Values side by side: one axis is a concatenation, the others are common."""
    values = [op.filled(part) for part in op.argument(0) if len(op.shape_of(part)) == len(op.shape)]
    (dim,) = dims_of(op.argument(1, "dim", 0), len(op.shape))
    return _common(op, values, dim, op.labels.concatenate([value[dim] for value in values]))


def stack(op: Operation) -> ValueLabel:
    """Values along a new axis, whose order stands still."""
    values = [op.label(part) for part in op.argument(0)]
    (dim,) = dims_of(op.argument(1, "dim", 0), len(op.shape))
    values = [(*value[:dim], (), *value[dim:]) for value in values]
    return _common(op, values, dim, op.labels.new(op.shape[dim], op.name))


def split(op: Operation) -> Several:
    """split, chunk and tensor_split: consecutive pieces of an axis."""
    return _pieces(op, op.argument(0), op.argument(2, "dim", 0), shapes_of_node(op.node))


def unbind(op: Operation) -> Several:
    """Single entries of an axis."""
    axes = op.filled(op.argument(0))
    (dim,) = dims_of(op.argument(1, "dim", 0), len(axes))
    op.labels.cut(axes[dim], [1] * op.labels.size(axes[dim]), op.name)
    return Several(tuple(axes[:dim] + axes[dim + 1 :] for _ in range(op.labels.size(axes[dim]))))


def select(op: Operation) -> ValueLabel:
    """One entry of an axis: that entry must stay where it is."""
    axes = op.filled(op.argument(0))
    (dim,) = dims_of(op.argument(1, "dim", 0), len(axes))
    size = op.labels.size(axes[dim])
    start = op.argument(2, "index") % size
    op.labels.cut(axes[dim], [start, 1, size - start - 1], op.name)
    return axes[:dim] + axes[dim + 1 :]


def slice_(op: Operation) -> ValueLabel:
    """A run of an axis; with steps the whole axis stands still."""
    axes, shape = op.filled(op.argument(0)), op.shape_of(op.argument(0))
    (dim,) = dims_of(op.argument(1, "dim", 0), len(axes))
    start, step = op.argument(2, "start", 0) or 0, op.argument(4, "step", 1)
    if shape[dim] == op.shape[dim]:
        return axes
    if step != 1:
        op.freeze((axes[dim],))
        return (*axes[:dim], *op.fixed((op.shape[dim],)), *axes[dim + 1 :])
    start = max(0, start + shape[dim] if start < 0 else start)
    return _replace(op, axes, dim, [start, op.shape[dim], shape[dim] - start - op.shape[dim]])


def slice_scatter(op: Operation) -> ValueLabel | Several:
    """A value with a run of an axis replaced: what stays, and what comes in, side by side."""
    whole, own = op.filled(op.argument(0)), op.filled(op.argument(1))
    (dim,) = dims_of(op.argument(2, "dim", 0), len(whole))
    if op.argument(5, "step", 1) != 1:
        return op.freeze_everything()
    size, run = op.shape[dim], op.labels.size(own[dim])
    start = op.argument(3, "start", 0) or 0
    start = max(0, start + size if start < 0 else start)
    before, _, after = op.labels.cut(whole[dim], [start, run, size - start - run], op.name)
    return _common(op, [whole, own], dim, op.labels.concatenate([before, own[dim], after]))


def copy(op: Operation) -> ValueLabel:
    """The second argument in the shape of the first."""
    own, shape = op.label(op.argument(1)), op.shape_of(op.argument(1))
    missing = len(op.shape) - len(own)
    kept = (
        axis if size == op.shape[missing + n] else () for n, (axis, size) in enumerate(zip(own, shape, strict=True))
    )
    return (*(() for _ in range(missing)), *kept)


def pad(op: Operation) -> ValueLabel:
    """Constant numbers on either side of an axis; other modes of padding are for space."""
    value, widths = op.filled(op.argument(0)), op.argument(1, "pad")
    axes = list(value)
    for number in range(len(widths) // 2):
        before, after, dim = widths[2 * number], widths[2 * number + 1], len(axes) - 1 - number
        if before == after == 0:
            continue
        if op.argument(2, "mode", "constant") in ("reflect", "replicate", "circular") or min(before, after) < 0:
            op.freeze((axes[dim],), "padding")
            axes[dim] = op.labels.new(op.shape[dim], "padding")
        else:
            axes[dim] = op.labels.concatenate([op.labels.new(before), axes[dim], op.labels.new(after)])
    return tuple(axes)


def reorder(op: Operation) -> ValueLabel:
    """roll and flip: what they reorder stands still."""
    axes = op.label(op.argument(0))
    dims = dims_of(op.argument(2, "dims") if "roll" in op.name else op.argument(1, "dims"), len(axes))
    op.freeze(axes[dim] for dim in dims)
    return axes


def triangle(op: Operation) -> ValueLabel:
    """tril and triu: rows and columns stand still."""
    axes = op.filled(op.argument(0))
    op.freeze(axes[-2:])
    return axes


def halves(op: Operation) -> ValueLabel:
    """A gated linear unit: the two halves of an axis move together."""
    axes = op.filled(op.argument(0))
    (dim,) = dims_of(op.argument(1, "dim", -1), len(axes))
    first, second = op.labels.cut(axes[dim], [op.shape[dim]] * 2, op.name)
    op.labels.unite(first, second)
    return (*axes[:dim], first, *axes[dim + 1 :])


def index_select(op: Operation) -> ValueLabel:
    """Chosen entries of an axis, which stands still."""
    axes = op.filled(op.argument(0))
    (dim,) = dims_of(op.argument(1, "dim"), len(axes))
    op.freeze((axes[dim],))
    return (*axes[:dim], *op.fixed((op.shape[dim],)), *axes[dim + 1 :])


def index(op: Operation) -> ValueLabel | Several:
    """Entries chosen by tensors of numbers: the axes chosen from stand still, the others move."""
    axes, chosen = op.filled(op.argument(0)), op.argument(1)
    places = [number for number, indices in enumerate(chosen) if indices is not None]
    if any(
        indices.meta["val"].dtype.is_floating_point or indices.meta["val"].element_size() == 1
        for indices in chosen
        if indices
    ):
        return op.freeze_everything()  # a mask takes as many entries as it likes
    op.freeze(axes[number] for number in places)
    for indices in (chosen[number] for number in places):
        op.freeze(op.label(indices))
    kept = [axis for number, axis in enumerate(axes) if number not in places]
    side_by_side = places == list(range(places[0], places[-1] + 1))
    first = places[0] if side_by_side else 0
    new = op.fixed(op.shape[first : first + len(op.shape) - len(kept)])
    return (*kept[:first], *new, *kept[first:])


def item(op: Operation) -> Any:
    """One of several results."""
    source, number = op.node.args
    found = op.known.get(source) if isinstance(source, fx.Node) else None
    if isinstance(found, Several) and isinstance(number, int) and number < len(found.values):
        return found.values[number]
    return op.freeze_everything()


def _pieces(op: Operation, argument: fx.Node, dim: int, shapes: Sequence[tuple[int, ...]]) -> Several:
    axes = op.filled(argument)
    (dim,) = dims_of(dim, len(axes))
    cut = op.labels.cut(axes[dim], [shape[dim] for shape in shapes], op.name)
    return Several(tuple((*axes[:dim], piece, *axes[dim + 1 :]) for piece in cut))


def _replace(op: Operation, axes: ValueLabel, dim: int, sizes: list[int]) -> ValueLabel:
    piece = op.labels.cut(axes[dim], sizes, op.name)[1]
    return (*axes[:dim], piece, *axes[dim + 1 :])


def _common(op: Operation, values: Sequence[ValueLabel], dim: int, along: AxisLabel) -> ValueLabel:
    for value in values[1:]:
        for number, (first, second) in enumerate(zip(values[0], value, strict=True)):
            if number != dim:
                op.labels.unite(first, second)
    return tuple(along if number == dim else axis for number, axis in enumerate(values[0]))
