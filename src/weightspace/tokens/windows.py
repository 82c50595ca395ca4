"""Runs of tokens: with context on either side (haloed), and drawn at random.

Paper, section 3.3 and appendix: long sequences are cut into windows that see `halo` tokens on either side,
which are dropped again afterwards. Deviation: every length works. The published code asserts on lengths
whose last window is shorter than the halo and on sequences shorter than one window.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class HaloedWindows(NamedTuple):
    """Windows with halo.

    Attributes:
        values: row i holds the tokens from `i * window - halo`; 0 outside the sequence.
        present: which of them exist.
    """

    values: Shaped[Tensor, "windows span ..."]
    present: Bool[Tensor, "windows span"]


@dataclass(frozen=True)
class WindowCut:
    """How a sequence of tokens is cut into haloed windows, any run of which can be treated by itself.

    Attributes:
        length: tokens in the sequence.
        content, halo: tokens that are kept of a window, and that are only seen on either side of them.

    Raises:
        ValueError: length or content below 1, or a negative halo.
    """

    length: int
    content: int
    halo: int

    def __post_init__(self) -> None:
        if self.length < 1 or self.content < 1 or self.halo < 0:
            found = f"{self.length}, {self.content}, {self.halo}"
            raise ValueError(f"expected length >= 1, window >= 1, halo >= 0, found {found}")

    @property
    def count(self) -> int:
        """How many windows there are."""
        return math.ceil(self.length / self.content)

    @property
    def span(self) -> int:
        """Tokens in a window."""
        return self.content + 2 * self.halo

    def kept(self, first: int, count: int) -> tuple[int, int]:
        """The tokens that `count` windows from the `first` keep: from, to."""
        return first * self.content, min(self.length, (first + count) * self.content)

    def seen(self, first: int, count: int) -> tuple[int, int]:
        """The tokens that they see: from, to."""
        start, stop = self.kept(first, count)
        return max(0, start - self.halo), min(self.length, stop + self.halo)

    def index(self, first: int, count: int) -> tuple[Int[Tensor, "windows span"], Bool[Tensor, "windows span"]]:
        """Token numbers of the windows, clipped to what they see, and which of them exist."""
        starts = torch.arange(first, first + count) * self.content
        index = starts[:, None] + torch.arange(-self.halo, self.content + self.halo)
        start, stop = self.seen(first, count)
        return index.clamp(start, stop - 1), (index >= 0) & (index < self.length)

    def merge(self, values: Shaped[Tensor, "windows span ..."], first: int, count: int) -> Shaped[Tensor, "kept ..."]:
        """What the windows keep, put together."""
        start, stop = self.kept(first, count)
        return merge_halo(values, stop - start, self.halo)


def split_with_halo(tokens: Shaped[Tensor, "length ..."], window: int, halo: int) -> HaloedWindows:
    """Cut a sequence into windows of `window` tokens that see `halo` tokens on either side."""
    cut = WindowCut(len(tokens), window, halo)
    index, present = cut.index(0, cut.count)
    values = tokens[index]
    values[~present] = 0
    return HaloedWindows(values, present)


def merge_halo(values: Shaped[Tensor, "windows span ..."], length: int, halo: int) -> Shaped[Tensor, "length ..."]:
    """The inverse of `split_with_halo`: drop the halos and put the windows together."""
    kept = values[:, halo : values.shape[1] - halo]
    return kept.reshape(-1, *values.shape[2:])[:length]


def random_starts(lengths: Int[Tensor, "samples"], window: int, generator: torch.Generator) -> Int[Tensor, "samples"]:
    """A uniform start for one window in each sequence; 0 where the sequence is not longer than the window."""
    room = (lengths - window).clamp_min(0) + 1
    return (torch.rand(len(lengths), generator=generator, dtype=torch.float64) * room).long().clamp_max(room - 1)
