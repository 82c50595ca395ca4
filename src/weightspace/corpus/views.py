"""Batches for pre-training: windows of tokens, drawn, permuted and made noisy on the fly.

Paper, section 3.2: two views of a window, one of the aligned network and one of a permuted version of it.
Deviations: the permutation is composed into the gather index (see `gathering`); each sample has a window and a
permutation of its own; a batch holds at most one window per member, so that no two views of one member are
taken for negatives; a window longer than the network is padded and masked.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.corpus.corpus import Corpus, CorpusPart
from weightspace.corpus.gathering import window_gather
from weightspace.corpus.rescaling_windows import rescaling_windows
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


class WindowSource:
    """Draws batches from a corpus; a pure function of the generator it is given."""

    def __init__(self, corpus: Corpus, *, window: int, batch_size: int) -> None:
        self.window = window
        self._parts = corpus.parts
        self._gathers = [window_gather(part.frame.layout, part.frame.symmetry) for part in corpus.parts]
        self._rescalings = [
            [rescaling_windows(part.frame.layout, own) for own in part.frame.rescalings]
            if part.frame.layout.style == "rows"
            else []
            for part in corpus.parts
        ]
        self._members = [(number, member) for number, part in enumerate(corpus.parts) for member in part.checkpoints_of]
        self.batch_size = min(batch_size, len(self._members))

    def draw(
        self,
        generator: torch.Generator,
        *,
        permuted: tuple[bool, ...] = (False,),
        noise: float = 0.0,
        spread: float = 0.0,
    ) -> Batch:
        """A batch of one window per member.

        Args:
            generator: decides members, epochs, windows, permutations and noise.
            permuted: one entry per view: whether its networks are permuted at random.
            noise: standard deviation of Gaussian noise on the standardised inputs.
            spread: of the logarithms of random scales, in all views but the first, where scales are canonical.
        """
        chosen = torch.randperm(len(self._members), generator=generator)[: self.batch_size]
        by_part: dict[int, list[int]] = {}
        for number in chosen.tolist():
            part, member = self._members[number]
            rows = self._parts[part].checkpoints_of[member]
            row = rows[int(torch.randint(len(rows), (), generator=generator))]
            by_part.setdefault(part, []).append(row)
        pieces = [
            self._draw_part(part, torch.tensor(rows), generator, permuted, spread) for part, rows in by_part.items()
        ]
        targets = torch.cat([piece.targets for piece in pieces], dim=1)
        mask, bias, present, positions = (
            torch.cat([getattr(piece, name) for piece in pieces]) for name in ("mask", "bias", "present", "positions")
        )
        inputs = targets + noise * torch.randn(targets.shape, generator=generator) * mask if noise else targets
        return Batch(targets, inputs, mask, bias, present, positions)

    def _draw_part(
        self,
        number: int,
        rows: Int[Tensor, "batch"],
        generator: torch.Generator,
        permuted: tuple[bool, ...],
        spread: float,
    ) -> Batch:
        part, gather = self._parts[number], self._gathers[number]
        length = len(part.frame.layout)
        starts = random_starts(torch.full((len(rows),), length), self.window, generator)
        token = (starts[:, None] + torch.arange(self.window)).numpy()
        present = torch.from_numpy(token < length)
        token = token.clip(max=length - 1)
        tables, first = part.tables, (rows * part.flat.shape[1]).numpy()
        mask = tables.take("mask", token) & present[..., None]
        real, mean, std = mask.float(), tables.take("mean", token), tables.take("std", token)
        views = []
        for view, shuffle in enumerate(permuted):
            moves = gather.draw(token, generator) if shuffle else None
            values = gather.gather(part.flat, token, first, moves)
            if spread and view:
                for own in self._rescalings[number]:
                    values *= own.draw(token, spread, generator)
            views.append((values - mean) / std * real)
        targets = torch.stack(views)
        bias = tables.take("bias", token) & mask
        return Batch(targets, targets, mask, bias, present, tables.take("positions", token))


def whole_networks(part: CorpusPart, rows: slice) -> Float[Tensor, "checkpoints tokens width"]:
    """The standardised tokens of whole checkpoints; 0 in the padding."""
    values = part.flat[rows][:, part.tokens.index.flatten()].view(-1, *part.tokens.index.shape)
    return part.frame.statistics.apply(values, part.tokens.tensor) * part.tokens.mask
