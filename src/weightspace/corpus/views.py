"""Batches for pre-training: windows of tokens, drawn, permuted and made noisy on the fly.

Paper, section 3.2: two views of a window, one of the aligned network and one of a permuted version of it.
Deviations: the permutation is composed into the gather index (see `gathering`); each sample has a window and a
permutation of its own; a batch holds at most one window per member, so that no two views of one member are
taken for negatives; zoos are drawn equally often; a window longer than the network is padded and masked.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.corpus.corpus import Corpus, CorpusPart
from weightspace.corpus.gathering import window_gather
from weightspace.corpus.rescaling import rescaling_windows
from weightspace.tokens.patterns import locate_tokens
from weightspace.tokens.tokenizing import gather_tokens
from weightspace.tokens.windows import random_starts


class Views(NamedTuple):
    """How windows become the views of a batch.

    Attributes:
        permuted: one entry per view: whether its networks are permuted at random.
        noise: standard deviation of Gaussian noise on the standardised inputs.
        multiplicative: inputs are multiplied by 1 + noise instead of noise being added.
        denoise: targets are clean; otherwise the noisy inputs are.
        erase: share of the tokens whose inputs are 0.
        spread: of the logarithms of random scales, in all views but the first, where scales are canonical; what units
            do stays that of the canonical ones.
    """

    permuted: tuple[bool, ...] = (False,)
    noise: float = 0.0
    multiplicative: bool = False
    denoise: bool = True
    erase: float = 0.0
    spread: float = 0.0


PLAIN = Views()


class Batch(NamedTuple):
    """Windows of different networks, each in as many views as asked for.

    Attributes:
        targets: standardised weights; 0 in the padding.
        inputs: `targets` with noise.
        mask: which entries are real; `bias`: which of them are biases; `present`: which tokens are real.
        positions: see `TokenTable`.
        padded: whether any token is not real.
        heard: what the units of the tokens' rows do, where networks were asked; NaN where nobody knows.
    """

    targets: Float[Tensor, "views batch window width"]
    inputs: Float[Tensor, "views batch window width"]
    mask: Bool[Tensor, "batch window width"]
    bias: Bool[Tensor, "batch window width"]
    present: Bool[Tensor, "batch window"]
    positions: Int[Tensor, "batch window 4"]
    padded: bool = True
    heard: Float[Tensor, "views batch window numbers"] | None = None

    @property
    def weights(self) -> int:
        """How many real weights it shows, all views counted."""
        return int(self.mask.sum()) * len(self.targets)

    def part(self, number: int, count: int) -> "Batch":
        """The `number`-th of `count` equal parts of the windows (views of the batch's tensors)."""
        size = len(self.mask) // count
        own = slice(number * size, (number + 1) * size)

        def windows(tensor: Tensor) -> Tensor:
            return tensor[:, own] if tensor.ndim == self.targets.ndim else tensor[own]

        return self.map(windows)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """A batch of what a function makes of every tensor."""
        tensors = {name: function(value) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return Batch(**{**self._asdict(), **tensors})


class WindowSource:
    """Draws batches from a corpus; a pure function of the generator it is given.

    Args:
        corpus: what windows are drawn from.
        window: tokens in a window.
        batch_size: windows in a batch, one per member; where there are fewer members, as many as there are.
        balance: draw every zoo equally often as long as it has members left; otherwise every member.
    """

    def __init__(self, corpus: Corpus, *, window: int, batch_size: int, balance: bool = True) -> None:
        self.window = window
        self._parts = corpus.parts
        self._gathers = [window_gather(part.frame.layout, part.frame.symmetry) for part in corpus.parts]
        self._rescalings = [
            [rescaling_windows(part.frame.layout, rescaling) for rescaling in part.frame.rescalings]
            if part.frame.layout.style == "rows"
            else []
            for part in corpus.parts
        ]
        self._members = [(number, member) for number, part in enumerate(corpus.parts) for member in part.checkpoints_of]
        zoos: dict[str, list[int]] = {}
        for index, (number, member) in enumerate(self._members):
            part = corpus.parts[number]
            origin = part.origins[part.checkpoints_of[member][0]] if balance else ""
            zoos.setdefault(origin, []).append(index)
        self._zoos = [torch.tensor(places) for places in zoos.values()]
        self.batch_size = min(batch_size, len(self._members))

    def draw(self, generator: torch.Generator, views: Views = PLAIN) -> Batch:
        """A batch of one window per member; the generator decides members, epochs, windows and all that is random."""
        by_part: dict[int, list[int]] = {}
        for number in self._choose(generator):
            part, member = self._members[number]
            rows = self._parts[part].checkpoints_of[member]
            row = rows[int(torch.randint(len(rows), (), generator=generator))]
            by_part.setdefault(part, []).append(row)
        pieces = [self._draw_part(part, torch.tensor(rows), generator, views) for part, rows in by_part.items()]
        targets = torch.cat([piece.targets for piece in pieces], dim=1)
        mask, bias, present, positions = (
            torch.cat([getattr(piece, name) for piece in pieces]) for name in ("mask", "bias", "present", "positions")
        )
        inputs = _disturb(targets, mask, generator, views)
        clean = targets if views.denoise else inputs
        padded = not bool(present.all())
        heard = [piece.heard for piece in pieces if piece.heard is not None]
        known = torch.cat(heard, dim=1) if heard else None
        return Batch(clean, inputs, mask, bias, present, positions, padded, known)

    def _choose(self, generator: torch.Generator) -> list[int]:
        """Members of a batch: the first of every zoo in random order, then the second of every zoo, and so on."""
        shuffled = [places[torch.randperm(len(places), generator=generator)] for places in self._zoos]
        turn = torch.cat([torch.arange(len(places)) for places in self._zoos])
        tie = torch.rand(len(self._zoos), generator=generator, dtype=torch.float64)
        order = turn + tie.repeat_interleave(torch.tensor([len(places) for places in self._zoos]))
        return torch.cat(shuffled)[order.argsort()[: self.batch_size]].tolist()

    def _draw_part(
        self,
        number: int,
        rows: Int[Tensor, "batch"],
        generator: torch.Generator,
        how: Views,
    ) -> Batch:
        part, gather = self._parts[number], self._gathers[number]
        length = len(part.frame.layout)
        starts = random_starts(torch.full((len(rows),), length), self.window, generator)
        token = (starts[:, None] + torch.arange(self.window)).numpy()
        present = torch.from_numpy(token < length)
        token = token.clip(max=length - 1)
        positions, pattern = locate_tokens(part.frame.layout, token)
        shown = (torch.from_numpy(table.take(pattern, axis=0)) for table in part.tables)
        real, bias, mean, std = shown
        mask, first = real & present[..., None], (rows * part.flat.shape[1]).numpy()
        views, heard = [], []
        for view, shuffle in enumerate(how.permuted):
            moves = gather.draw(token, generator) if shuffle else None
            values = gather.gather(part.flat, token, first, moves)
            if how.spread and view:
                for rescaling in self._rescalings[number]:
                    values *= rescaling.draw(token, how.spread, generator)
            views.append((values - mean) / std * mask)
            if part.heard is not None:
                heard.append(part.heard.take(rows[:, None], torch.from_numpy(gather.row(token, moves))))
        targets, known = torch.stack(views), torch.stack(heard) if heard else None
        return Batch(targets, targets, mask, bias & mask, present, torch.from_numpy(positions), heard=known)


def _disturb(
    targets: Float[Tensor, "views batch window width"],
    mask: Bool[Tensor, "batch window width"],
    generator: torch.Generator,
    how: Views,
) -> Float[Tensor, "views batch window width"]:
    """Inputs with noise and erased tokens."""
    inputs = targets
    if how.noise:
        noise = how.noise * torch.randn(targets.shape, generator=generator)
        inputs = targets * (1 + noise) if how.multiplicative else targets + noise * mask
    if how.erase:
        inputs = inputs * (torch.rand(targets.shape[:3], generator=generator) >= how.erase)[..., None]
    return inputs


def whole_networks(
    part: CorpusPart, flat: Float[Tensor, "checkpoints size"]
) -> Float[Tensor, "checkpoints tokens width"]:
    """The standardised tokens of whole checkpoints of a part, given by their flat vectors; 0 in the padding."""
    return gather_tokens(part.frame.statistics.apply(flat, part.frame.layout), part.frame.layout)
