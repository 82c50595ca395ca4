"""Where a traced network's units can be observed: what operations with parameters write, in reach of the inputs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from weightspace.graphs import Graph, shapes_of_node

# Operations that write units along axis 1; all others write them along the last axis.
CHANNELS_FIRST = ("conv", "batch_norm", "instance_norm", "group_norm", "prelu")
# What takes a parameter beside what it reads without writing units of its own.
JOINING = ("cat", "concat", "stack", "where", "expand", "copy", "slice_scatter", "index_put", "masked_fill")
# Products that do not say which axis of a matrix their units are along.
PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum")
# What may follow a writer so that its units are observed after it: a norm, a scale or a shift of theirs.
RIDING = ("add", "mul", "sub", "div")
MOST_POSITIONS = 64


class Place(NamedTuple):
    """What one operation writes, unit by unit.

    Attributes:
        name: of the first parameter of what writes it, without its last part, such as `layer1.0.conv1`.
        parameters: all that write it.
        node: the operation's; axis: of its units; batch: of the inputs; units: how many.
    """

    name: str
    parameters: tuple[str, ...]
    node: fx.Node
    axis: int
    batch: int
    units: int

    @property
    def operation(self) -> str:
        """The name of what writes it, such as `conv2d`."""
        return _name(self.node)

    def units_of(self, value: Any, count: int) -> Tensor:
        """A value as `[inputs, units, positions]`, of positions at most about 64, evenly spaced."""
        tensor = value[0] if isinstance(value, tuple | list) else value
        rest = [axis for axis in range(tensor.ndim) if axis not in (self.axis, self.batch)]
        most = max(1, round(MOST_POSITIONS ** (1 / max(1, len(rest)))))
        slices = [slice(None)] * tensor.ndim
        for axis in rest:
            slices[axis] = slice(None, None, -(-tensor.shape[axis] // most))
        ordered = tensor[tuple(slices)].permute(self.batch, self.axis, *rest)
        if ordered.shape[0] != count:  # windows of an image, or heads, beside each other in the batch
            ordered = ordered.unflatten(0, (count, -1)).movedim(1, -1)
        return ordered.reshape(count, self.units, -1)


def find_places(graph: Graph, count: int) -> list[Place]:
    """Every place where units can be observed, in the order in which they are computed.

    A norm, a scale or a shift that follows a writer directly, and nothing else does, is observed in its stead: the
    units are the same.

    Args:
        graph: traced with `count` inputs.
    """
    heard, origins = _reached(graph), _origins(graph)
    writers: dict[fx.Node, Place] = {}
    for node in graph.nodes.nodes:
        if node not in heard:
            continue
        place = _place(node, {source: origins[source] for source in node.all_input_nodes if source not in heard}, count)
        if place is None:
            continue
        follows = _name(node) in RIDING or "norm" in _name(node)
        for source in [writers[source] for source in node.all_input_nodes if source in writers]:
            if follows and len(source.node.users) == 1 and source.units == place.units:
                del writers[source.node]
                place = place._replace(name=source.name, parameters=(*source.parameters, *place.parameters))
        writers[node] = place
    return list(writers.values())


def places_behind(node: fx.Node, places: Sequence[Place]) -> list[Place]:
    """The places that write a value, nothing with parameters of its own lying between."""
    writers = {place.node: place for place in places}
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [] if one in writers else one.all_input_nodes
    return [place for place in places if place.node in seen]


def _reached(graph: Graph) -> set[fx.Node]:
    """What the inputs reach."""
    weights = {*graph.names, *graph.constants}
    heard: set[fx.Node] = set()
    for node in graph.nodes.nodes:
        asked = node.op == "placeholder" and node not in weights
        if asked or any(source in heard for source in node.all_input_nodes):
            heard.add(node)
    return heard


def _origins(graph: Graph) -> dict[fx.Node, tuple[str, ...]]:
    """Of every value the parameters that it is computed from."""
    origins: dict[fx.Node, tuple[str, ...]] = {}
    for node in graph.nodes.nodes:
        names = [graph.names[node]] if node in graph.names else []
        names += [name for source in node.all_input_nodes for name in origins[source]]
        origins[node] = tuple(dict.fromkeys(names))
    return origins


def _place(node: fx.Node, weights: dict[fx.Node, tuple[str, ...]], count: int) -> Place | None:
    """The place that an operation on inputs and weights writes, if it writes units."""
    names = list(dict.fromkeys(name for own in weights.values() for name in own))
    if node.op != "call_function" or not names or _name(node) in JOINING:
        return None
    value, shape = node.meta.get("val"), shapes_of_node(node)[0]
    first = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(first, Tensor) or not first.is_floating_point() or len(shape) < 2 or 0 in shape:
        return None
    axis = _unit_axis(node, [source for source, own in weights.items() if own], shape)
    batch = _batch_axis(shape, axis, count)
    if batch is None:
        return None
    return Place(names[0].rpartition(".")[0] or names[0], tuple(names), node, axis, batch, shape[axis])


def _unit_axis(node: fx.Node, weights: list[fx.Node], shape: tuple[int, ...]) -> int:
    name = _name(node)
    if any(word in name for word in CHANNELS_FIRST) and len(shape) > 1:
        return 1
    sizes = shapes_of_node(weights[0])[0]
    if name in RIDING and 0 < len(sizes) <= len(shape):
        varying = [len(shape) - len(sizes) + axis for axis, size in enumerate(sizes) if size > 1]
        if len(varying) == 1:
            return varying[0]
    return len(shape) - 1


def _batch_axis(shape: tuple[int, ...], units: int, count: int) -> int | None:
    axes = [axis for axis in range(len(shape)) if axis != units]
    exact = next((axis for axis in axes if shape[axis] == count), None)
    if exact is not None or not axes:
        return exact
    return 0 if units != 0 and shape[0] % count == 0 else None


def _name(node: fx.Node) -> str:
    """The operation's name, such as `conv2d`."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2].rstrip("_")


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """An operation's arguments by the names that its schema gives them."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def output_nodes(graph: Graph, count: int) -> list[fx.Node]:
    """What the network returns of its inputs: real numbers, with something for each of the inputs."""
    (output,) = [node for node in graph.nodes.nodes if node.op == "output"]
    heard = _reached(graph)
    leaves = [leaf for leaf in dict.fromkeys(pytree.tree_leaves(output.args)) if isinstance(leaf, fx.Node)]
    return [leaf for leaf in leaves if leaf in heard and _answers(leaf, count)]


def _answers(node: fx.Node, count: int) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0 and value.shape[0] == count
