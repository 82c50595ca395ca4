"""What the table of an imported zoo says, decided over all checkpoints together.

A member is one lineage of weights, however many files and names it has: the same values under several names are one
checkpoint; what shares values at some moment, or goes on from another by a trainer's record, is of one lineage, which
`Zoo.split` keeps on one side. Accuracies are shares, whatever unit they were written in.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from weightspace.inputs import parse_json
from weightspace.zoo.cards import UNKNOWN_EPOCH
from weightspace.zoo.lineages import LINEAGE, Unions

# Columns of checkpoints on their way into a zoo; none of them is in the zoo's table.
PATH, COPIED, DIGEST, SOURCES, KIND = "_path", "_copied", "_digest", "_sources", "_kind"
EXPLAINED = 3
GAP = ("train_accuracy", "test_accuracy")


class Settled(NamedTuple):
    """The rows that stay, and what became of the others.

    Attributes:
        tables: of every piece the rows that are kept, indexed by their places in it.
        names: path of a checkpoint that is kept -> the other paths with the same weights.
        notes: sentences with how often.
        sources: of the first three checkpoints of every kind, where each number comes from.
    """

    tables: list[pd.DataFrame]
    names: dict[str, list[str]]
    notes: dict[str, int]
    sources: list[dict[str, Any]]


def settle(tables: Sequence[pd.DataFrame]) -> Settled:
    """Decide which checkpoints are kept, which lineage they are of, and in which unit their accuracies are."""
    if not tables:
        return Settled([], {}, {}, [])
    table = pd.concat(list(tables), keys=range(len(tables)), names=["piece", "place"])
    chosen = choose(table)
    table = chosen.table
    notes = {}
    if chosen.names:
        notes["a file holds the weights of another, and is a name of it"] = sum(map(len, chosen.names.values()))
    unknown = int(table["epoch"].isna().sum())
    if unknown:
        notes[UNKNOWN_EPOCH] = unknown
    notes |= _to_shares(table)
    sources = _explain(table)  # before what is not known counts as 0
    table["epoch"] = table["epoch"].fillna(0).astype(int)
    if (table[LINEAGE] == table["member"]).all():
        table = table.drop(columns=LINEAGE)
    table = table.drop(columns=[PATH, COPIED, DIGEST, SOURCES, KIND])
    rest = table.index.get_level_values("piece")
    pieces = [table[rest == number].droplevel("piece") for number in range(len(tables))]
    return Settled(pieces, chosen.names, notes, sources)


class Chosen(NamedTuple):
    """The rows that are kept, with their lineages; path of each of them -> the other paths with the same weights."""

    table: pd.DataFrame
    names: dict[str, list[str]]


def choose(table: pd.DataFrame) -> Chosen:
    """Keep every checkpoint once, and say which members are of one lineage.

    Of files with the same weights the one is kept whose name is its own (not last, best or final), then one whose epoch
    is known. A member all of whose weights are others' is a copy; members that share some are of one lineage, and so
    are those that a trainer's record names together. Other weights for the same member and epoch, or ones whose epoch
    nobody knows, are a member of their own, of the same lineage.

    Args:
        table: `member`, `epoch`, `_path`, `_copied`, `_digest`, and `lineage` where a record names one.
    """
    order = table.assign(_unknown=table["epoch"].isna()).sort_values([COPIED, "_unknown"], kind="stable")
    members = [(str(member), rows) for member, rows in order.groupby("member", sort=False)]
    # Those with most weights of their own first, so that copies come after what they copy.
    members.sort(key=lambda pair: -pair[1][DIGEST].nunique())
    unions, kept = Unions(), dict[Any, str]()
    names: dict[str, list[str]] = {}
    claimed: dict[str, tuple[str, str, int | None]] = {}
    for member, rows in members:
        copied = all(digest in claimed for digest in rows[DIGEST])
        epochs, paths = set[int](), dict[str, str]()
        for place, checkpoint in zip(rows.index, rows.to_dict("records"), strict=True):
            first = claimed.get(checkpoint[DIGEST])
            again = first[1] if first is not None and copied else paths.get(checkpoint[DIGEST])
            if again is not None:
                names.setdefault(again, []).append(checkpoint[PATH])
                continue
            unknown = bool(pd.isna(checkpoint["epoch"]))
            epoch = 0 if unknown else int(checkpoint["epoch"])
            apart = epoch in epochs or (unknown and bool(rows["epoch"].notna().any()))
            name = f"{member}, {checkpoint[PATH]}" if apart else member
            # Untrained networks are alike where seeds are shared on purpose, which makes no lineage.
            forked = first is not None and (epoch > 0 or unknown or first[2] != 0)
            unions.unite([first[0], member, name] if first is not None and forked else [member, name])
            epochs.add(epoch)
            paths[checkpoint[DIGEST]] = checkpoint[PATH]
            claimed.setdefault(checkpoint[DIGEST], (member, checkpoint[PATH], None if unknown else epoch))
            kept[place] = name
    told = table.loc[[place for place in table.index if place in kept]]
    members = pd.Series(kept)[told.index]
    for _, alike in members[told[LINEAGE].notna()].groupby(told[LINEAGE]):
        unions.unite(alike)
    return Chosen(told.assign(**{"member": members, LINEAGE: members.map(unions.find)}), names)


def _to_shares(table: pd.DataFrame) -> dict[str, int]:
    """Accuracies in percent as shares, in place, and the gap that follows from them; what was done, with how often.

    One value over 1 settles it for a whole column.
    """
    notes = {}
    for name in [name for name in table.columns if str(name).endswith(("accuracy", "_acc"))]:
        values = pd.to_numeric(table[name], errors="coerce")
        if values.max() > 1 and values.max() <= 100 and values.min() >= 0:
            table[name] = values / 100
            notes[f"{name} was given in percent and is stored as a share"] = int(values.notna().sum())
        elif values.max() > 100 or values.min() < 0:
            notes[f"{name} has values that are neither shares nor percent, and is stored as it was given"] = len(values)
    gap = pd.to_numeric(table.get("generalization_gap", pd.Series(dtype=float)), errors="coerce")
    if gap.abs().max() > 1 or (len(gap) and any(name.startswith(GAP) for name in notes)):
        table["generalization_gap"] = gap / 100
        notes["generalization_gap was given in percent and is stored as a share"] = int(gap.notna().sum())
    if "generalization_gap" not in table and set(GAP) <= set(table.columns):
        train, test = (pd.to_numeric(table[name], errors="coerce") for name in GAP)
        table["generalization_gap"] = train - test
    return notes


def _explain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Where every number of the first three checkpoints of every kind comes from."""
    explained = []
    for values in table.groupby(KIND, sort=False).head(EXPLAINED).to_dict("records"):
        sources: Mapping[str, str] = parse_json(values[SOURCES], "the sources of numbers")
        values["epoch"] = None if pd.isna(values["epoch"]) else int(values["epoch"])
        numbers = {
            str(name): {"value": _plain(value), "from": sources[str(name)]}
            for name, value in values.items()
            if str(name) in sources and not pd.isna(value)
        }
        place = {"member": values["member"], "epoch": values["epoch"], "path": values[PATH]}
        explained.append({**place, "numbers": numbers})
    return explained


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool) else str(value)
