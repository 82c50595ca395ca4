"""The weights of one network: read, write, compare, refuse.

`Weights` is one flat `dict[str, Tensor]`: all parameters and buffers of one network. Files come back in the order
that they have: that of a torch file's dictionary, that of the bytes of a safetensors file. What safetensors itself
writes is sorted as text, which is no order of layers: such files come in natural order (layer 10 after layer 2).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from weightspace.devices import require_one_device
from weightspace.errors import InputError
from weightspace.fetching import fetched
from weightspace.inputs import read_object
from weightspace.remote import Place, RemotePath, located
from weightspace.weights.quantized import Unquantized, unquantized
from weightspace.weights.safetensors_files import ALIASES_KEY, NumbersFile, SafetensorsFile, Stored, read_aliases
from weightspace.weights.sources import (
    DEEPSPEED,
    DISTRIBUTED,
    SHARDS,
    InFile,
    InMemory,
    Renamed,
    Source,
    require_entries,
    require_plain,
)
from weightspace.weights.state_dicts import Plain, Unwrapped, plain_names
from weightspace.weights.torch_files import (
    POLICY,
    read_arrays,
    read_policy,
    read_torch_file,
    unwrap_named,
)
from weightspace.weights.values import Weights, find_aliases, infinite_masks, natural_key, some_of

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
# What transformers looks for in a folder, in its order: a single file goes before the index of several.
MODEL_FILES = tuple(name for single in SINGLE_FILES for name in (single, f"{single}.index.json"))
TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", "")
# What some trainers call a torch file, which is no archive.
PACKED_NAMES = (".pth.tar", ".pt.tar")
ARRAYS, POLICIES = ".npz", ".zip"
# The endings of files that may hold a network.
WEIGHT_SUFFIXES = (".safetensors", *(ending for ending in TORCH_SUFFIXES if ending), *PACKED_NAMES, ARRAYS)


def is_index(name: str) -> bool:
    """Whether a file is named as the index of a model in several files."""
    return name.endswith((".safetensors.index.json", ".bin.index.json"))


class _About(NamedTuple):
    """What `StoredWeights` tell beside their tensors, in the order of its attributes."""

    metadata: Mapping[str, Plain] = {}
    wrapper: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class StoredWeights(Mapping[str, Tensor]):
    """Weights in a file or folder, read tensor by tensor when asked for by name.

    Made by `open_weights`. Iterates in the file's order, or in natural order of the names where the file has none;
    tied tensors stored once are found under every name and come back as one tensor.

    Names are plain: without `module.` before all of them, and without what compiling or sharding adds to them.

    Attributes:
        ordered: whether the order is the file's own.
        metadata: plain values stored beside the tensors.
        wrapper: the keys under which a torch file held them, such as `("state_dict",)`.
        others: keys of other networks in that file, which were not read.
        dropped: what names were rid of, such as `module.`.
        remarks: what else there is to say of the file, in sentences.
        aliases: second names of tied tensors -> their first names.
        sources, stored_aliases: where tensors come from, and `aliases`, by the names that they are stored under.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        aliases: Mapping[str, str],
        about: "_About | None" = None,
        *,
        ordered: bool | None = None,
    ) -> None:
        about = about or _About()
        self.metadata, self.wrapper, self.others, self.remarks = about
        names = [*sources, *(alias for alias in aliases if alias not in sources)]
        plain = plain_names(names)
        of_stored = {stored: name for name, stored in plain.names.items()}
        self.dropped = plain.dropped
        self.stored_aliases = dict(aliases)
        self.aliases = {of_stored[alias]: of_stored[name] for alias, name in aliases.items()}
        self.sources, self._stored = sources, plain.names
        self.ordered = list(sources) != sorted(sources) if ordered is None else ordered
        self._names = list(plain.names) if self.ordered else sorted(plain.names, key=natural_key)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[self.aliases.get(name, name)]
        return self.sources[stored].read(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def meta(self) -> Weights:
        """Tensors on the `meta` device with the shapes and types of all: no values are read."""
        places = {name: self._stored[self.aliases.get(name, name)] for name in self._names}
        return {name: self.sources[stored].meta(stored) for name, stored in places.items()}

    def numbers(self, name: str, start: int, stop: int) -> Tensor:
        """The entries `start:stop` of a tensor's numbers in a row; of safetensors files no others are read."""
        stored = self._stored[self.aliases.get(name, name)]
        return self.sources[stored].numbers(stored, start, stop)

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """A copy of the entries `start:stop` of a tensor along an axis, which is all that stays in memory.

        Of safetensors files; of a torch file, what has been read is kept while the file is open.
        """
        stored = self._stored[self.aliases.get(name, name)]
        return self.sources[stored].part(stored, axis, start, stop)

    def read(self) -> Weights:
        """All tensors at once; an alias is the same tensor object as the name it stands for."""
        weights: Weights = {}
        for name in sorted(self._names, key=lambda name: name in self.aliases):
            target = self.aliases.get(name)
            weights[name] = weights[target] if target is not None else self[name]
        return {name: weights[name] for name in self._names}


def meta_of(weights: Mapping[str, Tensor]) -> Weights:
    """Tensors on the `meta` device with the shapes and types of all: of weights in a file no values are read."""
    if isinstance(weights, StoredWeights):
        return weights.meta()
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.items()}


