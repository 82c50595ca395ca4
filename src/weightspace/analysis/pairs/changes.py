"""What became of one tensor: exact counts from one pass over both, and a sample of their entries to look at closely.

Tensors are read piece by piece and each number once, so that checkpoints may be larger than memory.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.randomness import derive_generator
from weightspace.weights.files import numbers_of

# Numbers that are read at once, and that are worked on at once, which stay in a processor's cache.
PIECE, BLOCK = 2**21, 2**17
# Rows of a tensor that are looked at closely, and so many entries of each, side by side.
ROWS, RUN = 128, 256
# Types that numbers may have been rounded to and stored in a larger one again.
COARSE = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
# The first half of a number's bytes, which is how some converters make bfloat16.
CUT = "bfloat16, cut off"
FEW = 64
SMALLEST = 1e-30


class Twins(NamedTuple):
    """A tensor of each checkpoint, of one shape: its name in either, the shape, and both types as torch names them."""

    name: str
    counterpart: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]

    @property
    def numbers(self) -> int:
        """How many entries each has."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether both are floating-point numbers: what counts something is not learned."""
        return all("float" in dtype for dtype in self.dtypes)


class Sample(NamedTuple):
    """The same entries of two tensors in double precision: rows from all over, a run of entries of each."""

    first: Float[Tensor, "rows run"]
    second: Float[Tensor, "rows run"]

    @property
    def change(self) -> Float[Tensor, "rows run"]:
        """Second minus first."""
        return self.second - self.first


class Change(NamedTuple):
    """What became of one tensor.

    Attributes:
        twins: the tensors.
        equal: whether all values are equal, whatever their types.
        squares: sum of squares of the first, of the change, and of the products of their entries.
        largest: the largest change of an entry.
        changed, flips: share of entries that changed, and whose sign did.
        zeros: share of entries that are zero, in each.
        broken: how many entries are NaN or infinite, in each.
        pruned: 1 if all entries that changed are zero in the second, -1 if they are in the first, else 0.
        rounded: the type that the first was rounded to, or with `rounded_back` the second, to make the other one.
        rounded_back: which of them was.
        sample: entries of both, where both are equal the first ones; None where they are broken, or no floating-point
            numbers.
    """

    twins: Twins
    equal: bool
    squares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest: float = 0.0
    changed: float = 0.0
    flips: float = 0.0
    zeros: tuple[float, float] = (0.0, 0.0)
    broken: tuple[int, int] = (0, 0)
    pruned: int = 0
    rounded: str = ""
    rounded_back: bool = False
    sample: Sample | None = None

    @property
    def relative(self) -> float:
        """Length of the change over that of the first; infinite where the first is zero."""
        before, change, _ = self.squares
        return 0.0 if self.equal else math.sqrt(change / before) if before else math.inf

    @property
    def scale(self) -> float:
        """Length of the second over that of the first."""
        before, change, product = self.squares
        return (
            math.sqrt(max(0.0, before + 2 * product + change) / before) if before else 1.0 if self.equal else math.inf
        )

    @property
    def cosine(self) -> float:
        """Of the angle between both as flat vectors; 0 where one of them is zero."""
        before, change, product = self.squares
        after = before + 2 * product + change
        if self.equal:
            return 1.0
        return min(1.0, max(-1.0, (before + product) / math.sqrt(before * after))) if before > 0 and after > 0 else 0.0


def compare_tensors(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], twins: Twins, *, rows: int = ROWS
) -> Change:
    """Compare two tensors of one shape, piece by piece.

    Args:
        first, second: weights; of those in files only pieces are in memory at a time.
        twins: which tensors.
        rows: how many of their rows are looked at closely.
    """
    sums, taken = _Sums(), _Taken(_places(twins, rows))
    for start, one, two in _pieces(first, second, twins):
        taken.add(start, one, two)
        if _same_bytes(one, two):
            sums.add_equal(one)
            continue
        for pair in zip(one.split(BLOCK), two.split(BLOCK), strict=True):
            sums.add(*_wide(*pair))
    change = sums.settle(twins)
    if any(change.broken) or not twins.floating:
        return change
    return change._replace(sample=_head(first, twins) if change.equal else taken.sample())


