"""Where the tensors of `StoredWeights` come from: memory, or a file that they are read from as they are needed."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.remote import Place
from weightspace.weights.safetensors_files import PAIRS, NumbersFile
from weightspace.weights.values import Weights

# What DeepSpeed notes in its files.
DEEPSPEED = "ds_version"
# What several processes write together, each its part, as FSDP does.
DISTRIBUTED = ".distcp"
SHARDS = (
    "a distributed checkpoint of torch: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
    "net.pt` makes one file of it"
)


class Source:
    """Where tensors come from, by the names that they are stored under; `part` is a copy, all else may be a view."""

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        raise KeyError(name)

    def meta(self, name: str) -> Tensor:
        """Its type and shape, on the `meta` device."""
        return torch.empty_like(self.read(name), device="meta")

    def numbers(self, name: str, start: int, stop: int) -> Tensor:
        """The entries `start:stop` of its numbers in a row."""
        return self.read(name).flatten()[start:stop]

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """The entries `start:stop` along an axis."""
        return torch.atleast_1d(self.read(name)).narrow(axis, start, stop - start).clone()


class InMemory(Source):
    """Tensors that were read."""

    def __init__(self, tensors: Weights) -> None:
        self.tensors = tensors

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.tensors[name]


class InFile(Source):
    """Tensors that lie in a file as they are, of which what is asked for is read."""

    def __init__(self, file: NumbersFile) -> None:
        self.file = file
        self.read, self.numbers, self.part = file.read, file.numbers, file.part  # type: ignore[method-assign] # as is

    def meta(self, name: str) -> Tensor:
        """Its type and shape, on the `meta` device."""
        stored = self.file.tensors[name]
        return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


class Renamed(Source):
    """Tensors whose names had a prefix."""

    def __init__(self, source: Source, prefix: str) -> None:
        self.source, self.prefix = source, prefix

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.source.read(self.prefix + name)

    def meta(self, name: str) -> Tensor:
        """Its type and shape, on the `meta` device."""
        return self.source.meta(self.prefix + name)

    def numbers(self, name: str, start: int, stop: int) -> Tensor:
        """The entries `start:stop` of its numbers in a row."""
        return self.source.numbers(self.prefix + name, start, stop)

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """The entries `start:stop` along an axis."""
        return self.source.part(self.prefix + name, axis, start, stop)


def require_plain(tensors: Mapping[str, Tensor], path: Place) -> None:
    """Refuse tensors of numbers that nobody can compute with, and names that are no text; `unquantized` unpacks pairs.

    Raises:
        InputError: it names the first of them.
    """
    for name, tensor in tensors.items():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"expected names in UTF-8 in {path}, found {name!a}") from error
        if tensor.dtype != PAIRS and not _is_number(tensor.dtype):
            raise InputError(f"expected plain numbers in {path}, found {tensor.dtype} in {name}")


def require_entries(tensors: Mapping[str, Tensor], path: Place) -> None:
    """Raise `InputError` for tensors that are all empty, as DeepSpeed leaves them in files that it divides."""
    if tensors and not any(tensor.numel() for tensor in tensors.values()):
        raise InputError(
            f"expected weights in {path}, found {len(tensors)} tensors without entries, as DeepSpeed leaves them where "
            "it divides weights among processes: its zero_to_fp32.py, which lies beside them, puts them together"
        )


@cache
def _is_number(dtype: torch.dtype) -> bool:
    """Whether torch converts a type to one that it computes with."""
    try:
        torch.zeros(1, dtype=dtype).to(torch.complex128)
    except (RuntimeError, NotImplementedError):
        return False
    return True
