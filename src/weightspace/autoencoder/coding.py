"""Whole networks through SANE, window by window: tokens to latents, and back.

Paper, algorithm 2: long sequences are coded in haloed windows and stitched together. Deviation: the published code
codes the whole sequence in one pass, at quadratic cost and out of the trained range. This is the one place where
windows are coded: with gradients or, under `torch.no_grad`, without; from memory or from a stream.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.network import Network
from weightspace.corpus.corpus import Corpus, CorpusPart
from weightspace.corpus.reading import TokenReader
from weightspace.corpus.views import whole_networks
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import Entries, entries_of, locate_tokens, positions_of, token_patterns
from weightspace.tokens.windows import WindowCut

WINDOWS_AT_ONCE = 256
# Numbers in the tokens of a stream that are encoded at once: 16 MiB.
NUMBERS_AT_ONCE = 4 * 2**20
# Windows, and the numbers of their tokens, and which of these there are (all, if None); returns what becomes of them.
Code = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Output = Literal["latents", "summaries", "both"]


def cut_windows(length: int, window: int) -> WindowCut:
    """Windows as long as a model's, an eighth of it as halo; a single one for a sequence that is not longer."""
    halo = window // 8
    return WindowCut(length, length, 0) if length <= window else WindowCut(length, window - 2 * halo, halo)


def count_latents(network: Network, layout: TokenLayout) -> int:
    """How many latent numbers a network of this layout is decoded from; see `latent_mask`."""
    width = network.config.latent_width
    if not network.config.linear_path:
        return len(layout) * width
    weights = token_patterns(layout).mask.sum(-1)[locate_tokens(layout, np.arange(len(layout))).pattern]
    return int(weights.clip(max=width).sum())


