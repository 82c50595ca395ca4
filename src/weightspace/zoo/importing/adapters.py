"""Adapters as members of a zoo: their changes as scaled singular pairs, as many for all of them."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.weights.adapters.changes import Adapter
from weightspace.weights.adapters.opening import FILES, is_adapter, open_adapter
from weightspace.weights.adapters.pairs import OUTPUTS, most_pairs, pairs_of
from weightspace.weights.values import some_of
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.importing.reader import Entry, Loaded
from weightspace.zoo.importing.source import Source

NOTE = "changes of a base network, as scaled singular pairs, largest first: there is nothing to build"


def common_rank(source: Source, entries: Sequence[Entry]) -> int:
    """How many pairs the changes of all adapters among some checkpoints have room in; 0 where there is none."""
    rank = 0
    with progress_bar("looking for adapters", len(entries)) as advance:
        for entry in entries:
            if may_be_adapter(source, entry):
                with contextlib.suppress(InputError), source.local(entry.path) as place:  # whoever loads it says why
                    if is_adapter(place):
                        rank = max(rank, 1)  # also where no change is told by its file
                        rank = max(rank, most_pairs(open_adapter(place)))
            advance()
    return rank


def may_be_adapter(source: Source, entry: Entry) -> bool:
    """Whether a checkpoint is worth a look at the names of its tensors: one far away, or a torch file, only if it is
    called as PEFT calls its own.
    """
    name = entry.path.rpartition("/")[2]
    return name in FILES or (not source.is_remote and name.endswith(".safetensors") and not entry.inside)


def load_adapter(place: Path, rank: int) -> Loaded | None:
    """The changes of an adapter as weights, with what its configuration says beside them; None for a network.

    Raises:
        InputError: changes that its file does not tell.
    """
    if not is_adapter(place):
        return None
    adapter = open_adapter(place)
    paired = pairs_of(adapter, rank)
    notes = [*adapter.remarks]
    if adapter.replaced:
        notes.append(f"tensors that an adapter replaces were left aside ({some_of(list(adapter.replaced))})")
    return Loaded(dict(paired.weights), _properties(adapter), tuple(notes), paired.outputs)


def _properties(adapter: Adapter) -> dict[str, Any]:
    """What is known of an adapter beside its changes; its rank is that of its file's factors."""
    alpha = adapter.config.get("lora_alpha", adapter.config.get("alpha"))
    known = {"method": adapter.method, "alpha": alpha, "base": adapter.base}
    rank = max(change.stored_rank for change in adapter.changes.values())
    return {"rank": rank, **{name: value for name, value in known.items() if isinstance(value, str | int | float)}}


def as_pairs(architecture: Architecture, outputs: Mapping[str, int]) -> Architecture:
    """The architecture of adapters that change the same tensors, which tells how their pairs are cut."""
    id = architecture.id.replace("network", "adapter", 1)
    return replace(architecture, id=id, arguments={OUTPUTS: dict(outputs)}, note=NOTE)
