"""What is in a folder of checkpoints: formats, architectures, broken and dead weights, outliers and duplicates.

Tensors are read one at a time and nothing is ever executed, so the folder may be larger than memory.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.remote import Place
from weightspace.weights.adapters.opening import is_adapter, open_adapter
from weightspace.weights.files import StoredWeights, is_index, open_weights
from weightspace.weights.values import is_mask, natural_key, sum_of_hashes
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_stored
from weightspace.zoo.importing.identifying import identify, recognize
from weightspace.zoo.importing.reader import Kind, first_reason, list_checkpoints
from weightspace.zoo.importing.source import Source

# A layer is outlying if its scale is this many robust standard deviations from its peers', and a factor of two.
OUTLYING, LEAST_FACTOR = 6.0, 2.0
FEWEST_PEERS = 5
CHUNK = 1 << 20
# What an adapter's configuration says that changes nothing, or in any order.
NOT_DECISIVE = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "target_modules"),
    *("target_parameters", "task_type"),
)


@dataclass
class Inspected:
    """One checkpoint.

    Attributes:
        path: below the folder.
        format: of the file.
        bytes: on disk.
        problem: why it could not be read, or nothing; then the fields below are empty.
        architecture: its id: equal for checkpoints with the same names, shapes, types and, where known, activation.
        parameters: how many numbers.
        dtypes: how many numbers of each type.
        wrapping: keys and prefixes around the state dict.
        broken: `tensor -> how many` NaN or infinite values.
        zero_units: `tensor -> how many` rows that are all zero.
        duplicate_units: `tensor -> how many` rows that repeat another row.
        outlying_layers: `tensor -> root mean square over what is usual`.
        file_hash: SHA-256 of the file, or of a folder's files.
        values_hash: the same for networks with the same tensors, whatever file they are in.
        fingerprint: the same for networks whose tensors hold the same numbers in any order.
        notes: what there is to say of how the file was read.
        numbers: the same for networks with the same floating-point numbers, whatever tensors they are in.
        adapter: the method of an adapter, such as `LoRA`; nothing for a network.
    """

    path: str
    format: str
    bytes: int
    problem: str = ""
    architecture: str = ""
    parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    wrapping: str = ""
    broken: dict[str, int] = field(default_factory=dict)
    zero_units: dict[str, int] = field(default_factory=dict)
    duplicate_units: dict[str, int] = field(default_factory=dict)
    outlying_layers: dict[str, float] = field(default_factory=dict)
    file_hash: str = ""
    values_hash: str = ""
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    numbers: str = ""
    adapter: str = ""

    def remarks(self) -> list[str]:
        """What deserves attention, in words."""
        sentences = [self.problem] if self.problem else list(self.notes)
        counted = (("NaN or infinite values", self.broken), ("zero units", self.zero_units))
        for what, counts in (*counted, ("duplicate units", self.duplicate_units)):
            if counts:
                sentences.append(f"{sum(counts.values()):,} {what} in {_some(counts)}")
        if self.outlying_layers:
            layers = [f"{name} ({factor:.3g} times the usual size)" for name, factor in self.outlying_layers.items()]
            sentences.append(f"outlying {_some(layers)}")
        return sentences


@dataclass
class Inspection:
    """A folder of checkpoints.

    Attributes:
        checkpoints: in natural order of their paths.
        equal_files: groups of paths whose files are the same byte for byte.
        equal_tensors: groups of paths that hold the same tensors in files that differ.
        equal_numbers: groups of paths that hold the same numbers under other names or in other shapes, such as experts
            one by one and stacked.
        left_out: other files, with the reason.
        key: of the networks that were read of files that hold several.
        values: whether numbers were read, or names, shapes and types alone.
    """

    checkpoints: list[Inspected]
    equal_files: list[list[str]]
    equal_tensors: list[list[str]]
    equal_numbers: list[list[str]]
    left_out: list[dict[str, str]]
    key: str = ""
    values: bool = True

    def to_json(self) -> dict[str, Any]:
        """A JSON value with everything."""
        return asdict(self)


def inspect_folder(
    address: str | Path, given: Sequence[Architecture] = (), key: str = "", *, values: bool = False
) -> Inspection:
    """Inspect every checkpoint below a folder, or in an archive.

    Args:
        address: of the folder.
        given: architectures whose networks are known by their names and shapes; see `fit_weights`.
        key: of one of the networks in files that hold several; the usual one if empty.
        values: read all numbers of files behind an address too, and not names, shapes and types alone.

    Raises:
        InputError: nothing there, or no checkpoints.

    Examples:
        >>> len(inspect_folder(folder / "nets").to_json()["equal_tensors"])
        0
    """
    source = Source(address)
    values = values or not source.is_remote
    reader = recognize(source, key=key)
    listing = list_checkpoints(reader)
    places = _places(reader.source)
    # A file that holds two networks, such as an average beside what was trained, is one file.
    entries = list({entry.path: entry for entry in listing.entries if entry.path in places}.values())
    if not entries:
        why = first_reason(listing)
        raise InputError(f"expected files of weights below {address}, found none that inspect reads{why}")
    checkpoints: list[Inspected] = []
    files: dict[str, list[str]] = defaultdict(list)
    contents: dict[str, list[str]] = defaultdict(list)
    sizes: list[dict[str, float]] = []
    with progress_bar("inspecting", total=len(entries)) as advance:
        for entry in entries:
            checkpoint = Inspected(entry.path, "", entry.bytes)
            scales: dict[str, float] = {}
            try:
                if not values:
                    _read_header(checkpoint, source.there(entry.path), entry.kind, given, key)
                else:
                    with source.local(entry.path) as path:
                        checkpoint.format = _format(path)
                        checkpoint.file_hash = _hash_files(path)
                        checkpoint.values_hash, scales = _read(checkpoint, path, entry.kind, given, key)
                        files[checkpoint.file_hash].append(entry.path)
            except (InputError, OSError) as error:  # of this entry of an archive; others go on
                checkpoint.problem = str(error)
            if checkpoint.values_hash:
                contents[checkpoint.values_hash].append(entry.path)
            checkpoints.append(checkpoint)
            sizes.append(scales)
            advance()
    _mark_outliers(checkpoints, sizes)
    equal_files = [group for group in files.values() if len(group) > 1]
    equal_tensors = [group for group in contents.values() if len(group) > 1 and group not in equal_files]
    return Inspection(
        checkpoints, equal_files, equal_tensors, _equal_numbers(checkpoints), listing.left_out, key, values
    )


def _equal_numbers(checkpoints: Sequence[Inspected]) -> list[list[str]]:
    """Checkpoints with the same numbers in other tensors; of each set of equal tensors the first."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for checkpoint in checkpoints:
        if checkpoint.numbers:
            groups[checkpoint.numbers].setdefault(checkpoint.architecture, checkpoint.path)
    return [list(alike.values()) for alike in groups.values() if len(alike) > 1]


