"""Import a foreign zoo: list its checkpoints, load them piece by piece, write them in our format."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from weightspace.errors import InputError, require_between
from weightspace.inputs import read_object
from weightspace.outputs import Existing, new_folder, require_apart, to_json, write_json, write_manifest
from weightspace.progress import progress_bar
from weightspace.remote import address_of
from weightspace.spreading import Tick, Where, count_cpus, spread
from weightspace.supervised import stack_weights
from weightspace.weights.values import Weights, is_mask
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights
from weightspace.zoo.importing.adapters import as_pairs, common_rank, load_adapter, may_be_adapter
from weightspace.zoo.importing.config import ImportConfig
from weightspace.zoo.importing.identifying import Identified, identify, recognize
from weightspace.zoo.importing.properties import name_of, named, plain, whole
from weightspace.zoo.importing.reader import (
    Entry,
    FileReader,
    Kind,
    Listing,
    Loaded,
    Reader,
    first_reason,
    list_checkpoints,
)
from weightspace.zoo.importing.settling import COPIED, DIGEST, KIND, PATH, SOURCES, settle
from weightspace.zoo.importing.small_cnn_zoo import SmallCnnZooReader
from weightspace.zoo.importing.source import Source
from weightspace.zoo.lineages import LINEAGE
from weightspace.zoo.resumable import BEGUN, PART_FOLDER, Part, PartStore
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Checkpoints, Zoo, digest_stack

PLAN_FILE, UNPACKED = "importing.json", "unpacked"
TASK_BYTES = 32 * 2**20
TASK_ENTRIES = 2_000
# Processes take seconds to start; fewer files than this are read sooner by one.
WORTH_WORKERS = 4_000


class ImportTask(NamedTuple):
    """Checkpoints that are loaded in one go: at most `TASK_BYTES` of them, or one."""

    key: str
    entries: list[Entry]

    @property
    def units(self) -> int:
        """Checkpoints."""
        return len(self.entries)


class Shared(NamedTuple):
    """What every task needs; `rank` is how many pairs the changes of adapters have, 0 if there are none."""

    reader: Reader
    given: tuple[Architecture, ...]
    largest_weight: float
    rank: int = 0


def import_zoo(
    address: str | Path,
    out: str | Path,
    config: ImportConfig | None = None,
    *,
    architectures: Sequence[Architecture] = (),
    key: str = "",
    ray: str | None = None,
    existing: Existing = "refuse",
) -> Zoo:
    """Convert a folder of checkpoints, of any layout that is recognised, into a zoo at `out`.

    Args:
        address: a folder, a `.zip` or `.tar`, or an fsspec URL.
        out: a folder that does not exist yet.
        config: how plain files tell of themselves, and what is left out.
        architectures: descriptions that checkpoints of their names and shapes get.
        key: of files that hold several networks read the one under this key, or prefix of names, such as `netG`.
        ray: a Ray cluster's address, `local` for one on this machine, None for no Ray.
        existing: `resume` continues interrupted work, `replace` replaces an existing `out`.

    Memory holds a few tasks of 32 MiB (or one checkpoint each, if larger), whatever the zoo's size; while it is
    written, the disk holds the imported zoo twice.

    Raises:
        InputError: nothing there, nothing usable, another layout's files damaged, or `out` exists.

    Examples:
        >>> for seed in (1, 2):
        ...     (folder / "nets").mkdir(exist_ok=True)
        ...     torch.save(torch.nn.Linear(2, 3).state_dict(), folder / "nets" / f"{seed}.pt")
        >>> len(import_zoo(folder / "nets", folder / "imported"))
        2
    """
    config = config or ImportConfig()
    require_between("the largest weight", min(config.largest_weight, 1e38), 1e-38)
    require_between("workers", config.workers, 0)
    if address_of(address) is None:
        require_apart(out, [Path(address)])
    source = Source(address)
    with new_folder(out, existing=existing, resumable=BEGUN, scratch=(PART_FOLDER, PLAN_FILE, UNPACKED)) as folder:
        reader = _unpack(recognize(source, pattern=config.pattern, table=config.table, by=config.by, key=key), folder)
        listing = list_checkpoints(reader)
        if not listing.entries:
            raise InputError(
                f"expected checkpoints below {address}, found none that can be used{first_reason(listing)}"
            )
        settings = {
            "largest": config.largest_weight,
            "key": key,
            "architectures": [entry.to_json() for entry in architectures],
        }
        _settle(folder, listing, settings, reader.source)
        tasks, store = plan_tasks(listing.entries), PartStore(folder)
        open_tasks = [task for task in tasks if not store.has(task.key)]
        rank = common_rank(reader.source, listing.entries) if isinstance(reader, FileReader) and open_tasks else 0
        shared = Shared(reader, tuple(architectures), config.largest_weight, rank)
        workers = config.workers or (count_cpus() if len(listing.entries) >= WORTH_WORKERS else 1)
        done = len(listing.entries) - sum(task.units for task in open_tasks)
        with progress_bar("importing", total=len(listing.entries), done=done) as advance:
            for place, part in spread(import_task, shared, open_tasks, Where(workers, ray), advance):
                store.save(open_tasks[place].key, part)
        about = _merge(folder, store, tasks, reader, listing, architectures)
        write_manifest(folder, configuration={"address": str(address), **asdict(config), **about}, seed=0)
    return Zoo.open(out)


def plan_tasks(entries: Sequence[Entry]) -> list[ImportTask]:
    """Entries in their order, cut where a task would hold more than `TASK_BYTES`."""
    tasks: list[ImportTask] = []
    size = 0
    own: list[Entry] = []
    for entry in entries:
        if own and (size + entry.bytes > TASK_BYTES or len(own) == TASK_ENTRIES):
            tasks.append(ImportTask(f"{len(tasks):06d}", own))
            size, own = 0, []
        own.append(entry)
        size += entry.bytes
    return [*tasks, ImportTask(f"{len(tasks):06d}", own)] if own else tasks


def import_task(shared: Shared, task: ImportTask, tick: Tick) -> Part:
    """Load the checkpoints of a task; what cannot be used is named, and the rest goes on."""
    kept: dict[str, tuple[Architecture, list[dict[str, Any]], list[Weights]]] = {}
    known: dict[str, Identified] = {}
    listing = Listing()
    with shared.reader.loading() as load:
        for entry in task.entries:
            try:
                loaded = (_load_adapter(shared, entry) if shared.rank else None) or load(entry)
                reason = _unusable(loaded.weights, shared.largest_weight)
            except InputError as error:
                # Its path is in the listing beside the reason already.
                reason = re.sub(rf" (at|in) \S*{re.escape(entry.path)}", "", str(error))
            tick(1)
            if reason:
                listing.leave_out(entry.path, reason)
                continue
            architecture, refusals = _identify_once(known, entry.kind, loaded.weights, shared.given)
            if loaded.outputs is not None:
                architecture = as_pairs(architecture, loaded.outputs)
            fitted = fit_weights(loaded.weights, architecture)
            weights = dict(fitted.weights)
            for note in (*loaded.notes, *fitted.notes, *refusals):
                listing.note(note)
            _, rows, stack = kept.setdefault(architecture.id, (architecture, [], []))
            rows.append(_row(entry, loaded.metadata))
            stack.append(weights)
    pieces = [_piece(architecture, rows, stack_weights(stack)) for architecture, rows, stack in kept.values()]
    return Part(pieces, listing.left_out, listing.notes)


def _load_adapter(shared: Shared, entry: Entry) -> Loaded | None:
    """An adapter's changes; None for what is none."""
    if not may_be_adapter(shared.reader.source, entry):
        return None
    with shared.reader.source.local(entry.path) as place:
        return load_adapter(place, shared.rank)


