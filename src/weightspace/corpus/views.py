"""Batches for pre-training: windows of tokens, drawn, permuted and made noisy on the fly.

Paper, section 3.2: two views of a window, one of the aligned network and one of a permuted version of it.
Deviations: the permutation is composed into the gather index, so a permuted window costs two small look-ups
(the published code writes 200 permuted copies of every window to disk); each sample has a window and a
permutation of its own; a batch holds at most one window per member, so that no two views of one member are
taken for negatives; a window longer than the network is padded and masked.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.corpus.corpus import Corpus, CorpusPart
from weightspace.symmetry.axes import Symmetry
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.windows import random_starts


class Batch(NamedTuple):
    """Windows of different networks, each in as many views as asked for.

    Attributes:
        targets: standardised weights; 0 in the padding.
        inputs: `targets` with noise.
        mask: which entries are real; `bias`: which of them are biases; `present`: which tokens are real.
        positions: see `TokenTable`.
    """

    targets: Float[Tensor, "views batch window width"]
    inputs: Float[Tensor, "views batch window width"]
    mask: Bool[Tensor, "batch window width"]
    bias: Bool[Tensor, "batch window width"]
    present: Bool[Tensor, "batch window"]
    positions: Int[Tensor, "batch window 4"]

    @property
    def weights(self) -> int:
        """How many real weights it shows, all views counted."""
        return int(self.mask.sum()) * len(self.targets)


@dataclass(frozen=True)
class PermutationTable:
    """A symmetry in the form that permutes gather indices.

    Element `j` of the flat vector lies at entry `slot` of up to F groups; moving that group's entry by `d`
    moves the element by `stride * d`. Unused factors have stride 0.
    """

    slots: Int[Tensor, "size factors"]
    strides: Int[Tensor, "size factors"]
    groups: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, "count slots"]:
        """How far every entry of every group moves, under `count` random permutations."""
        parts = []
        for size in self.groups:
            permutation = torch.rand(count, size, generator=generator).argsort(1)
            parts.append(permutation - torch.arange(size))
        return torch.cat(parts, dim=1) if parts else torch.zeros(count, 1, dtype=torch.int64)

    def apply(self, index: Int[Tensor, "count window width"], moves: Int[Tensor, "count slots"]) -> Tensor:
        """Gather indices of the permuted networks."""
        moved = index.clone()
        for factor in range(self.slots.shape[1]):
            slot = self.slots[:, factor][index].flatten(1)
            moved += self.strides[:, factor][index] * moves.gather(1, slot).view_as(index)
        return moved


def permutation_table(layout: TokenLayout, symmetry: Symmetry) -> PermutationTable:
    """Tabulate a symmetry over the flat vector of a layout."""
    starts, first = {}, 0
    for group, size in symmetry.groups.items():
        starts[group], first = first, first + size
    columns: list[tuple[int, Tensor, Tensor, int]] = []
    most = 1
    for name, shape in layout.shapes.items():
        element, remaining, used = torch.arange(torch.Size(shape).numel()), torch.Size(shape).numel(), 0
        for factor in (factor for axis in symmetry.axes[name] for factor in axis):
            remaining //= factor.size
            if factor.group is not None:
                slot = starts[factor.group] + element // remaining % factor.size
                columns.append((used, layout.offsets[name] + element, slot, remaining))
                used += 1
        most = max(most, used)
    slots, strides = (torch.zeros(layout.size, most, dtype=torch.int64) for _ in range(2))
    for used, place, slot, stride in columns:
        slots[place, used], strides[place, used] = slot, stride
    return PermutationTable(slots, strides, tuple(symmetry.groups.values()))


class WindowSource:
    """Draws batches from a corpus; a pure function of the generator it is given."""

    def __init__(self, corpus: Corpus, *, window: int, batch_size: int) -> None:
        self.window = window
        self._parts = corpus.parts
        self._tables = [
            permutation_table(part.frame.layout, part.frame.symmetry) if part.frame.symmetry is not None else None
            for part in corpus.parts
        ]
        self._members = [(number, member) for number, part in enumerate(corpus.parts) for member in part.checkpoints_of]
        self.batch_size = min(batch_size, len(self._members))

    def draw(self, generator: torch.Generator, *, permuted: tuple[bool, ...] = (False,), noise: float = 0.0) -> Batch:
        """A batch of one window per member.

        Args:
            generator: decides members, epochs, windows, permutations and noise.
            permuted: one entry per view: whether its networks are permuted at random.
            noise: standard deviation of Gaussian noise on the standardised inputs.
        """
        chosen = torch.randperm(len(self._members), generator=generator)[: self.batch_size]
        by_part: dict[int, list[int]] = {}
        for number in chosen.tolist():
            part, member = self._members[number]
            rows = self._parts[part].checkpoints_of[member]
            row = rows[int(torch.randint(len(rows), (), generator=generator))]
            by_part.setdefault(part, []).append(row)
        pieces = [self._draw_part(part, torch.tensor(rows), generator, permuted) for part, rows in by_part.items()]
        targets = torch.cat([piece.targets for piece in pieces], dim=1)
        mask, bias, present, positions = (
            torch.cat([getattr(piece, name) for piece in pieces]) for name in ("mask", "bias", "present", "positions")
        )
        inputs = targets + noise * torch.randn(targets.shape, generator=generator) * mask if noise else targets
        return Batch(targets, inputs, mask, bias, present, positions)

    def _draw_part(
        self, number: int, rows: Int[Tensor, "batch"], generator: torch.Generator, permuted: tuple[bool, ...]
    ) -> Batch:
        part, table = self._parts[number], self._tables[number]
        length = len(part.frame.layout)
        starts = random_starts(torch.full((len(rows),), length), self.window, generator)
        token = starts[:, None] + torch.arange(self.window)
        present = token < length
        token = token.clamp_max(length - 1)
        mask = part.tokens.mask[token] & present[..., None]
        index, tensor = part.tokens.index[token], part.tokens.tensor[token]
        views = []
        for shuffle in permuted:
            own = table.apply(index, table.draw(len(rows), generator)) if shuffle and table is not None else index
            values = part.flat[rows[:, None, None], own]
            views.append(part.frame.statistics.apply(values, tensor) * mask)
        targets = torch.stack(views)
        bias = part.frame.layout.is_bias[tensor] & mask
        return Batch(targets, targets, mask, bias, present, part.tokens.positions[token])


def whole_networks(part: CorpusPart, rows: slice) -> Float[Tensor, "checkpoints tokens width"]:
    """The standardised tokens of whole checkpoints; 0 in the padding."""
    values = part.flat[rows][:, part.tokens.index.flatten()].view(-1, *part.tokens.index.shape)
    return part.frame.statistics.apply(values, part.tokens.tensor) * part.tokens.mask
