"""What a change leaves behind: of a sample of its entries whether units kept their places, its rank, and its grain."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.pairs.changes import Change
from weightspace.weights.values import is_computed, is_statistic

# What rounding in a type's last bit makes, beside the numbers: a uniform error of one part in 2 ** bits.
ROUNDED = 0.29
# Singular values that are this far above what rounding makes count as rank.
ABOVE = 2.0
# Fewer entries tell nothing of a grid or of noise.
FEWEST = 64
LEVELS, RUNS = 256, (256, 128, 64, 32, 16)
SMALL_LEVELS = 16
OFF_GRID, TELLING = 0.02, 0.25
# A gap of so many times what rounding makes is one between levels.
SURE = 30
# Of groups this share lies on grids, which the first few tell of most tensors; at least so many numbers of each tell.
MOST, TRIED, TELLERS = 0.9, 4, 8
# A run has at least so many numbers more than levels.
NARROWEST = 4
BITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}


class Places(NamedTuple):
    """Whether units stand where they stood.

    Attributes:
        correlation: mean over rows of the correlation between the first's row and the second's at the same place,
            columns around their means, less that of rows at different places.
        deviations: the same in standard deviations of what rows at different places have.
    """

    correlation: float
    deviations: float


class Spectrum(NamedTuple):
    """Singular values of a change.

    Attributes:
        rank: how many are above what rounding makes.
        full: the most there could be.
        effective: exp of the entropy of the singular values (Roy and Vetterli, 2007).
        first_share: of the squares, that of the first.
        grain: the first over that of white noise of the same shape and size: about 1 for white noise.
    """

    rank: int
    full: int
    effective: float
    first_share: float
    grain: float


class Traces(NamedTuple):
    """What is seen of one tensor's change.

    Attributes:
        change: exact counts.
        aside: why it says nothing of kinship: it counts something, is a statistic, was computed, or has broken numbers;
            nothing if it may have been learned.
        places: whether units stand where they stood; None of what is equal or aside.
        spectrum: of the change, of matrices and kernels alone.
        uneven: how much more rows and columns of the change differ in size than those of white noise.
        levels: on how many levels either lies, as quantised numbers do.
    """

    change: Change
    aside: str = ""
    places: Places | None = None
    spectrum: Spectrum | None = None
    uneven: float = 1.0
    levels: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        change = self.change
        return {
            **change.twins._asdict(),
            **{name: getattr(change, name) for name in ("equal", "relative", "cosine", "scale", "largest", "changed")},
            **{name: getattr(change, name) for name in ("flips", "zeros", "broken", "rounded")},
            "aside": self.aside,
            "correlation": self.correlation,
            "spectrum": self.spectrum._asdict() if self.spectrum else None,
            "levels": self.levels,
        }

    @property
    def correlation(self) -> float:
        """Of units at the same places; 1 where nothing changed."""
        return 1.0 if self.places is None else self.places.correlation


def trace(change: Change) -> Traces:
    """Look closely at what became of one tensor; its sample is let go."""
    sample, change = change.sample, change._replace(sample=None)
    if not change.twins.floating:
        return Traces(change, "no floating-point numbers")
    if any(change.broken):
        return Traces(change, "broken numbers")
    if is_statistic(change.twins.name):
        return Traces(change, "a running statistic")
    if sample is None:
        return Traces(change)
    first, second = sample
    if change.twins.numbers > 1 and (is_computed(first.squeeze(0)) or is_computed(second.squeeze(0))):
        return Traces(change, "the same number everywhere, or computed")
    if change.equal:
        return Traces(change)
    places = compare_places(first, second)
    if len(first) == 1:
        return Traces(change, "", places)
    levels = levels_of(first), levels_of(second)
    return Traces(change, "", places, spectrum_of(first, second), unevenness(second - first), levels)


def compare_places(first: Float[Tensor, "rows run"], second: Float[Tensor, "rows run"]) -> Places:
    """Whether rows of two samples are alike at the same places.

    Networks that were trained apart have their units in any order: the null hypothesis is that any other pairing of
    rows would be as good.
    """
    first, second = (values / values.square().mean().sqrt().clamp_min(1e-300) for values in (first, second))
    if len(first) == 1:
        one, other = (values.flatten() - values.mean() for values in (first, second))
        size = float(one.norm() * other.norm())
        correlation = float(one @ other) / size if size else 0.0
        return Places(correlation, correlation * math.sqrt(max(0, one.numel() - 1)))
    table = (
        torch.nn.functional.normalize(first - first.mean(0)) @ torch.nn.functional.normalize(second - second.mean(0)).T
    )
    count = len(table)
    same = table.diagonal().mean()
    apart = table[~torch.eye(count, dtype=torch.bool)]
    spread = float(apart.std()) / math.sqrt(count) if count > 2 else 1.0
    return Places(float(same - apart.mean()), float(same - apart.mean()) / max(spread, 1e-9))


def spectrum_of(first: Float[Tensor, "rows run"], second: Float[Tensor, "rows run"]) -> Spectrum:
    """Singular values of a change between two samples, in the light of what rounding either would leave."""
    change = second - first
    rows, run = change.shape
    size, bits = float(second.square().mean().sqrt()), min(bits_of(first), bits_of(second))
    values = torch.linalg.svdvals(change)
    squares = values.square()
    total = float(squares.sum())
    if not total:
        return Spectrum(0, min(rows, run), 0.0, 0.0, 0.0)
    spread = math.sqrt(rows) + math.sqrt(run)
    floor = max(ABOVE * ROUNDED * size * 2.0**-bits * spread, float(values[0]) * 1e-6)
    shares = values[values > 0] / values.sum()
    noise = math.sqrt(total / change.numel()) * spread
    return Spectrum(
        rank=int((values > floor).sum()),
        full=min(rows, run),
        effective=float(torch.exp(-(shares * shares.log()).sum())),
        first_share=float(squares[0]) / total,
        grain=float(values[0]) / noise,
    )


def unevenness(change: Float[Tensor, "rows run"]) -> float:
    """How much more the sizes of rows, and of columns, differ than those of white noise would: about 1 for that."""
    squares = change.square()
    mean = float(squares.mean())
    if not mean or min(change.shape) < 2:
        return 1.0
    kurtosis = float(squares.square().mean()) / mean**2 - 1  # of single entries
    ratios = []
    for axis in (0, 1):
        expected = max(kurtosis, 1e-3) / change.shape[axis]
        ratios.append(float((squares.mean(axis) / mean).var()) / expected)
    return max(ratios)


def levels_of(values: Float[Tensor, "rows run"]) -> int:
    """On how many levels numbers lie, as quantised ones do: 16 or 256; 0 if on none that can be told.

    A scale may belong to the tensor, to a row, to a column, or to 16 to 256 numbers side by side; of shorter rows than
    16 nobody can tell.
    """
    if values.numel() < FEWEST:
        return 0
    bits, whole = bits_of(values), values.flatten()
    widths = [values.shape[1], *(run for run in RUNS if run < values.shape[1])]
    grouped = [values[:, : values.shape[1] // width * width].reshape(-1, width) for width in widths] + [values.T]
    if any(_few_in_each(groups) for groups in grouped):
        return SMALL_LEVELS
    few = 4 * LEVELS
    if int((whole != 0).sum()) >= few and len(whole[:few].unique()) <= LEVELS and len(whole.unique()) <= LEVELS:
        return LEVELS
    on_grids = any(groups.shape[1] >= SMALL_LEVELS and _on_grids(groups, bits) for groups in grouped)
    return LEVELS if on_grids or (_on_grid(whole[:few], bits) and _on_grid(whole, bits)) else 0


def _few_in_each(groups: Float[Tensor, "groups width"]) -> bool:
    """Whether no group of numbers has more than 16 different ones; most tensors are told by their first."""
    if groups.shape[1] < NARROWEST + SMALL_LEVELS:
        return False
    return _few_in(groups[0]) and all(map(_few_in, groups))


def _few_in(group: Float[Tensor, "width"]) -> bool:
    """Whether numbers repeat as few levels make them; zeros apart, of which pruned rows have many."""
    numbers = group[group != 0]
    distinct = len(numbers.unique())
    return distinct <= SMALL_LEVELS and len(numbers) >= distinct + NARROWEST


def bits_of(values: Tensor) -> int:
    """Binary digits of the smallest type that holds all of the numbers: 8, 11, 24 or 53."""
    for kind, bits in BITS.items():
        if torch.equal(values.to(kind).to(values.dtype), values):
            return bits
    return 53


def _on_grids(groups: Float[Tensor, "groups width"], bits: int) -> bool:
    """Whether the numbers of nearly every group are multiples of one step, at most 255 from end to end."""
    first = [_on_grid(group, bits) for group in groups[:TRIED]]
    if sum(first) < MOST * len(first):
        return False
    return sum(first) + sum(_on_grid(group, bits) for group in groups[TRIED:]) >= MOST * len(groups)


def _on_grid(group: Float[Tensor, "width"], bits: int) -> bool:
    """Whether numbers are multiples of one step, from zero or from the lowest on, as far as rounding lets that show."""
    distinct = np.unique(group.numpy())  # of so few numbers faster than torch
    return len(distinct) < 2 or (
        len(distinct) >= TELLERS and any(_fits_grid(distinct, float(base), bits) for base in (0.0, distinct[0]))
    )


def _fits_grid(distinct: Float[np.ndarray, "count"], base: float, bits: int) -> bool:
    heights, rounding = distinct - base, (np.abs(distinct) + abs(base)) * 2.0**-bits
    gaps = np.diff(distinct)
    gaps = gaps[gaps > SURE * np.maximum(rounding[1:], rounding[:-1])]
    # Steps are at most the smallest gap, half as much again for what fitting them to the others may add.
    if not len(gaps) or distinct[-1] - distinct[0] > 1.5 * LEVELS * gaps.min():
        return False
    for part in (1, 2, 3):  # two neighbors may both be missing
        step = float(gaps.min()) / part
        for reach in (8, 64, LEVELS):  # the further numbers are, the better they tell the step
            near = heights[np.abs(heights) <= reach * step]
            counts = np.round(near / step)
            step = float((counts @ near) / (counts @ counts)) if counts.any() else step
        allowed = OFF_GRID + rounding / step
        telling = allowed < TELLING
        off = np.abs(heights / step - np.round(heights / step))
        few = float(distinct[-1] - distinct[0]) <= LEVELS * step
        if few and int(telling.sum()) >= TELLERS and bool((off <= allowed)[telling].all()):
            return True
    return False
