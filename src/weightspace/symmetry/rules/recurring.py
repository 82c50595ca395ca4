"""Recurrent layers: the hidden units of every layer and direction move, gates stand still."""

from typing import Any

from weightspace.symmetry.labels import AxisLabel, Labels, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(op: Operation) -> ValueLabel | Several:
    """LSTM, GRU and plain recurrence over [time, batch, features] or [batch, time, features].

    Weights [gates x hidden, inputs] and [gates x hidden, hidden]; projections and packed sequences have no rule.
    """
    kind = op.name.removeprefix("aten.")
    arguments: Any = op.node.args
    if len(arguments) != 9 or not isinstance(arguments[8], bool):
        return op.freeze_everything()
    _, starts, weights, has_bias, layers, _, _, two_ways, _ = arguments
    directions, per_cell = 1 + bool(two_ways), 2 + 2 * bool(has_bias)
    if len(weights) != layers * directions * per_cell:
        return op.freeze_everything()
    features = op.label(arguments[0])
    starts = starts if isinstance(starts, tuple | list) else [starts]
    states = [op.label(state) for state in starts]
    op.freeze((*features[:-1], *(axis for state in states for axis in state[:-1])), "time, batch and layers")
    following: AxisLabel = features[-1]
    cells: list[AxisLabel] = []
    for layer in range(layers):
        for direction in range(directions):
            first = (layer * directions + direction) * per_cell
            own = [op.label(weight) for weight in weights[first : first + per_cell]]
            cells.append(_cell(op.labels, own, following, GATES[kind]))
            for state in states:
                op.labels.unite(state[-1], cells[-1])
        following = op.labels.concatenate(cells[-directions:])
    if _ends_are_used(op):
        for cell in cells[1:]:
            op.labels.unite(cells[0], cell)
    ends = tuple((*op.fixed(op.shape_of(state)[:-1]), cells[0]) for state in starts)
    return Several(((*op.fixed(op.shape[:-1]), following), *ends))


def cell(op: Operation) -> ValueLabel | Several:
    """One step of a recurrent layer: lstm_cell returns two states, the others one."""
    kind = op.name.removeprefix("aten.").removesuffix("_cell")
    inputs, starts, *weights = op.node.args
    own = [op.label(weight) for weight in weights if weight is not None]
    hidden = _cell(op.labels, own, op.label(inputs)[-1], GATES[kind])
    states: Any = starts if isinstance(starts, tuple | list) else [starts]
    for state in states:
        op.labels.unite(op.label(state)[-1], hidden)
    value = (*op.label(inputs)[:-1], hidden)
    return Several((value, value)) if kind == "lstm" else value


def _ends_are_used(op: Operation) -> bool:
    """Whether somebody reads the states after the last step, which hold all cells one above the other."""
    return any(user.args[1] != 0 and user.users for user in op.node.users)


def _cell(labels: Labels, own: list[ValueLabel], inputs: AxisLabel, gates: int) -> AxisLabel:
    """Unite what one cell's tensors share; returns its hidden axis."""
    hidden = own[1][1]
    labels.unite(inputs, own[0][1])
    for tensor in own:
        rows = (
            labels.regroup((tensor[0],), (gates, labels.size(hidden)), "recurrent cell")
            if gates > 1
            else ((), tensor[0])
        )
        labels.freeze(rows[0], "gates")
        labels.unite(rows[1], hidden)
    return hidden
