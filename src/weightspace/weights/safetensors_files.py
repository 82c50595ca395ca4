"""A file of safetensors: its header, compared with what the file holds, and its tensors, by plain reads.

The library maps files, so that one that is cut or written anew while it is read ends the process by a signal; what is
read plainly is refused in a sentence.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.remote import Place

LONGEST_HEADER = 100_000_000  # as the library has it
BLOCK = 16 * 2**20
METADATA = "__metadata__"
# Where `write_weights` notes tied tensors.
ALIASES_KEY = "aliases"
# Two numbers of four bits a byte: torch counts bytes, the header of a file counts numbers.
PAIRS = torch.float4_e2m1fn_x2
KINDS = {
    **{
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "C64": torch.complex64,
    },
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu},
    **{"F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F4": PAIRS},
}


class Stored(NamedTuple):
    """Where a tensor lies: its type and shape, and the bytes of the file from `start` to `stop`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class NumbersFile:
    """A file in which tensors lie as they are; nothing of it stays open.

    Attributes:
        path: of the file.
        tensors: where each lies.
    """

    kind = "file of numbers"

    def __init__(self, path: Place, tensors: dict[str, Stored]) -> None:
        self.path, self.tensors = path, tensors

    def read(self, name: str) -> Tensor:
        """A whole tensor, in memory of its own."""
        stored = self.tensors[name]
        return self.numbers(name, 0, math.prod(stored.shape)).reshape(stored.shape)

    def numbers(self, name: str, start: int, stop: int) -> Tensor:
        """The entries `start:stop` of a tensor in a row."""
        stored = self.tensors[name]
        each = stored.dtype.itemsize
        # Not filled with zeros first, which takes longer than reading.
        held = torch.empty((stop - start) * each, dtype=torch.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(stored.start + start * each)
                view, got = held.numpy().data, 1
                while view and got:
                    got = file.readinto(view) or 0
                    view = view[got:]
        except OSError as error:
            raise self.damaged(error.strerror or "unreadable") from error
        if view:
            raise self.damaged("a file that was cut while it was read")
        if stored.dtype == torch.bool and len(held) and int(held.max()) > 1:
            raise self.damaged(f"other bytes than 0 and 1 in {name}, which is of truth values")
        return held.view(stored.dtype)

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """The entries `start:stop` of a tensor along an axis; no more than that and 16 MiB are in memory."""
        stored = self.tensors[name]
        shape = stored.shape or (1,)
        inner = math.prod(shape[axis + 1 :])
        if axis == 0:
            return self.numbers(name, start * inner, stop * inner).reshape(stop - start, *shape[1:])
        row = math.prod(shape[1:])
        rows = max(1, BLOCK // max(1, row * stored.dtype.itemsize))
        blocks = []
        for first in range(0, shape[0], rows):
            last = min(first + rows, shape[0])
            block = self.numbers(name, first * row, last * row).reshape(last - first, *shape[1:])
            blocks.append(block.narrow(axis, start, stop - start).clone())
        return torch.cat(blocks) if blocks else torch.empty(shape, dtype=stored.dtype).narrow(axis, start, stop - start)

    def damaged(self, why: str) -> InputError:
        """What to raise for a file that is not what it says."""
        return InputError(f"expected a whole {self.kind} at {self.path}, found a damaged one ({why})")


class SafetensorsFile(NumbersFile):
    """A safetensors file that was looked at.

    Attributes:
        path: of the file.
        tensors: in the order of their bytes.
        metadata: texts beside them.

    Raises:
        InputError: a damaged file: cut, with holes or overlaps, or with a header that says what the file does not hold.
    """

    kind = "safetensors file"

    def __init__(self, path: Place) -> None:
        super().__init__(path, {})
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
                if length > min(LONGEST_HEADER, size - 8):
                    raise self.damaged("a header that is longer than the file")
                header = file.read(length)
        except OSError as error:
            raise self.damaged(error.strerror or "unreadable") from error
        try:
            value = parse_json(header.decode(), str(path), _once)
        except UnicodeDecodeError as error:
            raise self.damaged("a header that is no UTF-8") from error
        if not isinstance(value, dict):
            raise self.damaged("a header that is no object")
        notes = value.pop(METADATA, {})
        if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
            raise self.damaged("metadata that is not text")
        self.metadata: dict[str, str] = notes
        stored = {name: self._stored(name, entry, 8 + length) for name, entry in value.items()}
        self.tensors = dict(sorted(stored.items(), key=lambda item: (item[1].start, item[1].stop)))
        end = 8 + length
        for name, tensor in self.tensors.items():
            if tensor.start != end:
                raise self.damaged(f"a hole or an overlap before {name}")
            end = tensor.stop
        if end != size:
            raise self.damaged(f"{size:,} bytes instead of {end:,}")

    def _stored(self, name: str, entry: Any, first: int) -> Stored:
        try:
            kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(f"an entry without type, shape and place, {name}") from error
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop)):
            raise self.damaged(f"sizes that are none in {name}")
        dtype = KINDS.get(kind) if isinstance(kind, str) else None
        if dtype is None or (dtype == PAIRS and (not shape or shape[-1] % 2)):
            raise InputError(f"expected plain numbers in {self.path}, found {kind} in {name}")
        if dtype == PAIRS:
            shape = (*shape[:-1], shape[-1] // 2)
        if math.prod(shape) * dtype.itemsize != stop - start:
            raise self.damaged(f"{stop - start:,} bytes for {name} of shape {list(shape)} and type {kind}")
        return Stored(dtype, shape, first + start, first + stop)


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    """An object of JSON whose names are all different: which of two is meant nobody knows."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name that is there twice")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in the order of their bytes.

    Raises:
        InputError: see `SafetensorsFile`.
    """
    file = SafetensorsFile(path)
    return {name: file.read(name) for name in file.tensors}


def read_aliases(notes: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Tied tensors, as `write_weights` notes them, and as safetensors and those who use it do: the name that was
    dropped -> the name that was kept. What others note under a name of ours is not ours to read.
    """
    try:
        noted = parse_json(notes.get(ALIASES_KEY, "{}"), ALIASES_KEY)
    except InputError:
        noted = {}
    others = {alias: name for alias, name in notes.items() if "." in alias}  # as the names of tensors are
    pairs = {**others, **(noted if isinstance(noted, dict) else {})}
    return {
        alias: name for alias, name in pairs.items() if alias not in names and isinstance(name, str) and name in names
    }


def write_in_turn(
    path: Path, kinds: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write tensors one after the other, none of which stays in memory.

    Args:
        path: of the file.
        kinds: tensors of the types and shapes to come, by name (on the `meta` device, say), in their order.
        tensors: the same names in the same order, with the values.
        metadata: texts beside them.
    """
    words = {dtype: word for word, dtype in KINDS.items()}
    header: dict[str, Any] = {METADATA: {"format": "pt", **metadata}}
    end = 0
    for name, kind in kinds.items():
        start, end = end, end + kind.numel() * kind.element_size()
        header[name] = {"dtype": words[kind.dtype], "shape": list(kind.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, tensor), (expected, kind) in zip(tensors, kinds.items(), strict=True):
            if name != expected or tensor.dtype != kind.dtype or tensor.shape != kind.shape:
                raise ValueError(f"{name} {tensor.dtype} {list(tensor.shape)} was to be {expected} {kind.dtype}")
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