def numbers_of(weights: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """The entries `start:stop` of a tensor's numbers in a row, from a file without reading others where it can be."""
    if isinstance(weights, StoredWeights):
        return weights.numbers(name, start, stop)
    return weights[name].flatten()[start:stop]


def stored_masks(weights: StoredWeights) -> tuple[str, ...]:
    """The masks of infinities in a file. Of other tensors only a row is read, and that of square ones alone: what
    attention must not see is one number for every two places.
    """
    square = {name: tensor.shape[-1] for name, tensor in weights.meta().items() if _may_be_mask(tensor)}
    rows = {name: weights.numbers(name, 0, width) for name, width in square.items()}
    return infinite_masks({name: weights[name] for name, row in rows.items() if not row.isfinite().all()})


def _may_be_mask(tensor: Tensor) -> bool:
    kind = tensor.is_floating_point() and tensor.element_size() > 1
    return kind and tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2] > 1


def on_cpu(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights on the CPU, where they are prepared; those in a file are read there anyway.

    Raises:
        InputError: tensors on several devices, or on `meta`, where they have no values.
    """
    if isinstance(weights, StoredWeights):
        return weights
    require_one_device("the weights of a network", weights.values())
    if any(tensor.is_meta for tensor in weights.values()):
        raise InputError("expected weights with values, found tensors on the device meta, which has none")
    return {name: tensor.cpu() for name, tensor in weights.items()}


def open_weights(path: str | Place, inside: str | Sequence[str] = (), *, keep: bool = True) -> StoredWeights:
    """Open a network's weights lazily.

    Args:
        path: a `.safetensors` file, a torch file (`.pt`, `.pth`, `.th`, `.bin`, `.ckpt` or without a suffix) holding
            a dict of tensors (or such a dict under a usual key, as `state_dict`), an archive of numpy (`.npz`), or a
            folder with a sharded or single model in one of the first two formats; or an archive of stable-baselines3,
            whose policy is read. Also behind an address such as `hf://org/name`: of safetensors the parts that are
            asked for are read there; other files are fetched whole, into the hub's own cache.
        inside: the key, or keys one after the other, of one of several networks in a file, such as `netG`, or a prefix
            of its tensors' names; the usual one if empty.
        keep: what was read of a torch file; otherwise it is read again, tensor by tensor, when it is asked for.

    Raises:
        InputError: nothing there, an unknown kind of file, a truncated or damaged file, a pickle that needs
            code to load (it is never executed), a file that holds something else than named tensors, or several
            networks of which none is the usual one.

    Examples:
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "net.pt")
        >>> list(ws.open_weights(folder / "net.pt"))
        ['weight', 'bias']
    """
    path, inside = located(path), (inside,) if isinstance(inside, str) and inside else tuple(inside)
    opened = _open_folder(path, inside, keep) if path.is_dir() else _open_file(path, inside, keep)
    require_plain(opened.meta(), path)
    if DEEPSPEED in opened.metadata:
        require_entries(opened.meta(), path)
    return opened


def _open_file(path: Place, inside: tuple[str, ...], keep: bool, *, whole: bool = True) -> StoredWeights:
    if not path.is_file():
        raise InputError(f"expected a file or folder of weights at {path}, found nothing there")
    if path.suffix == ".safetensors":
        return _open_safetensors(path, inside, whole=whole)
    if isinstance(path, RemotePath):
        path = fetched(path)
    if path.suffix in TORCH_SUFFIXES or path.name.endswith(PACKED_NAMES):
        read = read_torch_file(path, inside, keep=keep)
        return _in_memory(read.network, read.places, path, whole=whole)
    if path.suffix == ARRAYS:
        tensors, beside = read_arrays(path)
        found = _inside_of(tensors, inside, path)
        return _in_memory(found._replace(beside={**beside, **found.beside}))
    if path.suffix == POLICIES:
        return _in_memory(Unwrapped(read_policy(path), (POLICY,), {}))
    raise InputError(
        f"expected a file of weights ({', '.join(WEIGHT_SUFFIXES)}) or a folder, found {path.name} ({path.suffix})"
    )


def _inside_of(tensors: Weights, inside: tuple[str, ...], path: Place) -> Unwrapped:
    """A flat file of tensors, or those of one of its networks."""
    found = unwrap_named(tensors, inside, path)
    return found if found is not None else Unwrapped(dict(tensors), (), {})


def _in_memory(
    found: Unwrapped, places: dict[str, Stored] | None = None, path: Path = Path(), *, whole: bool = True
) -> StoredWeights:
    """Weights that were read; of those with a place in a file nothing is kept."""
    places = places or {}
    memory = InMemory({name: tensor for name, tensor in found.tensors.items() if name not in places})
    sources: dict[str, Source] = dict.fromkeys(found.tensors, memory)
    sources |= dict.fromkeys(places, InFile(NumbersFile(path, places)))
    strange = [name for name in found.left_out if name not in found.beside]
    remarks = [f"{len(strange)} entries that are no tensors were left aside ({some_of(strange)})"] if strange else []
    aliases = find_aliases(found.tensors)
    read = unquantized(sources, aliases) if whole else Unquantized(sources, aliases)
    about = _About(found.beside, found.path, found.others, (*remarks, *_emptiness(found.tensors), *read.remarks))
    return StoredWeights(read.sources, read.aliases, about)


def _open_safetensors(path: Place, inside: tuple[str, ...] = (), *, whole: bool = True) -> StoredWeights:
    file = SafetensorsFile(path)
    source = InFile(file)
    shapes = {name: source.meta(name) for name in file.tensors}
    found = _inside_of(shapes, inside, path)
    prefix = f"{found.path[-1]}." if inside and found.path else ""
    sources: dict[str, Source] = {name: Renamed(source, prefix) for name in found.tensors}
    noted = read_aliases(file.metadata, set(file.tensors))
    aliases = {
        alias.removeprefix(prefix): name.removeprefix(prefix)
        for alias, name in noted.items()
        if alias.startswith(prefix) and name.removeprefix(prefix) in sources
    }
    metadata = {key: value for key, value in file.metadata.items() if key not in (*noted, ALIASES_KEY, "format")}
    read = unquantized(sources, aliases) if whole else Unquantized(sources, aliases)
    about = _About(metadata, found.path, found.others, (*_emptiness(shapes), *read.remarks))
    return StoredWeights(read.sources, read.aliases, about, ordered=_has_order(file))


def _has_order(file: SafetensorsFile) -> bool:
    """safetensors itself sorts by kind, then as text: a file in that order has none of its own."""
    kinds = list(dict.fromkeys(stored.dtype for stored in file.tensors.values()))
    return list(file.tensors) != sorted(file.tensors, key=lambda name: (kinds.index(file.tensors[name].dtype), name))


def _emptiness(tensors: Mapping[str, Tensor]) -> list[str]:
    empty = [name for name, tensor in tensors.items() if not tensor.numel()]
    return (
        [f"{len(empty)} tensors without entries, as sharded training leaves them ({some_of(empty)})"] if empty else []
    )


def read_weights(path: str | Path) -> Weights:
    """`open_weights(path)` read as a whole, in the same order."""
    return open_weights(path).read()


def write_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a `.safetensors` file, or by its ending one of torch's (`.pt`, `.pth`, `.bin`, `.ckpt`).

    Tied tensors are stored once; safetensors has their aliases, and `metadata`, in its own.
    """
    aliases = find_aliases(weights)
    if Path(path).suffix in TORCH_SUFFIXES:
        whole = {name: tensor.detach().clone() for name, tensor in weights.items() if name not in aliases}
        with Path(path).open("wb") as file:  # torch names its archive after the path, which may begin with a dot
            torch.save({name: whole[aliases.get(name, name)] for name in weights}, file)
        return
    stored = {
        name: tensor.resolve_conj().resolve_neg().contiguous()
        for name, tensor in weights.items()
        if name not in aliases
    }
    notes = {"format": "pt", **(metadata or {})}
    if aliases:
        notes[ALIASES_KEY] = json.dumps(aliases)
    save_file(_without_shared_memory(stored), str(path), notes)


