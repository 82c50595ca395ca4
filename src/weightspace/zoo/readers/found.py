"""What readers tell of a checkpoint before it is loaded."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from weightspace.weights import Weights
from weightspace.zoo.readers.source import Source
from weightspace.zoo.recipes import Recipe


class Kind(NamedTuple):
    """What a layout knows of a network's architecture: a name for ids, how to build it if anyone knows, what varies."""

    name: str = "network"
    recipe: Recipe | None = None
    activation: str | None = None
    dropout: float | None = None
    note: str = ""


class Entry(NamedTuple):
    """A checkpoint that can be loaded; `epoch` is None if only the file may know."""

    member: str
    epoch: int | None
    properties: dict[str, Any]
    kind: Kind
    path: str
    bytes: int


class Loaded(NamedTuple):
    """Weights as they were stored, with plain values beside them and sentences about how they were understood."""

    weights: Weights
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class Listing:
    """All that was found in a folder.

    Attributes:
        entries: checkpoints, one member after the other.
        left_out: `{"what": ..., "why": ...}` for what cannot be used.
        notes: sentences about the whole, with how often.
        ignored: names of columns and fields that were not taken as properties.
    """

    entries: list[Entry] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)

    def leave_out(self, what: str, why: str) -> None:
        """Name something that cannot be used."""
        self.left_out.append({"what": what, "why": why})

    def note(self, sentence: str, count: int = 1) -> None:
        """Count something worth knowing."""
        self.notes[sentence] = self.notes.get(sentence, 0) + count


Load = Callable[[Entry], Loaded]


@runtime_checkable
class Reader(Protocol):
    """One layout: what is there, and how to load it. Readers travel to other processes."""

    layout: str
    source: Source

    def scan(self) -> Listing:
        """Every checkpoint with its properties, without reading weights."""
        ...

    def loading(self) -> AbstractContextManager[Load]:
        """What loads entries, while the block lasts."""
        ...


Entries = Iterator[Entry]
