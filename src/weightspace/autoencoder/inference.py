"""Use a trained model: latents and embeddings of whole networks, and networks from latents.

Paper, algorithm 2: long sequences are encoded in haloed windows and stitched together. Deviation: the
published code embeds the whole sequence in one pass, at quadratic cost and out of the trained range.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.autoencoder.aggregating import Aggregator
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import Corpus, CorpusPart, build_corpus
from weightspace.corpus.preparation import Prepared
from weightspace.corpus.views import whole_networks
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import Entries, entries_of, positions_of
from weightspace.tokens.windows import WindowCut
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

WINDOWS_AT_ONCE = 256
# Windows of a sequence, the places of their tokens in it, and which are there; returns what becomes of them.
Coder = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector per checkpoint, with the checkpoints' rows of the zoo's table.

    Attributes:
        features: in the order of `table`.
        representation: what the vectors are, for tables.
        trained_on: members that whatever made the vectors was trained on.
    """

    features: Float[np.ndarray, "checkpoints features"]
    table: pd.DataFrame
    representation: str
    trained_on: frozenset[str] = frozenset()

    def forgetting(self) -> "Embeddings":
        """The same without a record of what they were trained on, so that no probe refuses."""
        return replace(self, trained_on=frozenset())

    def to_table(self) -> pd.DataFrame:
        """The zoo's table with the vectors as columns `z0, z1, ...`."""
        columns = [f"z{number}" for number in range(self.features.shape[1])]
        vectors = pd.DataFrame(self.features, columns=columns, index=self.table.index)
        return pd.concat([self.table, vectors], axis=1)


class Latents(NamedTuple):
    """Latents of whole checkpoints that share a layout."""

    part: CorpusPart
    values: Float[Tensor, "checkpoints tokens latent"]


def embed(sane: SANE, zoo: Zoo, aggregation: str = "mean") -> Embeddings:
    """One vector per checkpoint of a zoo.

    Args:
        sane: a trained model.
        zoo: raw checkpoints; aligned, standardised and tokenised as the model's preparation says.
        aggregation: see `Aggregator`; all but `mean` need networks with the same layers.

    Raises:
        InputError: an unknown aggregation, NaN weights, or networks with different layers where that matters.
    """
    Aggregator(sane, aggregation)
    vectors, tables = [], []
    with opened_corpus(sane, zoo) as corpus, progress_bar("embedding", len(zoo)) as advance:
        for part in corpus.parts:
            for latents in encode_part(sane, part):
                aggregator = Aggregator(sane, aggregation)
                aggregator.add(latents, part.positions[:, 1])
                vectors.append(aggregator.result().numpy())
                advance(len(latents))
            tables.append(part.table)
    if len({part.shape[1] for part in vectors}) > 1:
        raise InputError(f"expected networks with the same layers for {aggregation}, found several kinds: use mean")
    table = pd.concat(tables)
    order = zoo.order_of(table)
    return Embeddings(np.concatenate(vectors)[order], zoo.table, f"SANE ({aggregation})", sane.trained_on(zoo))


def encode_zoo(sane: SANE, zoo: Zoo) -> Iterator[Latents]:
    """Latents of every checkpoint, one part per layout."""
    with opened_corpus(sane, zoo) as corpus:
        yield from encode_corpus(sane, corpus)


@contextlib.contextmanager
def opened_corpus(sane: SANE, zoo: Zoo) -> Iterator[Corpus]:
    """The corpus of a zoo, prepared as the model was trained, while it is in use."""
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        yield build_corpus(zoo, sane.preparation, Path(folder))


def encode_corpus(sane: SANE, corpus: Corpus) -> Iterator[Latents]:
    """Latents of every checkpoint of a prepared corpus."""
    for part in corpus.parts:
        yield Latents(part, torch.cat(list(encode_part(sane, part))))


def encode_part(sane: SANE, part: CorpusPart) -> Iterator[Float[Tensor, "checkpoints tokens latent"]]:
    """Latents of the checkpoints of one part, a few at a time."""
    for flat in part.chunks():
        yield encode_tokens(sane, whole_networks(part, flat), part.frame.layout)