def _without_shared_memory(weights: Weights) -> Weights:
    """safetensors refuses overlapping memory, so views of a shared storage are copied."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in weights.items():
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in seen and tensor.numel() else tensor
        seen.add(storage)
    return separate


def _open_folder(folder: Place, inside: tuple[str, ...], keep: bool) -> StoredWeights:
    present = sorted(entry.name for entry in folder.iterdir())
    usual = [name for name in MODEL_FILES if name in present]
    # Of other names, as diffusers has them: the plain one before its variants, whose names are longer.
    others = sorted(filter(is_index, present), key=len) or sorted(filter(_is_alone, present), key=len)
    name = next(iter([*usual, *others]), None)
    if name is None:
        parts = any(entry.endswith(DISTRIBUTED) for entry in present)
        there = SHARDS if parts else some_of(present) or "an empty folder"
        raise InputError(f"expected {' or '.join(MODEL_FILES)} in {folder}, found {there}")
    opened = (
        _open_sharded(folder, name, inside, keep) if is_index(name) else open_weights(folder / name, inside, keep=keep)
    )
    beside = [other for other in (usual or others) if other != name and (others or is_index(other) != is_index(name))]
    if beside:
        how = "as transformers reads it, " if usual else ""
        opened.remarks += (f"{name} was read, {how}and not {beside[0]} beside it",)
    return opened


def _is_alone(name: str) -> bool:
    """Whether a file may be all of a model's weights, by the endings that libraries write."""
    return name.endswith((".safetensors", ".bin")) and not name.startswith(("training_args", "optimizer", "scheduler"))