def _pieces(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], twins: Twins
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Both tensors piece by piece, and where each piece starts."""
    for start in range(0, twins.numbers, PIECE):
        stop = min(start + PIECE, twins.numbers)
        yield start, numbers_of(first, twins.name, start, stop), numbers_of(second, twins.counterpart, start, stop)


class _Sums:
    """Counts and sums over blocks of two tensors."""

    def __init__(self) -> None:
        self.squares, self.largest, self.numbers = [0.0, 0.0, 0.0], 0.0, 0
        self.changed, self.flips, self.zeros, self.broken = 0, 0, [0, 0], [0, 0]
        self.kept = [0, 0]  # entries that changed and are not zero, in each
        kinds: list[torch.dtype | str] = [*COARSE, CUT]  # that either may have been rounded to
        self.types = [kinds, kinds]

    def add_equal(self, block: Tensor) -> None:
        """A block that both share: it says something of lengths and zeros, and of types alone."""
        for part in block.split(BLOCK):
            values, _ = _wide(part, part)
            self.numbers += len(values)
            zeros = int(np.count_nonzero(values.numpy() == 0))
            self.zeros = [count + zeros for count in self.zeros]
            length = float(torch.dot(values, values))
            if not math.isfinite(length):
                broken = int((~values.isfinite()).sum())
                self.broken = [count + broken for count in self.broken]
                length = float(values[values.isfinite()].double().square().sum())
            self.squares[0] += length
            self._round(values, values)

    def add(self, first: Tensor, second: Tensor) -> None:
        """A block of each, in single or double precision."""
        change = second - first
        sums = [float(torch.dot(*pair)) for pair in ((first, first), (change, change), (first, change))]
        if first.dtype == torch.float32 and min(sums[:2]) < SMALLEST and bool(change.any()):
            # Squares of very small numbers are lost in single precision.
            self.add(first.double(), second.double())
            return
        if not all(map(math.isfinite, sums)):
            first, second, change, sums = self._without_broken(first, second)
        self.numbers += len(first)
        self.squares = [total + part for total, part in zip(self.squares, sums, strict=True)]
        one, two, moved = first.numpy(), second.numpy(), change.numpy() != 0
        counted = int(np.count_nonzero(moved))
        self.changed += counted
        self.flips += int(np.count_nonzero((np.signbit(one) != np.signbit(two)) & (one != 0) & (two != 0)))
        for which, values in enumerate((one, two)):
            self.zeros[which] += int(np.count_nonzero(values == 0))
            if not self.kept[which]:
                self.kept[which] = int(np.count_nonzero(moved & (values != 0)))
        if counted:
            low, high = change.aminmax()
            self.largest = max(self.largest, float(high), -float(low))
        self._round(first, second)

    def _without_broken(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, list[float]]:
        """Blocks with their NaN and infinite entries as zeros, counted; products in double precision."""
        for which, values in enumerate((first, second)):
            self.broken[which] += int((~values.isfinite()).sum())
        usable = first.isfinite() & second.isfinite()
        alike = (first == second) | (first.isnan() & second.isnan())
        self.changed += int((~usable & ~alike).sum())
        first, second = (torch.where(usable, values, 0).double() for values in (first, second))
        change = second - first
        return first, second, change, [float(a @ b) for a, b in ((first, first), (change, change), (first, change))]

    def _round(self, first: Tensor, second: Tensor) -> None:
        """Strike the types that one was not rounded to; those of most pairs go with the first few entries."""
        for which, (fine, coarse) in enumerate(((first, second), (second, first))):
            for count in (FEW, len(fine)):
                few, rounded = fine[:count], coarse[:count]
                self.types[which] = [kind for kind in self.types[which] if _rounds(few, rounded, kind)]

    def settle(self, twins: Twins) -> Change:
        """Shares of all entries."""
        numbers = max(1, self.numbers)
        rounded = next((kinds[0] for kinds in self.types if kinds), None) if self.changed else None
        pruned = 0 if not self.changed or all(self.kept) else 1 if not self.kept[1] else -1
        squares, change, product = self.squares
        return Change(
            twins,
            equal=not self.changed,
            squares=(squares, change, product),
            largest=self.largest,
            changed=self.changed / numbers,
            flips=self.flips / numbers,
            zeros=(self.zeros[0] / numbers, self.zeros[1] / numbers),
            broken=(self.broken[0], self.broken[1]),
            pruned=pruned,
            rounded=str(rounded).removeprefix("torch.") if rounded else "",
            rounded_back=rounded is not None and not self.types[0],
        )


def _rounds(fine: Tensor, coarse: Tensor, kind: torch.dtype | str) -> bool:
    """Whether rounding to a smaller type makes one the other."""
    if isinstance(kind, torch.dtype):
        return kind.itemsize < fine.dtype.itemsize and torch.equal(fine.to(kind).to(fine), coarse)
    if fine.dtype != torch.float32:
        return False
    return torch.equal((fine.view(torch.int32) & -(2**16)).view(torch.float32), coarse)


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN included: several times as fast as comparing numbers."""
    if first.dtype != second.dtype:
        return False
    pairs = zip(_bytes_of(first).split(8 * BLOCK), _bytes_of(second).split(8 * BLOCK), strict=True)
    return all(np.array_equal(one.numpy(), two.numpy()) for one, two in pairs)


