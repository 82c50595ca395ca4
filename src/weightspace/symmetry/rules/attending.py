"""Attention and embeddings."""

from weightspace.symmetry.labels import AxisLabel, ValueLabel
from weightspace.symmetry.rules.operation import Operation, Several


def attention(op: Operation) -> ValueLabel | Several:
    """softmax(Q K^T + mask) V: heads move together, as do Q's and K's entries within a head, and V's.

    With grouped queries, each key and value head serves a run of query heads: the runs move together, and the
    heads within all runs in one way. Every head's entries move in one way; that they could each move in their
    own is not used.
    """
    query, key, value = (op.label(op.argument(n)) for n in range(3))
    if op.argument(7, "enable_gqa", False) and op.labels.size(query[-3]) != op.labels.size(key[-3]):
        serving = op.labels.size(key[-3])
        runs, within = op.labels.regroup((query[-3],), (serving, op.labels.size(query[-3]) // serving), op.name)
        op.labels.unite(runs, key[-3])
        op.labels.unite(runs, value[-3])
        query = (*query[:-3], (*runs, *within), *query[-2:])
        key, value = ((*label[:-3], (), *label[-2:]) for label in (key, value))
    op.labels.unite(query[-1], key[-1])
    op.labels.unite(key[-2], value[-2])
    if op.argument(5, "is_causal", False):
        op.freeze((query[-2], key[-2]), "causal mask")
    mask = op.label(op.argument(3, "attn_mask"))
    if mask:
        for label, masked in zip((query[-2], key[-2]), mask[-2:], strict=True):
            _join(op, label, masked)
    lead = [_broadcast(op, axes) for axes in _aligned([query[:-2], key[:-2], value[:-2], mask[:-2]])]
    return op.first_only((*lead, query[-2], value[-1]))


def embedding(op: Operation) -> ValueLabel:
    """Rows of a table, chosen by number: the numbers stand still."""
    table, chosen = op.label(op.argument(0)), op.label(op.argument(1))
    op.freeze((table[0],), "numbers into an embedding")
    op.use(op.argument(0), "embedding")
    return (*chosen, table[1])


def _aligned(values: list[ValueLabel]) -> list[list[AxisLabel]]:
    """Axes that meet when values are broadcast, which is done from the last one on."""
    rank = max(len(own) for own in values)
    padded = [((),) * (rank - len(own)) + own for own in values]
    return [list(axes) for axes in zip(*padded, strict=True)]


def _broadcast(op: Operation, axes: list[AxisLabel]) -> AxisLabel:
    """The common axis of those that have more than one entry."""
    whole = [axis for axis in axes if op.labels.size(axis) > 1]
    for axis in whole[1:]:
        op.labels.unite(whole[0], axis)
    return whole[0] if whole else ()


def _join(op: Operation, axis: AxisLabel, mask_axis: AxisLabel) -> None:
    if op.labels.size(axis) == op.labels.size(mask_axis):
        op.labels.unite(axis, mask_axis)
