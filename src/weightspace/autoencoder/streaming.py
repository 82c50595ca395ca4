"""Embed one network of any size: its tokens are read, encoded and forgotten window by window."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.aggregating import Aggregator
from weightspace.autoencoder.inference import Embeddings, cut_windows, encode_windows
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.preparation import Frame, Preparation
from weightspace.corpus.reading import InMemory, TokenReader
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.tokens.patterns import Entries, entries_of, largest_positions, positions_of
from weightspace.weights.files import StoredWeights, meta_of, open_weights
from weightspace.weights.values import Weights, require_finite
from weightspace.zoo.addressing import naming, network_files
from weightspace.zoo.architecture import Architecture

# Numbers in the tokens that are encoded at once: 16 MiB.
NUMBERS_AT_ONCE = 4 * 2**20


class NetworkEmbedding(NamedTuple):
    """The embedding of one network.

    Attributes:
        vector: see `Aggregator`.
        architecture: whose layout was taken; `unknown` if none has the network's shapes.
        tokens, weights: how many tokens it has, and how many weights are in them.
        assumed: what had to be assumed, a sentence each.
    """

    vector: Float[Tensor, "features"]
    architecture: str
    tokens: int
    weights: int
    assumed: tuple[str, ...]


def embed_network(
    sane: SANE, weights: Mapping[str, Tensor], aggregation: str = "mean", *, windows: int | None = None
) -> NetworkEmbedding:
    """One vector for a network, of an architecture that the model was trained on or of any other.

    A network that is aligned is in memory as a whole, as matching looks at all of it. Any other is read from
    its file as it is encoded: memory does not grow with its size, only with its longest row (of a torch file, what
    was read stays mapped).

    Args:
        sane: a trained model.
        weights: raw weights; `open_weights(path)` reads them as they are needed.
        aggregation: see `Aggregator`.
        windows: how many are encoded at once; by default as many as 16 MiB of tokens. The result does not
            depend on it beyond rounding.

    Raises:
        InputError: an unknown aggregation, no 16- or 32-bit floats, NaN or infinite weights, positions beyond
            learned tables.
    """
    aggregator = Aggregator(sane, aggregation)
    meta = meta_of(weights)
    architecture = sane.preparation.architecture_for(meta)
    frame = sane.preparation.frame_of(architecture)
    if len(frame.layout) == 0:
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in meta.values()})
        raise InputError(f"expected 16- or 32-bit floating-point weights in a network, found {', '.join(types)}")
    sane.positions.check(largest_positions(frame.layout))
    reader = _open(sane, weights, architecture, frame)
    with progress_bar("embedding", len(reader)) as advance:
        for start, latents in encode_stream(sane, reader, windows):
            layers = positions_of(frame.layout, start, start + len(latents))[:, 1]
            aggregator.add(latents[None], layers)
            advance(len(latents))
    vector = aggregator.result()[0]
    if not vector.isfinite().all():
        raise InputError("expected weights of ordinary size, found some so large that their embedding is not finite")
    return NetworkEmbedding(
        vector=vector,
        architecture=architecture.id,
        tokens=len(reader),
        weights=frame.layout.size,
        assumed=tuple(assumptions(sane.preparation, architecture)),
    )


def embed_files(sane: SANE, paths: Sequence[Path], aggregation: str = "mean") -> Embeddings:
    """Embeddings of networks in files: a row of the table for each, with what was assumed of it.

    Args:
        sane: a trained model.
        paths: weight files, folders with one model, or folders of such files.
        aggregation: see `Aggregator`; all but `mean` need networks with the same layers.

    Raises:
        InputError: no networks there, or of different layers where that matters.
    """
    files = [file for path in paths for file in network_files(path)]
    found = [_embed_file(sane, file, aggregation) for file in files]
    if len({len(own.vector) for own in found}) > 1:
        raise InputError(f"expected networks with the same layers for {aggregation}, found several kinds: use mean")
    table = pd.DataFrame(
        {
            "network": [str(file) for file in files],
            "architecture": [own.architecture for own in found],
            "weights": [own.weights for own in found],
            "tokens": [own.tokens for own in found],
            "assumed": ["; ".join(own.assumed) for own in found],
        }
    )
    return Embeddings(torch.stack([own.vector for own in found]).numpy(), table, f"SANE ({aggregation})")


def _embed_file(sane: SANE, file: Path, aggregation: str) -> NetworkEmbedding:
    """`embed_network` of a file, which a refusal names."""
    with naming(file):
        return embed_network(sane, open_weights(file), aggregation)


def encode_stream(
    sane: SANE, reader: TokenReader, windows: int | None = None
) -> Iterator[tuple[int, Float[Tensor, "tokens latent"]]]:
    """Latents of a network's tokens, some windows at a time, with the number of the first token."""
    cut = cut_windows(len(reader), sane.window)
    at_once = windows or max(1, NUMBERS_AT_ONCE // (cut.span * reader.frame.layout.width))
    for first in range(0, cut.count, at_once):
        count = min(at_once, cut.count - first)
        start, stop = cut.seen(first, count)
        index, present = cut.index(first, count)
        positions = positions_of(reader.frame.layout, start, stop)
        own, tokens = index - start, reader.read(start, stop)
        entries = Entries(*(kind[own] for kind in entries_of(reader.frame.layout, start, stop)))
        encoded = encode_windows(sane, tokens[own], positions[own], entries, present)
        yield cut.kept(first, count)[0], cut.merge(encoded, first, count)


def assumptions(preparation: Preparation, architecture: Architecture) -> list[str]:
    """What had to be assumed of a network that is known by its weights only, a sentence each."""
    frame = preparation.frame_of(architecture)
    if architecture.id in preparation.architectures:
        note = f"; {frame.note}" if frame.note else ""
        return [f"taken for {architecture.id} by its names and shapes{note}"]
    found, layout = [frame.note], frame.layout
    if layout.source == "names":
        found.append("rows run along the first axis, with P.bias as last column of P.weight")
    unseen = sorted({kind for kind in layout.kinds.values() if kind not in preparation.kinds})
    if unseen and preparation.config.standardize != "none":
        found.append(f"kinds of layers never seen have the widest spread of all: {', '.join(unseen)}")
    if layout.carried:
        found.append(f"{len(layout.carried)} tensors that are no 16- or 32-bit floats are left out")
    return found


def _open(sane: SANE, weights: Mapping[str, Tensor], architecture: Architecture, frame: Frame) -> TokenReader:
    """A reader of the network's tokens: of its file, or of its canonical form where it is aligned."""
    names = dict(zip(frame.names, architecture.shapes, strict=True))
    canonical = bool(frame.rescalings) or (frame.symmetry is not None and frame.reference is not None)
    if canonical:
        whole: Weights = weights.read() if isinstance(weights, StoredWeights) else dict(weights)
        require_finite(whole, architecture.id)
        return TokenReader(frame, names, InMemory(frame.canonicalize(whole, architecture)))
    return TokenReader(frame, names, weights if isinstance(weights, StoredWeights) else InMemory(weights))