def _bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's numbers, in words of eight where they fill them."""
    plain = torch.view_as_real(tensor.resolve_conj()).flatten() if tensor.is_complex() else tensor.contiguous()
    each = plain.view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
    return each if len(each) % 8 or each.storage_offset() % 8 else each.view(torch.int64)


def _wide(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in a row: in single precision where both are floating-point numbers of no more, else in double."""
    pair = [torch.view_as_real(own.resolve_conj()).flatten() if own.is_complex() else own for own in (first, second)]
    single = all(own.is_floating_point() and own.element_size() <= 4 for own in pair)
    kind = torch.float32 if single else torch.float64
    return pair[0].to(kind), pair[1].to(kind)


def _head(weights: Mapping[str, Tensor], twins: Twins) -> Sample:
    """The first entries of a tensor that both share: enough to see whether they were computed."""
    width = twins.numbers // max(1, twins.shape[0]) if len(twins.shape) > 1 else twins.numbers
    count = min(twins.numbers, max(width, ROWS * RUN // max(1, width) * width))
    head = numbers_of(weights, twins.name, 0, count).double().reshape(-1, max(1, width))
    return Sample(head, head)


def _places(twins: Twins, rows: int) -> list[tuple[int, int]]:
    """Rows drawn by the tensor's name, and of each a run of entries at one place; all of what has a single axis."""
    if len(twins.shape) < 2:
        return [(0, min(twins.numbers, ROWS * RUN))]
    count, width = twins.shape[0], twins.numbers // max(1, twins.shape[0])
    generator = derive_generator(0, "rows", twins.name)
    chosen = torch.randperm(count, generator=generator)[:rows].sort().values.tolist()
    # From a multiple of the run, where groups of a quantised row begin.
    begin = RUN * int(torch.randint(max(1, width // RUN), (), generator=generator))
    stop = min(width, begin + RUN)
    return [(row * width + begin, row * width + stop) for row in chosen]


class _Taken:
    """The entries of both at some places, in order, taken as pieces of them pass."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        self.places, self.next = places, 0
        shape = len(places), places[0][1] - places[0][0] if places else 0
        self.both = [torch.zeros(shape, dtype=torch.float64) for _ in range(2)]

    def add(self, start: int, first: Tensor, second: Tensor) -> None:
        """What lies at the places of pieces that begin at `start`."""
        end = start + len(first)
        while self.next < len(self.places) and self.places[self.next][0] < end:
            low, high = self.places[self.next]
            own = slice(max(low, start), min(high, end))
            for taken, piece in zip(self.both, (first, second), strict=True):
                if own.start < own.stop and not piece.is_complex():
                    taken[self.next, own.start - low : own.stop - low] = piece[own.start - start : own.stop - start]
            if high > end:
                break
            self.next += 1

    def sample(self) -> Sample:
        """Rows of both."""
        return Sample(*self.both)
