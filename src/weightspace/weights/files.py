"""The weights of one network: read, write, compare, refuse.

`Weights` is one flat `dict[str, Tensor]`: all parameters and buffers of one network. Files come back in the order
that they have: that of a torch file's dictionary, that of the bytes of a safetensors file. What safetensors itself
writes is sorted as text, which is no order of layers: such files come in natural order (layer 10 after layer 2).
"""

import codecs
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weightspace.devices import require_one_device
from weightspace.errors import InputError
from weightspace.weights.state_dicts import Plain, Unwrapped, unwrap
from weightspace.weights.values import Weights, find_aliases, natural_key, some_of

ALIASES_KEY = "aliases"
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
# What damaged bytes make torch's reader raise, beside its own errors.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError)
POLICY = "policy.pth"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", "")
# What some trainers call a torch file, which is no archive.
PACKED_NAMES = (".pth.tar", ".pt.tar")


# Numbers of numpy beside the weights: what torch itself says is safe to allow. Nothing of these runs code of a file.
PLAIN_NUMPY: list[Any] = [
    np.dtype,
    codecs.encode,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    # What makes a number of numpy from its bytes, under its names in both of numpy's generations.
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def is_index(name: str) -> bool:
    """Whether a file is named as the index of a model in several files."""
    return name.endswith((".safetensors.index.json", ".bin.index.json"))


class StoredWeights(Mapping[str, Tensor]):
    """Weights in a file or folder, read tensor by tensor when asked for by name.

    Made by `open_weights`. Iterates in the file's order, or in natural order of the names where the file has none;
    tied tensors stored once are found under every name and come back as one tensor.

    Attributes:
        ordered: whether the order is the file's own.
        metadata: plain values stored beside the tensors.
        wrapper: the keys under which a torch file held them, such as `("state_dict",)`.
        others: keys of other state dicts in that file, which were not read.
    """

    def __init__(
        self,
        sources: dict[str, "_Source"],
        aliases: dict[str, str],
        metadata: Mapping[str, Plain] | None = None,
        wrapper: tuple[str, ...] = (),
        others: tuple[str, ...] = (),
        ordered: bool | None = None,
    ) -> None:
        self.metadata, self.wrapper, self.others = dict(metadata or {}), wrapper, others
        names = [*sources, *(alias for alias in aliases if alias not in sources)]
        self._sources, self._aliases = sources, aliases
        self.ordered = list(sources) != sorted(sources) if ordered is None else ordered
        self._names = names if self.ordered else sorted(names, key=natural_key)

    def __getitem__(self, name: str) -> Tensor:
        return self._sources[self._aliases.get(name, name)].read(self._aliases.get(name, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def meta(self) -> Weights:
        """Tensors on the `meta` device with the shapes and types of all: no values are read."""
        return {name: torch.empty_like(self[name], device="meta") for name in self._names}

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """A copy of the entries `start:stop` of a tensor along an axis, which is all that stays in memory.

        Of safetensors files; of a torch file, what has been read is kept while the file is open.
        """
        target = self._aliases.get(name, name)
        return self._sources[target].part(target, axis, start, stop)

    def read(self) -> Weights:
        """All tensors at once; an alias is the same tensor object as the name it stands for."""
        weights: Weights = {}
        for name in sorted(self._names, key=lambda name: name in self._aliases):
            target = self._aliases.get(name)
            weights[name] = weights[target] if target is not None else self[name]
        return {name: weights[name] for name in self._names}


def meta_of(weights: Mapping[str, Tensor]) -> Weights:
    """Tensors on the `meta` device with the shapes and types of all: of weights in a file no values are read."""
    if isinstance(weights, StoredWeights):
        return weights.meta()
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.items()}


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


def open_weights(path: str | Path, inside: Sequence[str] = ()) -> StoredWeights:
    """Open a network's weights lazily.

    Args:
        path: a `.safetensors` file, a torch file (`.pt`, `.pth`, `.bin`, `.ckpt` or without a suffix) holding
            a dict of tensors (or such a dict under a usual key, as `state_dict`), or a folder with a sharded or
            single model in one of those formats; or an archive of stable-baselines3, whose policy is read.
        inside: the keys that lead to one of several state dicts in a torch file; the usual one if empty.

    Raises:
        InputError: nothing there, an unknown kind of file, a truncated or damaged file, a pickle that needs
            code to load (it is never executed), or a file that holds something else than named tensors.

    Examples:
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "net.pt")
        >>> list(ws.open_weights(folder / "net.pt"))
        ['weight', 'bias']
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(f"expected a file or folder of weights at {path}, found nothing there")
    if path.suffix == ".safetensors":
        source = _SafetensorsFile(path)
        sources: dict[str, _Source] = dict.fromkeys(source.names, source)
        return StoredWeights(sources, source.aliases, source.metadata, ordered=source.ordered)
    if path.suffix in TORCH_SUFFIXES or path.name.endswith(PACKED_NAMES):
        tensors, wrapper, beside, others = _read_torch_file(path, inside)
        sources = dict.fromkeys(tensors, _InMemory(tensors))
        return StoredWeights(sources, find_aliases(tensors), beside, wrapper, others)
    if path.suffix == ".zip":
        return _open_policy(path)
    raise InputError(
        f"expected a .safetensors, .pt, .pth, .bin or .ckpt file or a folder, found {path.name} ({path.suffix})"
    )


def _open_policy(path: Path) -> StoredWeights:
    """The policy in a model of stable-baselines3, without the state of its optimiser."""
    try:
        with zipfile.ZipFile(path) as archive:
            policy = io.BytesIO(archive.read(POLICY))
        held = torch.load(policy, map_location="cpu", weights_only=True)
        tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, OSError, EOFError, *DAMAGE) as error:
        raise InputError(f"expected a model of stable-baselines3, with its {POLICY}, in {path}, found none") from error
    return StoredWeights(dict.fromkeys(tensors, _InMemory(tensors)), find_aliases(tensors), {}, (POLICY,))


def read_weights(path: str | Path) -> Weights:
    """`open_weights(path)` read as a whole, in the same order."""
    return open_weights(path).read()


def write_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a `.safetensors` file; tied tensors are stored once and their aliases recorded in its metadata."""
    aliases = find_aliases(weights)
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


class _Source:
    """Where a tensor comes from."""

    def read(self, name: str) -> Tensor:
        raise KeyError(name)

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        return torch.atleast_1d(self.read(name)).narrow(axis, start, stop - start).clone()


class _InMemory(_Source):
    def __init__(self, tensors: Weights) -> None:
        self.tensors = tensors

    def read(self, name: str) -> Tensor:
        return self.tensors[name]


class _SafetensorsFile(_Source):
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(f"expected a whole safetensors file at {path}, found a damaged one ({error})") from error
        self.names = list(self._file.offset_keys())
        kinds = [self._file.get_slice(name).get_dtype() for name in self.names]
        written = sorted(zip(kinds, self.names, strict=True), key=lambda one: (kinds.index(one[0]), one[1]))
        # safetensors itself sorts by kind, then as text: a file in that order has none of its own.
        self.ordered = self.names != [name for _, name in written]
        notes = self._file.metadata() or {}
        self.aliases = _read_aliases(notes.get(ALIASES_KEY, "{}"), self.names, path)
        self.metadata = {key: value for key, value in notes.items() if key not in (ALIASES_KEY, "format")}

    def read(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        # Of the memory map of a file that is closed again nothing stays in memory.
        with safe_open(str(self._path), framework="pt") as file:
            return torch.atleast_1d(file.get_tensor(name)).narrow(axis, start, stop - start).clone()


def _read_aliases(text: str, names: list[str], path: Path) -> dict[str, str]:
    """Tied tensors as `write_weights` noted them; another program's note of that name is not ours to read."""
    try:
        aliases = json.loads(text)
    except ValueError:
        aliases = None
    if not isinstance(aliases, dict) or not all(target in names for target in aliases.values()):
        raise InputError(f"expected the aliases in {path} to name its tensors, found others")
    return aliases


def _open_folder(folder: Path) -> StoredWeights:
    for index_name in INDEX_FILES:
        if (folder / index_name).is_file():
            return _open_sharded(folder, index_name)
    other = next((entry.name for entry in sorted(folder.iterdir()) if is_index(entry.name)), None)
    if other is not None:
        return _open_sharded(folder, other)
    for file_name in SINGLE_FILES:
        if (folder / file_name).is_file():
            return open_weights(folder / file_name)
    raise InputError(
        f"expected {' or '.join((*INDEX_FILES, *SINGLE_FILES))} in {folder}, found "
        f"{some_of([entry.name for entry in sorted(folder.iterdir())]) or 'an empty folder'}"
    )


def _open_sharded(folder: Path, index_name: str) -> StoredWeights:
    try:
        shard_of: dict[str, str] = dict(json.loads((folder / index_name).read_text())["weight_map"])
        files = [folder / _inside(folder, shard) for shard in shard_of.values()]
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a JSON index with a weight_map in {folder / index_name}, found neither") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(f"expected the shards that {folder / index_name} lists, found no {some_of(absent)}")
    shards = {shard: open_weights(folder / _inside(folder, shard)) for shard in sorted(set(shard_of.values()))}
    missing = [name for name, shard in shard_of.items() if name not in shards[shard]]
    if missing:
        raise InputError(f"{folder / index_name} lists tensors that its shards do not hold: {some_of(missing)}")
    return StoredWeights({name: _Shard(shards[shard]) for name, shard in shard_of.items()}, {})


def _inside(folder: Path, shard: str) -> str:
    if not (folder / shard).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"expected shards inside {folder}, found a reference to {shard}")
    return shard


class _Shard(_Source):
    def __init__(self, stored: StoredWeights) -> None:
        self.stored = stored

    def read(self, name: str) -> Tensor:
        return self.stored[name]

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        return self.stored.part(name, axis, start, stop)


def _read_torch_file(path: Path, inside: Sequence[str] = ()) -> Unwrapped:
    is_zip = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN_NUMPY):
            # torch warns of pickles of another protocol; a load that then fails is refused below.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"expected tensors only in {path}, found a damaged file or a pickle that needs code to load, which is "
            "never run; re-save it with torch.save(model.state_dict(), ...) or as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, struct.error, *DAMAGE) as error:
        told = str(error) and not isinstance(error, KeyError)  # whose text is a byte of the file
        reason = str(error).splitlines()[0] if told else "damaged"
        raise InputError(f"expected a whole torch file at {path}, found one that cannot be read ({reason})") from error
    if loaded == {}:
        raise InputError(f"expected named tensors in {path}, found none")
    for key in inside:
        loaded = loaded.get(key) if isinstance(loaded, Mapping) else None
    found = unwrap(loaded)
    if found is None:
        raise InputError(f"expected a dict of tensors in {path}, found {_describe(loaded)}")
    if not all(isinstance(name, str) for name in found.tensors):
        raise InputError(f"expected named tensors in {path}, found other names than text")
    unusual = [name for name, tensor in found.tensors.items() if tensor.is_meta or tensor.layout != torch.strided]
    if unusual:
        raise InputError(f"expected dense tensors in {path}, found a sparse or empty one in {unusual[0]}")
    return found


def _describe(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        return f"a dict with the keys {some_of([str(key) for key in loaded])}"
    return f"a {type(loaded).__name__}"
