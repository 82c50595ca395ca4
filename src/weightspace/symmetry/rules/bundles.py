"""Values that are known slice by slice, as queries, keys and values made by one layer are.

A reshape of 3 d outputs to (3, heads, width), of which every slice is then taken by itself, ties nothing
between the three. A label of the whole would (one label per axis), so such a value is labelled as a bundle of
slices until they are taken.
"""

from typing import Any

from torch import fx

from weightspace.graphs import shapes_of_node
from weightspace.symmetry.labels import AxisLabel
from weightspace.symmetry.rules.operation import Bundle, Operation, Rule, Several, dims_of, values_of

MOVING = {
    "aten.permute",
    "aten.transpose",
    "aten.contiguous",
    "aten.clone",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.alias",
}
TAKING = {"aten.select": 1, "aten.unbind": 1}
MOST_SLICES = 8


def sliced(op: Operation) -> int | None:
    """The axis that a reshape makes of the front of another one, and that is only ever taken apart afterwards."""
    old, new = op.shape_of(op.argument(0)), op.shape
    made = [dim for dim, size in enumerate(new) if dim >= len(old) or size != old[dim]]
    if not made or len(new) <= len(old) or not 1 < new[made[0]] <= MOST_SLICES:
        return None
    dim = made[0]
    fits = old[:dim] == new[:dim] and dim < len(old) and old[dim] % new[dim] == 0
    return dim if fits and _only_taken(op.node, dim, len(new)) else None


def bundle(op: Operation, dim: int) -> Bundle:
    """The result of a reshape as a bundle along its axis `dim`."""
    axes, count = op.filled(op.argument(0)), op.shape[dim]
    along = op.labels.new(count, "slices")
    pieces = op.labels.cut(axes[dim], [op.labels.size(axes[dim]) // count] * count, op.name)
    values = (op.labels.regroup((*axes[:dim], along, piece, *axes[dim + 1 :]), op.shape, op.name) for piece in pieces)
    return Bundle(along, tuple(values))


def through_bundle(op: Operation, found: Bundle, rule: Rule) -> Bundle | Several | tuple[AxisLabel, ...]:
    """What becomes of a bundle: it is moved as a whole, or its slices are taken."""
    if op.name in MOVING:
        moved = [rule(op._replace(known={**op.known, op.argument(0): value})) for value in found.values]
        return Bundle(found.along, tuple(values_of(value)[0] for value in moved))
    slices = [tuple(axis for axis in value if axis != found.along) for value in found.values]
    return Several(tuple(slices)) if op.name == "aten.unbind" else slices[op.argument(2, "index")]


def _only_taken(node: fx.Node, dim: int, rank: int) -> bool:
    """Whether all users take single entries of axis `dim`, or move axes and leave that to their users."""
    return bool(node.users) and all(_takes(user, node, dim, rank) for user in node.users)


def _takes(user: fx.Node, node: fx.Node, dim: int, rank: int) -> bool:
    name = str(getattr(user.target, "overloadpacket", user.target))
    if name in TAKING:
        return dims_of(user.args[1] if len(user.args) > 1 else 0, rank) == (dim,)
    if name not in MOVING:
        return False
    shape, new = shapes_of_node(node)[0], shapes_of_node(user)[0]
    order = _order(user, name, rank)
    place = order.index(dim)
    return (place >= len(new) or new[place] == shape[dim]) and _only_taken(user, place, len(new))


def _order(user: fx.Node, name: str, rank: int) -> list[int | None]:
    """Which old axis every new axis is; None for a new one."""
    order: list[int | None] = list(range(rank))
    given: Any = user.args[1:]
    if name == "aten.permute":
        return [dim % rank for dim in given[0]]
    if name == "aten.transpose":
        first, second = (dim % rank for dim in given)
        order[first], order[second] = order[second], order[first]
    elif name == "aten.unsqueeze":
        order.insert(given[0] % (rank + 1), None)
    elif name == "aten.squeeze":
        gone, shape = dims_of(given[0] if given else None, rank), shapes_of_node(user.all_input_nodes[0])[0]
        order = [dim for dim in range(rank) if dim not in gone or shape[dim] != 1]
    return order
