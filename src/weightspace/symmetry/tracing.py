"""Derive a network's permutation symmetry from its computation graph, then prove it.

The published code lists symmetries by hand for thirteen architectures, several of them wrong. Here every
axis of every value in the `torch.export` graph carries a label; labels are united through the operations
(`rules`), and what is still free at the end may be permuted. The result is then checked on the network
itself with random parameters and buffers (`proving`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from weightspace.errors import InputError
from weightspace.graphs import Graph, copy_module, one_by_one, shapes_of_node, trace_graph
from weightspace.symmetry.axes import Symmetry
from weightspace.symmetry.labels import Labels, ValueLabel, axis_of, name_groups, reasons_of
from weightspace.symmetry.proving import SymmetryDisproved, find_unproved
from weightspace.symmetry.rules.operation import Known, Use, values_of
from weightspace.symmetry.rules.table import apply_rule
from weightspace.weights.values import Role, find_aliases

NO_EFFECT, NOT_USED = "no effect on the outputs", "not used"
COMPLEX = "complex numbers"  # which nothing here matches or tokenises


class Trace(NamedTuple):
    """What a computation graph tells of a network's tensors.

    Attributes:
        symmetry: proved.
        uses: for parameters used as weights: layer kind, output axis and bias.
    """

    symmetry: Symmetry
    uses: dict[str, Role]


def trace_symmetry(module: nn.Module, *examples: Any, **named: Any) -> Symmetry:
    """The permutation symmetry of a module, derived from its graph and proved.

    Args:
        module: any module that `torch.export` can trace; traced in evaluation mode.
        examples: inputs as the module takes them, batch first; one tuple of inputs will do as well.
        named: inputs that the module takes by name.

    Raises:
        InputError: the module cannot be traced.
        SymmetryDisproved: a rule of ours is wrong for this network (a bug worth reporting).

    Examples:
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> ws.trace_symmetry(module, torch.zeros(1, 4)).groups
        {'0.weight:0': 3}
    """
    return trace(module, *examples, **named).symmetry


def trace(module: nn.Module, *examples: Any, **named: Any) -> Trace:
    """`trace_symmetry`, with the use of every parameter as well.

    What a module computes in training only, such as a further head, moves with the rest, if that can be traced and
    proved; else it is not used, as far as anybody knows.
    """
    examples = one_by_one(examples)
    try:
        return _trace(module, examples, named, training=True)
    except _TrainingUnproved:
        return _trace(module, examples, named, training=False)


class _TrainingUnproved(Exception):
    """What a module computes in training only could not be proved."""


def _trace(module: nn.Module, examples: tuple[Any, ...], named: dict[str, Any], *, training: bool) -> Trace:
    # Tracing may leave its own tensors on a module that stores what it computes, so a copy is traced.
    graph, module = trace_graph(copy_module(module), examples, named), copy_module(module)
    labels, known, uses = label_graph(graph)
    tensors = {name: _value(known, node) for node, name in graph.names.items()}
    aliases = find_aliases(module.state_dict(keep_vars=True))
    used = {name for node, name in graph.names.items() if node.users}
    in_training = _label_training(module, labels, tensors, used, (examples, named)) if training else set()
    _settle_unused(labels, tensors, used | in_training, aliases)
    symmetry = _build(module, labels, {**tensors, **{a: tensors[b] for a, b in aliases.items() if b in tensors}})
    symmetry = symmetry.without(find_unproved(module, symmetry, examples, named), NO_EFFECT)
    if in_training:
        try:
            find_unproved(module, symmetry, examples, named, training=True)
        except (InputError, SymmetryDisproved) as refusal:
            raise _TrainingUnproved from refusal
    roles = {
        graph.names[node]: Role(use.kind, use.axis, graph.names.get(use.bias) if use.bias is not None else None)
        for node, use in uses.items()
        if node in graph.names
    }
    return Trace(symmetry, roles)


def _label_training(
    module: nn.Module, labels: Labels, tensors: dict[str, ValueLabel], used: set[str], given: tuple[Any, ...]
) -> set[str]:
    """Label what a module computes in training only, such as a further head, beside the rest; returns the tensors used.

    Nothing is done where every parameter is used anyway, or where the module cannot be traced in training.
    """
    if {name for name, _ in module.named_parameters(remove_duplicate=False)} <= used:
        return set()
    try:
        graph = trace_graph(copy_module(module, training=True), *given)
    except InputError:
        return set()
    further = {name for node, name in graph.names.items() if node.users} - used
    if not further:
        return set()
    _, in_training, _ = label_graph(graph, labels)
    for node, name in graph.names.items():
        value = _value(in_training, node)
        for axis, other in zip(tensors.setdefault(name, value), value, strict=True):
            labels.unite(axis, other)
    return further


def label_graph(graph: Graph, labels: Labels | None = None) -> tuple[Labels, Known, dict[fx.Node, Use]]:
    """Label every value of a graph, with labels of its own or beside those of another."""
    labels = Labels() if labels is None else labels
    known: Known = {}
    uses: dict[fx.Node, Use] = {}
    for node in graph.nodes.nodes:
        if node.op in ("placeholder", "get_attr"):
            shape = shapes_of_node(node)[0]
            if node in graph.names:
                value = node.meta.get("val")
                is_complex = isinstance(value, Tensor) and value.is_complex()
                known[node] = labels.new_value(shape, COMPLEX) if is_complex else labels.new_value(shape)
            elif node in graph.constants:
                known[node] = _constant_label(labels, graph.constants[node])
            else:
                known[node] = labels.new_value(shape, "input" if node.op == "placeholder" else "constant")
        elif node.op == "call_function":
            apply_rule(labels, node, known, uses)
        else:
            for result in node.all_input_nodes:
                for value in values_of(known.get(result)):
                    _freeze(labels, value, "output")
    return labels, known, uses


def _constant_label(labels: Labels, value: Tensor) -> ValueLabel:
    """A constant stands still along the axes on which its entries differ."""
    same = [size > 0 and bool((value == value.narrow(dim, 0, 1)).all()) for dim, size in enumerate(value.shape)]
    return tuple(() if alike else labels.new(size, "constant") for alike, size in zip(same, value.shape, strict=True))


def _value(known: Known, node: fx.Node) -> ValueLabel:
    return values_of(known[node])[0]


def _build(module: nn.Module, labels: Labels, tensors: Mapping[str, ValueLabel]) -> Symmetry:
    """Turn what is still free into named groups; a group is named after the first axis it moves."""
    state = module.state_dict(keep_vars=True)
    names: dict[int, str] = {}
    groups: dict[str, int] = {}
    frozen: dict[str, dict[str, None]] = {}
    axes = {}
    for name, tensor in state.items():
        value = tensors[name] if name in tensors else labels.new_value(tensor.shape, NOT_USED)
        for number, axis in enumerate(value):
            name_groups(labels, axis, f"{name}:{number}", names, groups)
        axes[name] = tuple(axis_of(labels, axis, names) for axis in value)
        for number, axis in enumerate(value):
            for reason in reasons_of(labels, axis):
                frozen.setdefault(reason, {})[f"{name}[{number}]"] = None
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return Symmetry(
        groups=groups,
        axes=axes,
        buffers=tuple(name for name in state if name not in parameters),
        frozen={reason: tuple(places) for reason, places in frozen.items()},
    )


def _settle_unused(
    labels: Labels, tensors: Mapping[str, ValueLabel], used: set[str], aliases: Mapping[str, str]
) -> None:
    """Tied tensors move alike; what the graph does not use stands still."""
    tied = {**aliases, **{name: name for name in aliases.values()}}
    alive = {tied.get(name, name) for name in used}
    for alias, name in aliases.items():
        if alias in tensors and name in tensors:
            for axis, tied_axis in zip(tensors[alias], tensors[name], strict=True):
                labels.unite(axis, tied_axis)
    for name, value in tensors.items():
        if tied.get(name, name) not in alive:
            _freeze(labels, value, NOT_USED)


def _freeze(labels: Labels, value: ValueLabel, reason: str) -> None:
    for axis in value:
        labels.freeze(axis, reason)