def _places(source: Source) -> set[str]:
    files = source.files
    return {*files, *(path.rpartition("/")[0] for path in files)}


def _format(place: Place) -> str:
    if place.is_dir():
        index = next(filter(is_index, sorted(entry.name for entry in place.iterdir())), "")
        return f"folder, {'sharded ' if index else ''}{'torch' if 'bin' in index else 'safetensors'}"
    return "safetensors" if place.suffix == ".safetensors" else "torch"


def _read(
    checkpoint: Inspected, path: Path, kind: Kind, given: Sequence[Architecture], key: str
) -> tuple[str, dict[str, float]]:
    """Fill in what the tensors tell; returns a digest of them, and every tensor's root mean square."""
    try:
        stored = open_weights(path, key)
        _describe(checkpoint, stored)
        quantized = next((name for name in stored if stored[name].is_quantized), None)
        if quantized is not None:
            raise InputError(f"expected plain numbers, found {stored[quantized].dtype} in {quantized}")
        if is_adapter(path, stored.meta()):
            return _read_adapter(checkpoint, path, stored)
        identified = identify(kind, stored.meta(), given)
        checkpoint.architecture = identified.architecture.id
        checkpoint.notes += identified.refusals
        return _read_tensors(checkpoint, fit_stored(stored, given), stored.aliases)
    except InputError as error:
        checkpoint.problem = str(error).replace(str(path), "the file")
        return "", {}


def _describe(checkpoint: Inspected, stored: StoredWeights) -> None:
    """Fill in what names, shapes and types tell."""
    checkpoint.wrapping = "/".join((*stored.wrapper, *([stored.dropped] if stored.dropped else [])))
    checkpoint.wrapping += "".join(f", beside {key}" for key in stored.others)
    checkpoint.notes = list(stored.remarks)
    for name, tensor in stored.meta().items():
        if name not in stored.aliases:  # two names of one tensor are its numbers once
            dtype = str(tensor.dtype).removeprefix("torch.")
            checkpoint.parameters += tensor.numel()
            checkpoint.dtypes[dtype] = checkpoint.dtypes.get(dtype, 0) + tensor.numel()


def _read_header(checkpoint: Inspected, path: Place, kind: Kind, given: Sequence[Architecture], key: str) -> None:
    """Fill in what a file's header tells; those of torch files lie all over the file."""
    checkpoint.format = _format(path)
    if "safetensors" not in checkpoint.format:
        checkpoint.notes = ["a torch file, which has to be read as a whole: --values does"]
        return
    try:
        stored = open_weights(path, key)
        _describe(checkpoint, stored)
        checkpoint.adapter = "adapter" if is_adapter(path, stored.meta()) else ""
        checkpoint.architecture = checkpoint.adapter or identify(kind, stored.meta(), given).architecture.id
    except InputError as error:
        checkpoint.problem = str(error).replace(str(path), "the file")