def encode_tokens(
    sane: SANE, tokens: Float[Tensor, "networks tokens width"], layout: TokenLayout
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of whole networks' tokens, haloed where there are more than the model's window."""
    positions, entries = positions_of(layout), entries_of(layout)
    sane.positions.check(positions)

    def encode(windows: Tensor, index: Tensor, present: Tensor) -> Tensor:
        return encode_windows(sane, windows, positions[index], Entries(*(own[index] for own in entries)), present)

    return _map_windows(sane, encode, tokens)


def decode_latents(
    sane: SANE, latents: Float[Tensor, "networks tokens latent"], layout: TokenLayout
) -> Float[Tensor, "networks tokens width"]:
    """Tokens of whole networks' latents, haloed likewise."""
    positions = positions_of(layout)
    sane.positions.check(positions)

    def decode(windows: Tensor, index: Tensor, present: Tensor) -> Tensor:
        return _apply(sane, sane.decode, windows, positions[index], present=present)

    return _map_windows(sane, decode, latents)


def encode_network(sane: SANE, weights: Mapping[str, Tensor]) -> tuple[Prepared, Float[Tensor, "tokens latent"]]:
    """Latents of one raw network."""
    prepared = sane.preparation.prepare(weights)
    return prepared, encode_tokens(sane, prepared.tokens[None], prepared.frame.layout)[0]


def restore(
    sane: SANE,
    latents: Float[Tensor, "tokens latent"],
    architecture: Architecture,
    carried: Mapping[str, Tensor],
) -> Weights:
    """A whole network's weights from its latents: decode, undo the standardisation, detokenise."""
    layout: TokenLayout = sane.preparation.frame_of(architecture).layout
    tokens = decode_latents(sane, latents[None], layout)[0]
    return sane.preparation.restore(tokens, architecture, carried)


def halo_of(window: int) -> int:
    """Tokens of context on either side of what is kept: an eighth of the window."""
    return window // 8


def cut_windows(length: int, window: int) -> WindowCut:
    """Windows as long as a model's, or a single one for a sequence that is not longer."""
    if length <= window:
        return WindowCut(length, length, 0)
    return WindowCut(length, window - 2 * halo_of(window), halo_of(window))


def encode_windows(
    sane: SANE,
    tokens: Float[Tensor, "windows span width"],
    positions: Int[Tensor, "windows span 4"],
    entries: Entries,
    present: Bool[Tensor, "windows span"],
) -> Float[Tensor, "windows span latent"]:
    """Latents of windows, on the CPU."""
    there = Entries(*(own.to(sane.token_in.weight.device) for own in entries))
    return _apply(sane, sane.encode, tokens, positions, there, present=present)


def _apply(sane: SANE, function: Callable[..., Tensor], *arguments: Any, present: Tensor) -> Tensor:
    """Encode or decode windows where the model is."""
    sane.eval()
    device = sane.token_in.weight.device
    there = None if bool(present.all()) else present.to(device)
    moved = [own.to(device) if isinstance(own, Tensor) else own for own in arguments]
    with torch.inference_mode():
        return function(*moved, present=there).float().cpu()


def _map_windows(sane: SANE, code: Coder, sequence: Tensor) -> Tensor:
    """Encode or decode whole sequences of networks, some windows at a time."""
    cut = cut_windows(sequence.shape[1], sane.window)
    networks = max(1, WINDOWS_AT_ONCE // cut.count)
    at_once = min(cut.count, WINDOWS_AT_ONCE)
    results = []
    for chunk in sequence.split(networks):
        runs = []
        for first in range(0, cut.count, at_once):
            count = min(at_once, cut.count - first)
            index, present = cut.index(first, count)
            made = code(chunk[:, index].flatten(0, 1), index.repeat(len(chunk), 1), present.repeat(len(chunk), 1))
            runs.append(torch.stack([cut.merge(one, first, count) for one in made.unflatten(0, (len(chunk), count))]))
        results.append(torch.cat(runs, dim=1))
    return torch.cat(results).clone()
