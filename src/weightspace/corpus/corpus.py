"""The corpus: one flat vector of canonical weights per checkpoint, memory-mapped.

Nothing is tokenised, permuted or standardised on disk: windows are gathered through index tables when they
are drawn (see `views`). The files take as many bytes as the raw float32 weights; what
units do, where networks are asked, stands beside them.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.corpus.frame import Frame
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.row_responses import ROW_NUMBERS, RowResponses, RowScale
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.symmetry.axes import Permutations
from weightspace.symmetry.matching import match_stack, permute_stack_tensor
from weightspace.tokens.patterns import positions_of, token_patterns
from weightspace.weights.values import Weights
from weightspace.zoo.zoo import Checkpoints, Zoo, require_finite_checkpoints

CHUNK = 4 * 2**20


class TokenTables(NamedTuple):
    """Per pattern of tokens and entry: whether it is real, whether it is a bias, its mean and deviation."""

    mask: Bool[np.ndarray, "patterns width"]
    bias: Bool[np.ndarray, "patterns width"]
    mean: Float[np.ndarray, "patterns width"]
    std: Float[np.ndarray, "patterns width"]


@dataclass(frozen=True, eq=False)
class CorpusPart:
    """All checkpoints that share a frame.

    Attributes:
        key: the frame's key in the preparation; frame: layout, symmetry and statistics.
        path: the file of canonical weights; flat: what is in it, one row per checkpoint, memory-mapped.
        table: the checkpoints' rows of the zoo's table, in the same order.
        origins: for every checkpoint the folder of its zoo.
        heard: what the units of the checkpoints do, where they were asked; see `ask_corpus`.
    """

    key: str
    frame: Frame
    path: Path
    flat: Float[Tensor, "checkpoints size"]
    table: pd.DataFrame
    origins: tuple[str, ...]
    heard: RowResponses | None = None

    @cached_property
    def positions(self) -> Int[Tensor, "tokens 4"]:
        """Where every token of a network of this part is."""
        return positions_of(self.frame.layout)

    @cached_property
    def tables(self) -> TokenTables:
        """What a token's entries are, in the form that windows are gathered with."""
        patterns, statistics = token_patterns(self.frame.layout), self.frame.statistics
        tensor = torch.from_numpy(patterns.tensor)
        mean, std = (statistics.entries(which, tensor).numpy() for which in ("mean", "std"))
        return TokenTables(patterns.mask, patterns.bias, mean, std)

    @cached_property
    def checkpoints_of(self) -> dict[str, list[int]]:
        """Rows of `flat` by member."""
        rows: dict[str, list[int]] = {}
        for row, member in enumerate(self.table["member"]):
            rows.setdefault(str(member), []).append(row)
        return rows

    def chunks(self) -> Iterator[Float[Tensor, "checkpoints size"]]:
        """The weights in pieces of 16 MiB, or of single checkpoints that have more; read, not mapped."""
        count, size = self.flat.shape
        rows = max(1, CHUNK // size)
        for start in range(0, count, rows):
            yield torch.from_numpy(np.array(np.load(self.path, mmap_mode="r")[start : start + rows]))


@dataclass(frozen=True, eq=False)
class Corpus:
    """The flat vectors of a whole zoo, one part per frame."""

    parts: tuple[CorpusPart, ...]

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return sum(part.flat.numel() for part in self.parts)

    def closed(self) -> "Corpus":
        """The same corpus without its weights, to be sent to another process, which opens it."""
        return Corpus(tuple(_closed(part) for part in self.parts))

    def opened(self) -> "Corpus":
        """The inverse of `closed`, where the files can be read."""
        return Corpus(tuple(_opened(part) for part in self.parts))


def _closed(part: CorpusPart) -> CorpusPart:
    heard = part.heard and replace(part.heard, values=part.heard.values[:0].clone())
    return replace(part, flat=torch.zeros(0, part.frame.layout.size), heard=heard)


def _opened(part: CorpusPart) -> CorpusPart:
    heard = part.heard and open_heard(part.heard.path, part.heard.scale)
    return replace(part, flat=_map(part.path), heard=heard)


def open_heard(path: Path, scale: RowScale | None = None) -> RowResponses:
    """What units do, in a file of `[checkpoints, rows * numbers]`."""
    return RowResponses(path, _map(path).unflatten(1, (-1, ROW_NUMBERS)), scale)


@contextlib.contextmanager
def opened_corpus(zoo: Zoo, preparation: Preparation) -> Iterator[Corpus]:
    """The corpus of a zoo in a temporary folder, while it is in use."""
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        yield build_corpus(zoo, preparation, Path(folder))


def build_corpus(zoo: Zoo, preparation: Preparation, folder: Path) -> Corpus:
    """Write the flat canonical vectors of a zoo with a given preparation.

    Raises:
        InputError: NaN or infinite weights; the message names the member and epoch.
    """
    if len(zoo) == 0:
        raise InputError(f"expected checkpoints in the part of {zoo.folder} in use, found none")
    folder.mkdir(parents=True, exist_ok=True)
    permutations = _match_members(zoo, preparation)
    used = dict.fromkeys(zoo.table["architecture"])
    key_of = {name: preparation.key_of(zoo.architectures[name]) for name in used}
    keys = zoo.table["architecture"].map(key_of)
    parts = []
    for key in dict.fromkeys(keys):
        rows = zoo.where(same_frame(key_of, key))
        frame = preparation.frame_of(zoo.architectures[str(rows.table["architecture"].iloc[0])])
        path = folder / f"{key}.npy"
        table = _write_flat(path, rows, frame, permutations)
        origins = tuple(rows.origins[table.index])
        parts.append(CorpusPart(key, frame, path, _map(path), table, origins))
    return Corpus(tuple(parts))


def _write_flat(path: Path, rows: Zoo, frame: Frame, permutations: dict[str, Permutations]) -> pd.DataFrame:
    """Write the flat vectors of checkpoints of one frame; returns their table. A full disk is no bus error."""
    shape = (len(rows), frame.layout.size)
    tables = []
    with path.open("wb") as file:
        begin_array(file, shape)
        for piece in rows.stacks():
            file.write(flatten_checkpoints(piece, frame, permutations).numpy().astype("<f4", copy=False).data)
            tables.append(piece.table)
    return pd.concat(tables)


def begin_array(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the head of an `.npy` file of 32-bit floats, whose rows then follow."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def same_frame(key_of: Mapping[str, str], key: str) -> Callable[[pd.DataFrame], pd.Series]:
    """A condition on a zoo's table: architectures of one frame."""
    return lambda table: table["architecture"].map(key_of) == key


def renamed_stack(piece: Checkpoints, frame: Frame) -> Weights:
    """Stacked checkpoints under the frame's names, with canonical scales and signs."""
    return frame.rescale(frame.to_frame(piece.stack, piece.architecture))


def _match_members(zoo: Zoo, preparation: Preparation) -> dict[str, Permutations]:
    """For every aligned member the permutation that matches its last epoch to the reference."""
    permutations: dict[str, Permutations] = {}
    last = zoo.last()
    with progress_bar("aligning", len(last)) as advance:
        for piece in last.stacks():
            frame = preparation.frame_of(piece.architecture)
            if frame.symmetry is not None and frame.reference is not None:
                stack = renamed_stack(piece, frame)
                _flatten_stack(stack, frame, piece.table)  # refuses NaN, and says whose
                stacked = match_stack(stack, frame.reference_weights(), frame.symmetry)
                for number, member in enumerate(piece.table["member"]):
                    permutations[str(member)] = {group: rows[number] for group, rows in stacked.items()}
            advance(len(piece.table))
    return permutations


def flatten_checkpoints(
    piece: Checkpoints, frame: Frame, permutations: dict[str, Permutations]
) -> Float[Tensor, "checkpoints size"]:
    """Canonical flat vectors of stacked checkpoints, checked for NaN."""
    stack = renamed_stack(piece, frame)
    members = [str(member) for member in piece.table["member"]]
    matched = [permutations[member] for member in members if member in permutations]
    # A member's permutation is that of its last epoch, so that its epochs stay comparable (paper, section 3.2).
    if len(matched) == len(members) and frame.symmetry is not None:
        stacked = {group: torch.stack([rows[group] for rows in matched]) for group in frame.symmetry.groups}
        stack = {
            name: permute_stack_tensor(stack[name], frame.symmetry.axes[name], stacked) for name in frame.layout.names
        }
    return _flatten_stack(stack, frame, piece.table)


def _flatten_stack(stack: Weights, frame: Frame, table: pd.DataFrame) -> Float[Tensor, "checkpoints size"]:
    """Stacked tensors side by side in one row each; `table` says whose a NaN is."""
    flat = torch.cat([stack[name].reshape(len(table), -1).to(torch.float32) for name in frame.layout.names], dim=1)
    require_finite_checkpoints(flat, table)
    return flat


def _map(path: Path) -> Float[Tensor, "checkpoints size"]:
    """A private memory map of an `.npy` file as a tensor."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            header = file.tell() // 4
    except Exception as error:  # a header is an expression of Python, and fails as such
        raise InputError(f"expected rows of numbers in {path}, found a damaged file ({error})") from error
    if len(shape) != 2 or path.stat().st_size != 4 * (header + shape[0] * shape[1]):
        raise InputError(f"expected {shape[0]:,} rows of {shape[1]:,} numbers in {path}, found a file of another size")
    mapped = torch.from_file(str(path), shared=False, size=header + shape[0] * shape[1], dtype=torch.float32)
    return mapped[header:].view(shape)