def _piece(architecture: Architecture, rows: list[dict[str, Any]], stack: Weights) -> Checkpoints:
    digests = digest_stack({name: stack[name] for name in architecture.shapes})
    return Checkpoints(architecture, pd.DataFrame(rows).assign(**{DIGEST: digests, KIND: architecture.id}), stack)


def _identify_once(
    known: dict[str, Identified], kind: Kind, weights: Weights, given: Sequence[Architecture]
) -> Identified:
    """`identify`, which builds networks to compare with, once for all checkpoints that are alike."""
    key = repr((kind, [(name, tensor.shape, tensor.dtype) for name, tensor in weights.items()]))
    if key not in known:
        known[key] = identify(kind, weights, given)
    return known[key]


def _row(entry: Entry, metadata: dict[str, Any]) -> dict[str, Any]:
    """Place and properties; what the pattern or a table said counts more than the file's own metadata."""
    own = {key: plain(value) for key, value in metadata.items()}
    epoch = entry.epoch if entry.epoch is not None else whole(own.pop("epoch", None))
    beside = f"{entry.path}, beside the weights"
    sources = {**{name_of(key): f"{beside}, as {key}" for key in own}, **entry.sources}
    if epoch is not None:
        sources.setdefault("epoch", f"{beside}, as the program that wrote it counts")
    settled = {PATH: entry.place, COPIED: entry.copied, SOURCES: to_json(sources), LINEAGE: entry.lineage}
    return {"member": entry.member, "epoch": epoch, **named(own), **entry.properties, **settled}


