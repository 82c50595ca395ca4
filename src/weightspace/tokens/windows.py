"""Runs of tokens: with context on either side (haloed), and drawn at random.

Paper, section 3.3 and appendix: long sequences are cut into windows that see `halo` tokens on either side,
which are dropped again afterwards. Deviation: every length works. The published code asserts on lengths
whose last window is shorter than the halo and on sequences shorter than one window.
"""

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


def halo_index(length: int, window: int, halo: int) -> tuple[Int[Tensor, "windows span"], Bool[Tensor, "windows span"]]:
    """Token numbers of every haloed window of a sequence (clipped to it) and which of them exist.

    Raises:
        ValueError: length or window below 1, or a negative halo.
    """
    if length < 1 or window < 1 or halo < 0:
        raise ValueError(f"expected length >= 1, window >= 1, halo >= 0, found {length}, {window}, {halo}")
    starts = torch.arange(0, length, window)
    index = starts[:, None] + torch.arange(-halo, window + halo)
    present = (index >= 0) & (index < length)
    return index.clamp(0, length - 1), present


def split_with_halo(tokens: Shaped[Tensor, "length ..."], window: int, halo: int) -> HaloedWindows:
    """Cut a sequence into windows of `window` tokens that see `halo` tokens on either side."""
    index, present = halo_index(len(tokens), window, halo)
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
