"""Attention and embeddings."""

from weightspace.symmetry.labels import ValueLabel
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
        query = (*query[:-3], (*runs, *within), *query[-2:])
        _broadcast(op, key[:-3], query[:-3])
    else:
        _broadcast(op, key[:-2], query[:-2])
    _broadcast(op, value[:-1], key[:-1])
    op.labels.unite(query[-1], key[-1])
    if op.argument(5, "is_causal", False):
        op.freeze((query[-2], key[-2]), "causal mask")
    _broadcast(op, op.label(op.argument(3, "attn_mask")), (*query[:-1], key[-2]))
    lead = tuple(own or other for own, other in zip(query[:-2], key[:-2], strict=True))
    return op.first_only((*lead, query[-2], value[-1]))


def embedding(op: Operation) -> ValueLabel:
    """Rows of a table, chosen by number: the numbers stand still."""
    table, chosen = op.label(op.argument(0)), op.label(op.argument(1))
    op.freeze((table[0],), "numbers into an embedding")
    op.use(op.argument(0), "embedding")
    return (*chosen, table[1])


def _broadcast(op: Operation, first: ValueLabel, second: ValueLabel) -> None:
    """Unite axes from the last one on, but for those of one entry."""
    for own, other in zip(reversed(first), reversed(second), strict=False):
        if op.labels.size(own) == op.labels.size(other):
            op.labels.unite(own, other)
