"""Lineages: checkpoints that share weights at some moment, which are never on two sides of a split.

One training is one, with all that forked from it: an exploited trial, a fine-tune, copies and averages.
"""

from collections.abc import Iterable

import pandas as pd

# The column of a zoo's table in which several members may be said to be one; a member is one otherwise.
LINEAGE = "lineage"


class Unions:
    """Sets of names that only grow together; each is called by its first name in order."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def find(self, name: str) -> str:
        """What the set of a name is called."""
        root = name
        while (above := self._above.get(root, root)) != root:
            root = above
        while (above := self._above.get(name, name)) != root:
            self._above[name], name = root, above
        return root

    def unite(self, names: Iterable[str]) -> None:
        """Names of one set."""
        roots = sorted({self.find(name) for name in names})
        self._above |= dict.fromkeys(roots[1:], roots[0])


def lineages_of(table: pd.DataFrame, digests: pd.Series | None) -> pd.Series:
    """For every checkpoint its lineage: what the table says, united where trained weights are the same.

    Args:
        table: `member`, `epoch` and perhaps `lineage`.
        digests: of the weights; those at epoch 0 do not count, as seeds are shared on purpose.
    """
    members = table["member"].astype(str)
    lineages = table[LINEAGE].fillna(members) if LINEAGE in table else members
    if digests is None:
        return lineages
    unions, trained = Unions(), digests.where(table["epoch"] > 0)
    for _, alike in lineages[trained.notna() & trained.duplicated(keep=False)].groupby(trained):
        unions.unite(alike)
    return lineages.map(unions.find)