def _open_sharded(folder: Place, index_name: str, inside: tuple[str, ...], keep: bool) -> StoredWeights:
    try:
        shard_of: dict[str, str] = dict(read_object(folder / index_name)["weight_map"])
        files = [folder / _inside(folder, shard) for shard in dict.fromkeys(shard_of.values())]
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a JSON index with a weight_map in {folder / index_name}, found neither") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(f"expected the shards that {folder / index_name} lists, found no {some_of(absent)}")
    shards = {shard: _open_part(folder / shard, keep) for shard in sorted(set(shard_of.values()))}
    aliases = {alias: name for shard in shards.values() for alias, name in shard.stored_aliases.items()}
    sources = {name: shards[shard].sources.get(name) for name, shard in shard_of.items()}
    missing = [name for name, source in sources.items() if source is None and name not in aliases]
    if missing:
        raise InputError(f"{folder / index_name} lists tensors that its shards do not hold: {some_of(missing)}")
    prefix = ".".join(inside).replace("/", ".") + "." if inside else ""
    kept = {
        name.removeprefix(prefix): Renamed(source, prefix)
        for name, source in sources.items()
        if source is not None and name.startswith(prefix)
    }
    if not kept:
        raise InputError(f"expected a network under {'/'.join(inside)} in {folder}, found none")
    tied = {alias.removeprefix(prefix): name.removeprefix(prefix) for alias, name in aliases.items()}
    read = unquantized(kept, {alias: name for alias, name in tied.items() if name in kept})
    remarks = list(dict.fromkeys(remark for shard in shards.values() for remark in shard.remarks))
    about = _About(next(iter(shards.values())).metadata, remarks=(*remarks, *read.remarks))
    return StoredWeights(read.sources, read.aliases, about)


def _open_part(path: Place, keep: bool) -> StoredWeights:
    """One file of several, in which parts of a quantized tensor need not be together."""
    part = _open_file(path, (), keep, whole=False)
    require_plain(part.meta(), path)
    return part


def _inside(folder: Place, shard: str) -> str:
    # By its name: in the hub's cache files are links that lead elsewhere.
    if PurePath(shard).is_absolute() or ".." in PurePath(shard).parts:
        raise InputError(f"expected shards inside {folder}, found a reference to {shard}")
    return shard