def _read_adapter(checkpoint: Inspected, path: Path, stored: StoredWeights) -> tuple[str, dict[str, float]]:
    """Two adapters of the same tensors are the same only with the same configuration: it says how much they count."""
    adapter = open_adapter(path)
    checkpoint.adapter, checkpoint.architecture = adapter.method, f"adapter ({adapter.method})"
    checkpoint.notes += adapter.remarks
    digest, sizes = _read_tensors(checkpoint, stored, stored.aliases)
    decisive = {name: value for name, value in adapter.config.items() if name not in NOT_DECISIVE}
    said = json.dumps(decisive, sort_keys=True).encode()
    checkpoint.file_hash = hashlib.sha256(checkpoint.file_hash.encode() + said).hexdigest()
    checkpoint.zero_units.clear()  # a factor that is zero is a fresh one
    return hashlib.sha256(digest.encode() + said).hexdigest(), sizes


def _read_tensors(
    checkpoint: Inspected, weights: Mapping[str, Tensor], aliases: Collection[str]
) -> tuple[str, dict[str, float]]:
    digest, unordered, sizes = hashlib.sha256(), hashlib.sha256(), {}
    count, total = 0, 0
    # One order whatever the file's, so that equal networks have equal digests.
    for name in sorted(weights, key=natural_key):
        tensor = weights[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        for hasher in (digest, unordered):
            hasher.update(f"{name} {dtype} {list(tensor.shape)}".encode())
        for part in _bytes_of(tensor).split(CHUNK):
            digest.update(part.numpy().data)
        hashes = sum_of_hashes(tensor)
        unordered.update(hashes.to_bytes(8, "little"))
        if tensor.is_floating_point() and tensor.numel() and name not in aliases and not is_mask(tensor):
            sizes[name] = _look_at(checkpoint, name, tensor)
            count, total = count + tensor.numel(), (total + hashes) % 2**64
    checkpoint.fingerprint = unordered.hexdigest()
    checkpoint.numbers = f"{count}:{total:016x}" if count else ""
    return digest.hexdigest(), sizes


def _look_at(checkpoint: Inspected, name: str, tensor: Tensor) -> float:
    """Count broken values and dead or repeated units of a floating-point tensor; returns its root mean square."""
    if tensor.element_size() == 1:  # 8-bit floats have no arithmetic of their own
        tensor = tensor.float()
    # Piece by piece: what says of each number whether it is finite takes as much room again.
    broken = tensor.numel() - sum(int(part.isfinite().sum()) for part in tensor.flatten().split(CHUNK))
    if broken:
        checkpoint.broken[name] = broken
        return math.nan
    if tensor.ndim > 1:
        rows = tensor.reshape(len(tensor), -1)
        zeros = torch.cat([~part.any(1) for part in rows.split(max(1, CHUNK // max(1, rows.shape[1])))])
        zero, repeated = int(zeros.sum()), _count_repeated(rows, zeros)
        if zero:
            checkpoint.zero_units[name] = zero
        if repeated:
            checkpoint.duplicate_units[name] = repeated
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float32)) / math.sqrt(tensor.numel())


def _count_repeated(rows: Tensor, zeros: Tensor) -> int:
    """How many rows are equal to an earlier one, bit for bit, those of zeros aside."""
    if len(rows) == 0 or rows.shape[1] < 2:  # single numbers repeat by chance
        return 0
    held = _bytes_of(rows).reshape(len(rows), -1).numpy()
    kept = int((~zeros).sum())
    if held.shape[1] <= 8:  # millions of rows, each a number
        padded = np.zeros((len(held), 8), np.uint8)
        padded[:, : held.shape[1]] = held
        return kept - len(np.unique(padded.view(np.int64)[~zeros.numpy()]))
    # Of each row a digest: the rows themselves would be all of the tensor once more.
    digests = {
        hashlib.blake2b(row.data, digest_size=16).digest()
        for row, zero in zip(held, zeros.numpy(), strict=True)
        if not zero
    }
    return kept - len(digests)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def _mark_outliers(checkpoints: Sequence[Inspected], sizes: Sequence[Mapping[str, float]]) -> None:
    """Compare each tensor's size with the same tensor's in checkpoints of the same architecture."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, checkpoint in enumerate(checkpoints):
        if not checkpoint.problem:
            groups[checkpoint.architecture].append(number)
    for places in groups.values():
        for name in sizes[places[0]]:
            values = np.array([sizes[number].get(name, math.nan) for number in places])
            for number, factor in zip(places, _factors(values), strict=True):
                if factor is not None:
                    checkpoints[number].outlying_layers[name] = factor


def _factors(values: np.ndarray) -> list[float | None]:
    """For each size that is out of line, how many times the median it is."""
    usable = np.isfinite(values) & (values > 0)
    logarithms = np.log(np.where(usable, values, 1.0))
    peers = np.unique(logarithms[usable])  # copies are no peers
    if len(peers) < FEWEST_PEERS:
        return [None] * len(values)
    middle = np.median(peers)
    spread = 1.4826 * np.median(np.abs(peers - middle))
    far = np.abs(logarithms - middle) > np.maximum(OUTLYING * spread, math.log(LEAST_FACTOR))
    return [float(np.exp(logarithms[n] - middle)) if usable[n] and far[n] else None for n in range(len(values))]


def _hash_files(place: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.is_file():
            digest.update(path.name.encode() if place.is_dir() else b"")
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()


def _some(names: Sequence[str] | Mapping[str, int], limit: int = 3) -> str:
    shown = list(names)[:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
