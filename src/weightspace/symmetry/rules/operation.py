"""An operation of a traced graph as its rule sees it: its arguments, their labels, and the labels to unite."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, fx

from weightspace.graphs import shapes_of_node
from weightspace.symmetry.labels import AxisLabel, Labels, ValueLabel


class Several(NamedTuple):
    """The labels of an operation with several results."""

    values: tuple[ValueLabel, ...]


class Bundle(NamedTuple):
    """A value known slice by slice along one axis (see `bundles`): in every slice that axis is labelled `along`."""

    along: AxisLabel
    values: tuple[ValueLabel, ...]


Known: TypeAlias = dict[fx.Node, ValueLabel | Several | Bundle]


class Use(NamedTuple):
    """How a parameter is used: layer kind, which axis counts the outputs, and the node of its bias."""

    kind: str
    axis: int
    bias: fx.Node | None


class Operation(NamedTuple):
    """One node of the graph, with everything known so far."""

    labels: Labels
    node: fx.Node
    known: Known
    uses: dict[fx.Node, Use]

    @property
    def name(self) -> str:
        """The operation's name without its overload, such as `aten.linear`."""
        target = self.node.target
        packet = getattr(target, "overloadpacket", target)
        return str(packet) if not callable(packet) or "." in str(packet) else getattr(packet, "__name__", str(packet))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its result; of the first one if there are several."""
        return shapes_of_node(self.node)[0]

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """An argument by position or name."""
        node = self.node
        return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)

    def shape_of(self, argument: fx.Node) -> tuple[int, ...]:
        """The shape of an argument."""
        return shapes_of_node(argument)[0]

    def label(self, argument: Any) -> ValueLabel:
        """The label of an argument; no axes for numbers."""
        found = self.known.get(argument) if isinstance(argument, fx.Node) else None
        return found if isinstance(found, tuple) and not isinstance(found, Several | Bundle) else ()

    def filled(self, argument: fx.Node) -> ValueLabel:
        """The label of an argument, with new atoms for axes that it is constant along."""
        return self.labels.filled(self.label(argument), self.shape_of(argument))

    def fill_arguments(self) -> None:
        """Give all arguments atoms of their own along axes that they are constant along, for good."""
        for argument in self.node.all_input_nodes:
            if self.label(argument):
                self.known[argument] = self.filled(argument)

    def freeze(self, value: Iterable[AxisLabel], reason: str = "") -> None:
        """These axes must not move, because of this operation."""
        for axis in value:
            self.labels.freeze(axis, reason or self.name)

    def fixed(self, sizes: Iterable[int], reason: str = "") -> ValueLabel:
        """New axes that must not move."""
        return self.labels.new_value(sizes, reason or self.name)

    def freeze_everything(self) -> ValueLabel | Several:
        """Nothing that the operation touches may move: what is done without a rule."""
        for argument in self.node.all_input_nodes:
            self.freeze(axis for value in values_of(self.known.get(argument)) for axis in value)
        results = tuple(self.fixed(shape) for shape in shapes_of_node(self.node))
        return results[0] if isinstance(self.node.meta.get("val"), Tensor) else Several(results)

    def frozen_result(self) -> ValueLabel:
        """`freeze_everything` for an operation with one result."""
        found = self.freeze_everything()
        return found.values[0] if isinstance(found, Several) else found

    def first_only(self, value: ValueLabel) -> ValueLabel | Several:
        """A value beside results that nobody reads, such as statistics; if somebody does, nothing may move."""
        if isinstance(self.node.meta.get("val"), Tensor):
            return value
        if any(user.args[1] != 0 and user.users for user in self.node.users):
            return self.freeze_everything()
        return Several((value, *(self.fixed(shape) for shape in shapes_of_node(self.node)[1:])))

    def use(self, weight: fx.Node, kind: str, axis: int = 0, bias: fx.Node | None = None) -> None:
        """Note what a parameter is used for; the first use counts."""
        self.uses.setdefault(weight, Use(kind, axis, bias))


Rule: TypeAlias = Callable[[Operation], ValueLabel | Several | Bundle]


def values_of(known: "ValueLabel | Several | Bundle | None") -> tuple[ValueLabel, ...]:
    """All labels of a node's results."""
    if isinstance(known, Several | Bundle):
        return known.values
    return () if known is None else (known,)


def dims_of(listed: Any, count: int) -> tuple[int, ...]:
    """Dimensions as an operation names them (one, several, or None for all), counted from the front."""
    dims = range(count) if listed is None or listed == [] else [listed] if isinstance(listed, int) else listed
    return tuple(dim % count for dim in dims)