def _unusable(weights: Weights, largest: float) -> str:
    """Why weights cannot be used, or nothing."""
    if not weights:
        return "no tensors in it"
    for name, tensor in weights.items():
        if tensor.is_quantized or str(tensor.dtype) == "torch.complex128":  # safetensors writes neither
            return f"expected numbers that safetensors can hold, found {tensor.dtype} in {name}"
        if tensor.is_floating_point() and tensor.numel():
            low, high = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
            if not (low.isfinite() and high.isfinite()):
                if is_mask(tensor):
                    continue
                return f"NaN or infinite weights in {name}"
            if max(-float(low), float(high)) > largest:
                return f"a weight beyond {largest:g} in {name}"
    return ""


def _unpack(reader: Reader, folder: Path) -> Reader:
    """A layout that reads parts of a file needs it on this machine."""
    if not isinstance(reader, SmallCnnZooReader) or reader.source.is_local:
        return reader
    paths = [path for path in reader.source.files if path.rpartition("/")[2] in reader.files]
    return SmallCnnZooReader(reader.source.unpacked(paths, folder / UNPACKED))


def _settle(folder: Path, listing: Listing, settings: dict[str, Any], source: Source) -> None:
    """Note what is imported, or refuse to resume if that has changed."""
    listed = [(repr(entry), source.changed(entry.path)) for entry in listing.entries]
    digest = hashlib.sha256(to_json([listed, settings]).encode()).hexdigest()
    path = folder / PLAN_FILE
    if not path.is_file():
        write_json(path, {"digest": digest})
    elif read_object(path).get("digest") != digest:
        raise InputError(
            f"expected the same files and settings as the unfinished work in {folder}, found others; --force drops it"
        )


def _merge(
    folder: Path,
    store: PartStore,
    tasks: list[ImportTask],
    reader: Reader,
    listing: Listing,
    given: Sequence[Architecture],
) -> dict[str, Any]:
    """Make a zoo of the parts; returns what `zoo.json` says of the import."""
    writer = ZooWriter(folder)
    keys = [task.key for task in tasks]
    tables = store.tables(keys)
    ids = [str(name) for table in tables for name in table[KIND]]
    settled = settle(tables)
    left_out, notes = store.merge(keys, writer, settled.tables)
    listing.left_out += left_out
    for architecture in given:
        listing.note(_counted(architecture, ids, notes, listing))
    for note, count in [*notes.items(), *settled.notes.items()]:
        listing.note(note, count)
    if not sum(map(len, settled.tables)):
        store.give_up()
        raise InputError(f"expected checkpoints that can be used, found none{first_reason(listing)}")
    about = {
        "imported": {"layout": reader.layout, "notes": listing.notes, "ignored": sorted(listing.ignored)},
        "left_out": listing.left_out,
        "names": settled.names,
        "sources": settled.sources,
    }
    writer.finish(about)
    return about


def _counted(architecture: Architecture, ids: Sequence[str], notes: Mapping[str, int], listing: Listing) -> str:
    """How many checkpoints are of an architecture that was given; if none is, why the first is not."""
    count = ids.count(architecture.id)
    said = f"{count} of {len(ids)} checkpoints are of {architecture.id}"
    why = next((note for note in notes if note.startswith(f"expected a network of {architecture.id}, ")), "")
    return said if count or not why else f"{said}: {listing.entries[0].path}: {why}"