class WindowCoder:
    """Encodes and decodes networks of one layout in haloed windows.

    Args:
        network: SANE's; results are where what is coded was.
        layout: of the networks.
        at_once: so many windows go through together, which bounds the memory.
        learned: the windows whose results have gradients, where gradients are on; all by default.
        output: what is encoded to; `both` are latents and summaries side by side, from one pass. See `Encoded`.
    """

    def __init__(
        self,
        network: Network,
        layout: TokenLayout,
        *,
        at_once: int = WINDOWS_AT_ONCE,
        learned: Int[Tensor, "windows"] | None = None,
        output: Output = "latents",
    ) -> None:
        self.network, self.layout, self.at_once, self.output = network, layout, at_once, output
        self.cut = cut_windows(len(layout), network.window)
        self.learned = torch.ones(self.cut.count, dtype=torch.bool)
        if learned is not None:
            self.learned = torch.zeros_like(self.learned).index_fill(0, learned.cpu(), True)

    def encode(
        self,
        tokens: Float[Tensor, "networks tokens width"],
        heard: Float[Tensor, "networks tokens numbers"] | None = None,
    ) -> Float[Tensor, "networks tokens latent"]:
        """Latents of whole networks, of which it may be known what their units do."""
        return self._map(tokens if heard is None else torch.cat([tokens, heard], dim=-1), self._encoder)

    def decode(self, latents: Float[Tensor, "networks tokens latent"]) -> Float[Tensor, "networks tokens width"]:
        """Tokens of whole networks' latents."""
        return self._map(latents, self._decoder)

    def stream(
        self, reader: TokenReader, heard: Float[Tensor, "tokens numbers"] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "tokens latent"]]]:
        """Latents of one network that is read as it is encoded, with the number of the first token of each run."""
        for first, count in self._runs(self.at_once):
            start, stop = self.cut.seen(first, count)
            tokens = reader.read(start, stop)[None]
            if heard is not None:
                tokens = torch.cat([tokens, heard[None, start:stop]], dim=-1)
            yield self.cut.kept(first, count)[0], self._run(tokens, start, first, count, self._encoder)[0]

    def _runs(self, at_once: int) -> Iterator[tuple[int, int]]:
        """The first window of every run, and how many windows it has."""
        for first in range(0, self.cut.count, at_once):
            yield first, min(at_once, self.cut.count - first)

    def _map(self, sequence: Tensor, coder: Callable[[int, int], Code]) -> Tensor:
        """Short networks go through several at once, a long one in several runs of windows."""
        together = max(1, self.at_once // self.cut.count)
        parts = [
            torch.cat(
                [self._run(part, 0, first, count, coder) for first, count in self._runs(self.at_once)],
                dim=1,
            )
            for part in sequence.split(together)
        ]
        return torch.cat(parts)

    def _run(self, sequence: Tensor, start: int, first: int, count: int, coder: Callable[[int, int], Code]) -> Tensor:
        """What `count` windows from the `first` keep of sequences that begin with the token `start`."""
        seen, stop = self.cut.seen(first, count)
        index, present = self.cut.index(first, count)
        code, learned = coder(seen, stop), self.learned[first : first + count]
        coded = _apply(code, sequence, start, index[learned] - seen, present[learned], seen)
        if not learned.all():
            # Windows without gradients are no part of the graph; the two kinds are put in their places again.
            with torch.no_grad():
                others = _apply(code, sequence, start, index[~learned] - seen, present[~learned], seen)
            whole = others.new_empty(len(sequence), count, *coded.shape[2:])
            whole[:, ~learned], whole[:, learned] = others, coded
            coded = whole
        return torch.stack([self.cut.merge(windows, first, count) for windows in coded])

    def _encoder(self, start: int, stop: int) -> Code:
        """What encodes windows of the tokens `start:stop`."""
        device = self.network.device
        positions = positions_of(self.layout, start, stop).to(device)
        entries = Entries(*(kind.to(device) for kind in entries_of(self.layout, start, stop)))

        def encode(windows: Tensor, place: Tensor, present: Tensor | None) -> Tensor:
            shown = Entries(*(kind[place] for kind in entries))
            tokens, heard = windows.to(device).tensor_split([self.layout.width], dim=-1)
            asked = heard if heard.shape[-1] else None
            encoded = self.network.encode(tokens, positions[place], shown, _moved(present, device), asked)
            return torch.cat(encoded, dim=-1) if self.output == "both" else getattr(encoded, self.output)

        return encode

    def _decoder(self, start: int, stop: int) -> Code:
        """What decodes windows of the tokens `start:stop`."""
        device = self.network.device
        positions = positions_of(self.layout, start, stop).to(device)
        entries = Entries(*(kind.to(device) for kind in entries_of(self.layout, start, stop)))

        def decode(windows: Tensor, place: Tensor, present: Tensor | None) -> Tensor:
            shown = Entries(*(kind[place] for kind in entries))
            return self.network.decode(windows.to(device), positions[place], shown, _moved(present, device))

        return decode


def _moved(present: Tensor | None, device: torch.device) -> Tensor | None:
    return present.to(device) if present is not None else None


def _apply(code: Code, sequence: Tensor, start: int, place: Tensor, present: Tensor, seen: int) -> Tensor:
    """Windows of every sequence, coded, `[networks, windows, span, ...]`; `place` counts from the token `seen`."""
    count = len(sequence)
    windows = sequence[:, place + (seen - start)].flatten(0, 1)
    there = None if bool(present.all()) else present.repeat(count, 1)
    coded = code(windows, place.repeat(count, 1), there)
    return coded.float().to(sequence.device).unflatten(0, (count, len(place)))


def encode_tokens(
    network: Network,
    tokens: Float[Tensor, "networks tokens width"],
    layout: TokenLayout,
    *,
    summaries: bool = False,
    heard: Float[Tensor, "networks tokens numbers"] | None = None,
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of whole networks' tokens, or summaries, without gradients; `heard` is what their units do.

    Raises:
        InputError: positions beyond the network's learned tables.
    """
    network.eval().positions.check(positions_of(layout))
    with torch.no_grad():
        return WindowCoder(network, layout, output="summaries" if summaries else "latents").encode(tokens, heard)


def decode_latents(
    network: Network, latents: Float[Tensor, "networks tokens latent"], layout: TokenLayout
) -> Float[Tensor, "networks tokens width"]:
    """Tokens of whole networks' latents, without gradients; raises as `encode_tokens`."""
    network.eval().positions.check(positions_of(layout))
    with torch.no_grad():
        return WindowCoder(network, layout).decode(latents)


def encode_stream(
    network: Network,
    reader: TokenReader,
    windows: int | None = None,
    *,
    summaries: bool = False,
    heard: Float[Tensor, "tokens numbers"] | None = None,
) -> Iterator[tuple[int, Float[Tensor, "tokens latent"]]]:
    """Latents of a network's tokens, some windows at a time, with the number of the first token."""
    layout = reader.frame.layout
    span = cut_windows(len(layout), network.eval().window).span
    at_once = windows or max(1, NUMBERS_AT_ONCE // (span * layout.width))
    coder = WindowCoder(network, layout, at_once=at_once, output="summaries" if summaries else "latents")
    with torch.no_grad():
        yield from coder.stream(reader, heard)


class Latents(NamedTuple):
    """Latents of whole checkpoints that share a layout."""

    part: CorpusPart
    values: Float[Tensor, "checkpoints tokens latent"]


def encode_corpus(network: Network, corpus: Corpus) -> Iterator[Latents]:
    """Latents of every checkpoint of a prepared corpus, one part per layout."""
    for part in corpus.parts:
        yield Latents(part, torch.cat(list(encode_part(network, part))))


def encode_part(
    network: Network, part: CorpusPart, *, summaries: bool = False
) -> Iterator[Float[Tensor, "checkpoints tokens latent"]]:
    """Latents of the checkpoints of one part, or summaries, a few at a time; of asked ones what is known goes in."""
    layout, first = part.frame.layout, 0
    for flat in part.chunks():
        heard = part.heard.whole(slice(first, first + len(flat)), layout) if part.heard is not None else None
        yield encode_tokens(network, whole_networks(part, flat), layout, summaries=summaries, heard=heard)
        first += len(flat)
