"""What a reader of a layout tells of checkpoints before they are loaded, and how one is loaded."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.weights.files import SINGLE_FILES, WEIGHT_SUFFIXES, is_index, open_weights
from weightspace.weights.values import Weights
from weightspace.zoo.growing.recipes import Recipe
from weightspace.zoo.importing.source import Source, inside, parent_of


class Kind(NamedTuple):
    """What a layout knows of a network's architecture: a name for ids, how to build it if anyone knows, what varies."""

    name: str = "network"
    recipe: Recipe | None = None
    activation: str | None = None
    dropout: float | None = None
    note: str = ""


class Entry(NamedTuple):
    """A checkpoint that can be loaded.

    Attributes:
        epoch: finished passes over the training data; None if only the file may know.
        properties: under this package's names.
        sources: for every property, and for `epoch`, where it stands: file, line or column, and of which moment it is.
        lineage: what members that share weights have in common, where the trainer's record says so.
        copied: its name says that it is a copy of another, such as `last`.
        inside: the keys that lead to its weights in a file that holds several networks.
    """

    member: str
    epoch: int | None
    properties: dict[str, Any]
    kind: Kind
    path: str
    bytes: int
    sources: Mapping[str, str] = {}
    lineage: str | None = None
    copied: bool = False
    inside: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Its path, and where it is in that file."""
        return ": ".join([self.path, *self.inside])


class Loaded(NamedTuple):
    """Weights as they were stored, with plain values beside them and sentences about how they were understood; of the
    pairs of an adapter also where they are cut.
    """

    weights: Weights
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()
    outputs: Mapping[str, int] | None = None


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

    def read(self, source: Source, path: str) -> bytes:
        """A file of settings or results; nothing, and it is named, where it cannot be read."""
        try:
            return source.read(path)
        except InputError as error:
            self.leave_out(path, str(error))
            return b""

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


def list_checkpoints(reader: Reader) -> Listing:
    """All that a reader finds, and the entries of its source that nobody can read."""
    listing = reader.scan()
    listing.left_out += reader.source.refused
    return listing


def first_reason(listing: Listing) -> str:
    """Why the first of what was left out was, in parentheses; nothing, if nothing was."""
    if not listing.left_out:
        return ""
    first = listing.left_out[0]
    more = f", and {len(listing.left_out) - 1} more" if len(listing.left_out) > 1 else ""
    return f": {first['what']} ({first['why']}){more}"


class FileReader:
    """What readers have in common whose checkpoints are files or folders of their own.

    Attributes:
        key: of the network in files that hold several; the usual one if empty.
    """

    key = ""

    def __init__(self, source: Source) -> None:
        self.source = source

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Checkpoints are loaded one by one."""
        yield lambda entry: load_file(self.source, entry.path, (self.key,) if self.key else ())


class RecognizingReader(Reader, Protocol):
    """A reader that knows its layout by the names of files."""

    def __init__(self, source: Source) -> None: ...

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether a folder with these files has this layout."""
        ...


CONFIG = "config.json"
# Files beside the weights that hold how a training goes on, not a network.
STATES = ("optimizer", "scheduler", "training_args", "rng_state", "random_states", "scaler", "sampler", "dl_state_dict")
STATES_NOTE = "a file holds the state of an optimizer, a scheduler or the like, not weights"
# Files that trainers write beside numbered checkpoints: one of these once more.
COPIES = re.compile(r"(^|[/_.-])(last|latest|final|best|model_best|best_model|checkpoint_best)([_.-]?v?\d*)?(\.|$)")


def is_state(path: str) -> bool:
    """Whether a file is named as the state of an optimiser, a scheduler or the like."""
    name = path.rpartition("/")[2]
    return name.startswith(STATES) or "optim" in name


def is_copy(path: str) -> bool:
    """Whether a file is named as one that a trainer writes as a copy."""
    return COPIES.search(path.rpartition("/")[2].lower()) is not None


def kind_of_config(source: Source, folder: str, listing: Listing) -> tuple[Kind, str | None]:
    """By a folder's configuration, what its architecture is called, and which network it was made from."""
    config = inside(folder, CONFIG)
    if config not in source.files:
        return Kind(), None
    try:
        value = parse_json(source.read(config), config)
        name = (value.get("architectures") or [value.get("model_type") or "network"])[0]
        base = value.get("_name_or_path")
    except (ValueError, AttributeError, IndexError, TypeError) as error:
        listing.note("a config.json cannot be read")
        listing.leave_out(config, f"no settings that can be read ({error})")
        return Kind(), None
    listing.ignored |= {f"config.json: {key}" for key in value}
    name = re.sub(r"[^A-Za-z0-9]+", "-", str(name)).strip("-").lower() or "network"
    return Kind(name=name), base if isinstance(base, str) and base else None


def weights_in(source: Source, folder: str, listing: Listing) -> str | None:
    """The one file of weights in a checkpoint's folder, or the folder if it is a model; else it is left out."""
    files = [path for path in source.files if parent_of(path) == folder]
    names = {path.rpartition("/")[2] for path in files}
    if names & {*SINGLE_FILES} or any(map(is_index, names)):
        return folder
    usable = [path for path in files if path.endswith(WEIGHT_SUFFIXES) and not is_other(source, path)]
    if len(usable) == 1:
        return usable[0]
    listing.leave_out(folder, f"expected one file with weights, found {', '.join(sorted(names)) or 'none'}")
    return None


def load_file(source: Source, path: str, keys: Sequence[str] = ()) -> Loaded:
    """A file or folder of weights as plain named tensors, in memory.

    Args:
        source: of the file.
        path: its path there.
        keys: what leads to a network, in a file of several.

    Raises:
        InputError: damaged files, or pickles that need code to load, which is never run.
    """
    with source.local(path) as place:
        stored = open_weights(place, keys)
        weights = stored.read()
        if not source.is_local:
            weights = {name: tensor.clone() for name, tensor in weights.items()}
    notes = [f"another state dict, '{key}', is in the file and was not read" for key in stored.others if not keys]
    if stored.wrapper and not keys:
        notes.append(f"a state dict was taken out of '{'/'.join(stored.wrapper)}'")
    if stored.dropped:
        notes.append(f"the prefix '{stored.dropped}' was dropped from all names")
    return Loaded(weights, dict(stored.metadata), (*notes, *stored.remarks))


def is_other(source: Source, path: str) -> bool:
    """Whether a file that is named as an optimizer's or the like is one: told by its content, never by its name."""
    if not is_state(path) or source.is_remote:
        return is_state(path)  # behind an address nothing is fetched to find out
    try:
        with source.local(path) as place:
            open_weights(place)
    except InputError:
        return True
    return False
