"""Zoos parted, small ones too, as most people have three to eleven networks; and several as one, no weights copied."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from weightspace.errors import InputError
from weightspace.randomness import derive_share
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import SHARD_FOLDER
from weightspace.zoo.lineages import LINEAGE
from weightspace.zoo.zoo import Zoo

# Below this many trainings every one of them is tested in turn.
FEW = 12
# Fewer than this many have none to spare for validation.
LEAST_VALIDATED = 6


class Split(NamedTuple):
    """Training, validation and test members; the second may be empty, which the note says."""

    parts: tuple[Zoo, Zoo, Zoo]
    note: str = ""


def split_any(zoo: Zoo, shares: Sequence[float], *, seed: int, fold: int = 0) -> Split:
    """`Zoo.split` in three; of a zoo too small for the shares, by rank: at least one member tests, and from six on at
    least one validates.

    Raises:
        InputError: shares that are none, or a zoo of a single training.
    """
    lineages = zoo.lineages
    count = lineages.nunique()
    try:
        train, validation, test = zoo.split(*shares, seed=seed, fold=fold)
        return Split((train, validation, test))
    except InputError:
        if count >= FEW or len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
            raise
    if count < 2:
        raise InputError(f"expected at least 2 networks of different trainings to split, found {count}")
    ranked = sorted(lineages.unique(), key=lambda name: derive_share(seed, "split", name))
    ranked = ranked[fold % count :] + ranked[: fold % count]
    tested = max(1, round(shares[2] * count))
    validated = max(1, round(shares[1] * count)) if count >= LEAST_VALIDATED else 0
    bounds = (count - tested - validated, count - tested)
    named = (ranked[: bounds[0]], ranked[bounds[0] : bounds[1]], ranked[bounds[1] :])
    train, validation, test = (_those_of(zoo, names) for names in named)
    note = f"{count} trainings are few: {len(named[0])} train, {len(named[1]) or 'none'} validate, {len(named[2])} test"
    return Split((train, validation, test), note)


def leave_one_out(zoo: Zoo, *, seed: int) -> list[tuple[Zoo, Zoo, Zoo]]:
    """Of every training a split that tests it and trains on all others, without a validation part."""
    names = sorted(zoo.lineages.unique(), key=lambda name: derive_share(seed, "split", name))
    nobody = _those_of(zoo, [])
    return [
        (_those_of(zoo, [other for other in names if other != name]), nobody, _those_of(zoo, [name])) for name in names
    ]


def _those_of(zoo: Zoo, lineages: Sequence[str]) -> Zoo:
    return zoo.where(lambda table: zoo.lineages.isin(lineages))


def concatenate(zoos: Sequence[Zoo]) -> Zoo:
    """One zoo with the checkpoints of several, of any architectures; weights stay where they are.

    Members keep their names unless two zoos share one; then all members are called `FOLDER/member`. So with
    architectures of one id that differ. Properties that a zoo does not have are missing values.

    Raises:
        InputError: no zoos, or the same one twice.

    Examples:
        >>> small = ws.grow("mlp:4", images, ws.GrowConfig(members=2, epochs=1), folder / "small")
        >>> len(concatenate([zoo, small])) == len(zoo) + len(small)
        True
    """
    if not zoos:
        raise InputError("expected at least 1 zoo to concatenate, found none")
    names = _names(zoos)
    members = [set(zoo.table["member"]) for zoo in zoos]
    shared = sum(map(len, members)) > len(set.union(*members))
    architectures: dict[str, Architecture] = {}
    tables = []
    for name, zoo in zip(names, zoos, strict=True):
        table, own = zoo.table.copy(), {}
        for architecture in zoo.architectures.values():
            clash = architectures.get(architecture.id, architecture) != architecture
            own[architecture.id] = f"{name}-{architecture.id}" if clash else architecture.id
            architectures[own[architecture.id]] = replace(architecture, id=own[architecture.id])
        table["architecture"] = table["architecture"].map(own)
        table["shard"] = [str((zoo.folder / SHARD_FOLDER / shard).absolute()) for shard in table["shard"]]
        if shared:
            table["member"] = f"{name}/" + table["member"]
            if LINEAGE in table:
                table[LINEAGE] = f"{name}/" + table[LINEAGE]
        tables.append(table)
    folders = [folder for zoo in zoos for folder in zoo.folders]
    return Zoo(
        folder=zoos[0].folder,
        table=pd.concat(tables, ignore_index=True),
        architectures=architectures,
        about={},
        parts=tuple(dict.fromkeys(folders)),
    )


def _names(zoos: Sequence[Zoo]) -> list[str]:
    """The zoos' folder names, or their paths where two are alike."""
    places = [zoo.folder.resolve() for zoo in zoos]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise InputError(f"expected different zoos, found {twice} more than once")
    short = [zoo.folder.absolute().name for zoo in zoos]
    if len(set(short)) == len(short):
        return short
    return [str(zoo.folder.absolute()) for zoo in zoos]
