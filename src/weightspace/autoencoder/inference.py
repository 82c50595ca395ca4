"""Use a trained model: latents and embeddings of whole networks, and networks from latents.

Paper, algorithm 2: long sequences are encoded in haloed windows and stitched together. Deviation: the
published code embeds the whole sequence in one pass, at quadratic cost and out of the trained range.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import Corpus, CorpusPart, build_corpus
from weightspace.corpus.preparation import Prepared
from weightspace.corpus.views import whole_networks
from weightspace.errors import InputError
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.patterns import positions_of
from weightspace.tokens.windows import halo_index, merge_halo
from weightspace.weights import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

Aggregation = Literal["mean", "mean+spread", "readout", "sequence"]
WINDOWS_AT_ONCE = 256


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
        aggregation: `mean` over tokens (paper, algorithm 2). The others need networks with the same layers:
            `mean+spread`, mean and standard deviation over the tokens of each layer, side by side; `readout`,
            the same of the model's statistics head instead of its latents (ours; see `statistics`); and
            `sequence`, all latents in a row (paper, tables 10 to 12).

    Raises:
        InputError: an unknown aggregation, NaN weights, or networks with different layers where that matters.
    """
    if aggregation not in get_args(Aggregation):
        raise InputError(f"expected an aggregation among {', '.join(get_args(Aggregation))}, found '{aggregation}'")
    vectors, tables = [], []
    with opened_corpus(sane, zoo) as corpus:
        for part in corpus.parts:
            layers = part.positions[:, 1]
            own = [_aggregate(sane, latents, layers, aggregation) for latents in encode_part(sane, part)]
            vectors.append(torch.cat(own).numpy())
            tables.append(part.table)
    if len({part.shape[1] for part in vectors}) > 1:
        raise InputError(f"expected networks with the same layers for {aggregation}, found several kinds: use mean")
    table = pd.concat(tables)
    order = zoo.order_of(table)
    return Embeddings(np.concatenate(vectors)[order], zoo.table, f"SANE ({aggregation})", frozenset(sane.members))


def mean_and_spread(
    values: Float[Tensor, "networks tokens width"], layers: Int[Tensor, "tokens"]
) -> Float[Tensor, "networks features"]:
    """Mean and standard deviation over the tokens of each layer, side by side."""
    parts = []
    for layer in layers.unique(sorted=True).tolist():
        own = values[:, layers == layer]
        parts += [own.mean(1), own.std(1, correction=0)]
    return torch.cat(parts, dim=1)


def _aggregate(
    sane: SANE, latents: Float[Tensor, "networks tokens latent"], layers: Int[Tensor, "tokens"], aggregation: str
) -> Float[Tensor, "networks features"]:
    if aggregation == "mean":
        return latents.mean(1)
    if aggregation == "sequence":
        return latents.flatten(1)
    if aggregation == "mean+spread":
        return mean_and_spread(latents, layers)
    with torch.inference_mode():
        return mean_and_spread(sane.statistics(latents), layers).clone()


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
        yield encode_tokens(sane, whole_networks(part, flat), part.positions)


def encode_tokens(
    sane: SANE, tokens: Float[Tensor, "networks tokens width"], positions: Int[Tensor, "tokens 4"]
) -> Float[Tensor, "networks tokens latent"]:
    """Latents of whole token sequences, haloed where they are longer than the model's window."""
    return _map_windows(sane, tokens, positions, encode=True)


def decode_latents(
    sane: SANE, latents: Float[Tensor, "networks tokens latent"], positions: Int[Tensor, "tokens 4"]
) -> Float[Tensor, "networks tokens width"]:
    """Tokens of whole latent sequences, haloed likewise."""
    return _map_windows(sane, latents, positions, encode=False)


def encode_network(sane: SANE, weights: Mapping[str, Tensor]) -> tuple[Prepared, Float[Tensor, "tokens latent"]]:
    """Latents of one raw network."""
    prepared = sane.preparation.prepare(weights)
    return prepared, encode_tokens(sane, prepared.tokens[None], positions_of(prepared.frame.layout))[0]


def restore(
    sane: SANE,
    latents: Float[Tensor, "tokens latent"],
    architecture: Architecture,
    carried: Mapping[str, Tensor],
) -> Weights:
    """A whole network's weights from its latents: decode, undo the standardisation, detokenise."""
    layout: TokenLayout = sane.preparation.frame_of(architecture).layout
    tokens = decode_latents(sane, latents[None], positions_of(layout))[0]
    return sane.preparation.restore(tokens, architecture, carried)


def halo_of(window: int) -> int:
    """Tokens of context on either side of what is kept: an eighth of the window."""
    return window // 8


def _map_windows(sane: SANE, sequence: Tensor, positions: Tensor, *, encode: bool) -> Tensor:
    sane.eval()
    length, window = sequence.shape[1], sane.window
    halo = halo_of(window) if length > window else 0
    content = window - 2 * halo if length > window else length
    sane.positions.check(positions)
    index, present = halo_index(length, content, halo)
    device = next(sane.parameters()).device
    step = max(1, WINDOWS_AT_ONCE // len(index))
    results = []
    with torch.inference_mode():
        for chunk in sequence.split(step):
            windows = chunk[:, index].flatten(0, 1).to(device)
            own = positions[index].repeat(len(chunk), 1, 1).to(device)
            there = None if bool(present.all()) else present.repeat(len(chunk), 1).to(device)
            made = sane.encode(windows, own, there) if encode else sane.decode(windows, own, there)
            made = made.float().cpu().unflatten(0, (len(chunk), len(index)))
            results.append(torch.stack([merge_halo(network, length, halo) for network in made]))
    return torch.cat(results).clone()
