"""Several zoos as one, without copying weights."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from weightspace.errors import InputError
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.checking import SHARD_FOLDER
from weightspace.zoo.lineages import LINEAGE
from weightspace.zoo.zoo import Zoo


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
