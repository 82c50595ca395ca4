"""From networks to vectors: checkpoints of a zoo, or one network of any size, read window by window."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.coding import encode_part, encode_stream
from weightspace.autoencoder.network import Network
from weightspace.corpus.asking import ask_corpus, cannot_ask, make_asker
from weightspace.corpus.corpus import Corpus, opened_corpus
from weightspace.corpus.frame import Frame
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.reading import InMemory, TokenReader
from weightspace.corpus.row_responses import responses_of_rows, token_rows
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.tokens.patterns import largest_positions, positions_of
from weightspace.weights.files import StoredWeights, meta_of, on_cpu
from weightspace.weights.values import Weights, require_finite
from weightspace.zoo.addressing import naming, network_files, open_file
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.fitting import fit_weights, which_architecture
from weightspace.zoo.zoo import Zoo

Aggregation = Literal["mean", "mean+spread", "readout", "sequence"]


class Aggregator:
    """Takes the summaries of networks of one layout run by run, in order, and makes one vector of each.

    Summaries are the latents in the paper; with a linear path they are an output of their own (see `Encoded`).
    `mean` over tokens (paper, algorithm 2); `mean+spread`, mean and standard deviation over the tokens of each
    layer, side by side; `readout`, the same of the model's statistics head (ours; see
    `token_statistics`); and `sequence`, all of them in a row (paper, tables 10 to 12), the only one that is as long as
    the network. Sums are taken in float64.

    Raises:
        InputError: an unknown aggregation.
    """

    def __init__(self, network: Network, kind: str) -> None:
        if kind not in get_args(Aggregation):
            raise InputError(f"expected an aggregation among {', '.join(get_args(Aggregation))}, found '{kind}'")
        self._network, self._kind = network, kind
        self._sums: dict[int, Tensor] = {}
        self._runs: list[Tensor] = []

    def add(self, summaries: Float[Tensor, "networks tokens latent"], layers: Int[Tensor, "tokens"]) -> None:
        """Take the next tokens of every network, and which layer each is of."""
        if self._kind == "sequence":
            self._runs.append(summaries)
            return
        if self._kind == "readout":
            with torch.no_grad():
                summaries = self._network.statistics(summaries.to(self._network.device)).cpu()
        layers = torch.zeros_like(layers) if self._kind == "mean" else layers
        for layer in layers.unique(sorted=True).tolist():
            values = summaries[:, layers == layer].double()
            count = torch.full_like(values[:, 0], values.shape[1])
            sums = torch.stack([count, values.sum(1), values.square().sum(1)])
            self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums

    def result(self) -> Float[Tensor, "networks features"]:
        """One vector for every network."""
        if self._kind == "sequence":
            return torch.cat(self._runs, dim=1).flatten(1)
        columns = []
        for _, (count, total, squares) in sorted(self._sums.items()):
            mean = total / count
            spread = (squares / count - mean.square()).clamp_min(0).sqrt()
            columns += [mean] if self._kind == "mean" else [mean, spread]
        return torch.cat(columns, dim=1).float()


def mean_and_spread(
    values: Float[Tensor, "networks tokens width"], layers: Int[Tensor, "tokens"]
) -> Float[Tensor, "networks features"]:
    """Mean and standard deviation over the tokens of each layer, side by side."""
    parts = [values[:, layers == layer].double() for layer in layers.unique(sorted=True).tolist()]
    return torch.cat([moment for part in parts for moment in (part.mean(1), part.std(1, correction=0))], dim=1).float()


def representation_of(network: Network, aggregation: str) -> Representation:
    """What a model's embeddings of one aggregation are."""
    kinds = {"none": "SANE", "seen": "SANE with responses", "predicted": "SANE of predicted responses"}
    return Representation(f"{kinds[network.config.responses]} ({aggregation})", "sane")


def embed_zoo(
    network: Network, preparation: Preparation, zoo: Zoo, aggregation: str, *, ask: bool = True
) -> Embeddings:
    """One vector per checkpoint, in the order of the zoo's table; see `SANE.embed`."""
    Aggregator(network, aggregation)  # refuses an unknown one before anything is read
    asks = ask and sees_responses(network)
    refusal = cannot_ask(zoo) if asks else ""

    def parts(corpus: Corpus) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for part in corpus.parts:
            vectors = []
            for summaries in encode_part(network, part, summaries=True):
                aggregator = Aggregator(network, aggregation)
                aggregator.add(summaries, part.positions[:, 1])
                vectors.append(aggregator.result().numpy())
                advance(len(summaries))
            yield np.concatenate(vectors), part.table

    with opened_corpus(zoo, preparation) as corpus:
        if asks and not refusal:
            corpus = ask_corpus(zoo, preparation, corpus, network.device)
        with progress_bar("embedding", len(zoo)) as advance:
            vectors = rows_in_order(zoo, parts(corpus), aggregation)
    notes = (f"not asked what they do ({refusal})",) if refusal else ()
    passes = 2 * AskConfig().inputs if asks and not refusal else 0
    return Embeddings(vectors, zoo.table, representation_of(network, aggregation), notes=notes, passes=passes)


def sees_responses(network: Network) -> bool:
    """Whether a model sees what units do, so that networks are asked before they are embedded."""
    return network.config.responses == "seen"


class NetworkEmbedding(NamedTuple):
    """The embedding of one network.

    Attributes:
        vector: see `Aggregator`.
        architecture: whose layout was taken; `unknown` if none has the network's shapes.
        tokens, weights: how many tokens it has, and how many weights are in them.
        assumed: what had to be assumed, a sentence each.
        passes: forward passes that it cost, if it was asked what its units do.
    """

    vector: Float[Tensor, "features"]
    architecture: str
    tokens: int
    weights: int
    assumed: tuple[str, ...]
    passes: int = 0


class Opened(NamedTuple):
    """A network that can be read token by token.

    Attributes:
        architecture: whose layout is taken; notes: what was done to its weights, and what is to be said of it.
        heard: what the units of its tokens do, and passes: what asking it cost, if it was asked.
    """

    architecture: Architecture
    reader: TokenReader
    notes: tuple[str, ...] = ()
    heard: Float[Tensor, "tokens numbers"] | None = None
    passes: int = 0


def embed_network(
    network: Network,
    preparation: Preparation,
    weights: Mapping[str, Tensor],
    aggregation: str = "mean",
    *,
    windows: int | None = None,
    architecture: Architecture | None = None,
    askers: dict[str, Asker] | None = None,
) -> NetworkEmbedding:
    """One vector for a network of any architecture; see `SANE.embed_network`.

    `askers` keeps what asks each architecture; without it, networks are not asked.
    """
    aggregator, weights = Aggregator(network, aggregation), on_cpu(weights)
    if askers is not None and sees_responses(network):
        opened = _asked_or_not(preparation, weights, architecture, askers)
    else:
        opened = _open(preparation, weights)
    layout = opened.reader.frame.layout
    if len(layout) == 0:
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in meta_of(weights).values()})
        raise InputError(f"expected 16- or 32-bit floating-point weights in a network, found {', '.join(types)}")
    network.positions.check(largest_positions(layout))
    with progress_bar("embedding", len(layout)) as advance:
        for start, summaries in encode_stream(network, opened.reader, windows, summaries=True, heard=opened.heard):
            layers = positions_of(layout, start, start + len(summaries))[:, 1]
            aggregator.add(summaries[None], layers)
            advance(len(summaries))
    vector = aggregator.result()[0]
    if not vector.isfinite().all():
        raise InputError("expected weights of ordinary size, found some so large that their embedding is not finite")
    return NetworkEmbedding(
        vector=vector,
        architecture=opened.architecture.id,
        tokens=len(layout),
        weights=layout.size,
        assumed=(*assumptions(preparation, opened.architecture), *opened.notes),
        passes=opened.passes,
    )


def embed_files(network: Network, preparation: Preparation, paths: Sequence[Path], aggregation: str) -> Embeddings:
    """Embeddings of networks in files; see `SANE.embed_files`."""
    files, embedded, left_out, askers = [], [], {}, dict[str, Asker]()
    Aggregator(network, aggregation)  # refuses an unknown one before anything is read
    for file in [file for path in paths for file in network_files(path)]:
        try:
            with naming(file):
                weights = open_file(str(file))
                embedded.append(embed_network(network, preparation, weights, aggregation, askers=askers))
            files.append(file)
        except InputError as refusal:
            left_out[str(file)] = str(refusal)
    if not embedded:
        raise InputError(next(iter(left_out.values()), "expected networks to embed, found none"))
    if len({len(one.vector) for one in embedded}) > 1:
        raise InputError(f"expected networks with the same layers for {aggregation}, found several kinds: use mean")
    table = pd.DataFrame(
        {
            "network": [str(file) for file in files],
            "architecture": [one.architecture for one in embedded],
            "weights": [one.weights for one in embedded],
            "tokens": [one.tokens for one in embedded],
            "assumed": ["; ".join(one.assumed) for one in embedded],
        }
    )
    vectors = torch.stack([one.vector for one in embedded]).numpy()
    passes = max(one.passes for one in embedded)
    return Embeddings(vectors, table, representation_of(network, aggregation), left_out=left_out, passes=passes)


def assumptions(preparation: Preparation, architecture: Architecture) -> list[str]:
    """What had to be assumed of a network that is known by its weights only, a sentence each."""
    frame = preparation.frame_of(architecture)
    if architecture.id in preparation.architectures:
        note = f"; {frame.note}" if frame.note else ""
        return [f"taken for {architecture.id} by its names and shapes{note}"]
    sentences, layout = [frame.note], frame.layout
    if layout.source == "names":
        sentences.append("rows run along the first axis, with P.bias as last column of P.weight")
    unseen = sorted({kind for kind in layout.kinds.values() if kind not in preparation.kinds})
    if unseen and preparation.config.standardize != "none":
        sentences.append(f"kinds of layers never seen have the widest spread of all: {', '.join(unseen)}")
    if layout.carried:
        sentences.append(f"{len(layout.carried)} tensors that are no 16- or 32-bit floats are left out")
    return sentences


def _open(preparation: Preparation, weights: Mapping[str, Tensor]) -> Opened:
    """A network by its names and shapes: read from its file, or in its canonical form where it has one."""
    architecture, weights, notes = preparation.recognize(weights)
    frame = preparation.frame_of(architecture)
    names = frame.own_names(architecture)
    if frame.rescalings or frame.aligned:
        canonical = _canonical(weights, architecture, frame)
        return Opened(architecture, TokenReader(frame, names, InMemory(canonical)), notes)
    source = weights if isinstance(weights, StoredWeights) else InMemory(weights)
    return Opened(architecture, TokenReader(frame, names, source), notes)


def _asked_or_not(preparation: Preparation, weights: Mapping[str, Tensor], *how: Any) -> Opened:
    """A network that is asked what its units do; one that cannot be is opened as it is, and why is said."""
    try:
        return _asked(preparation, weights, *how)
    except InputError as refusal:
        opened = _open(preparation, weights)
        return opened._replace(notes=(*opened.notes, f"not asked what it does ({refusal})"))


def _asked(
    preparation: Preparation,
    weights: Mapping[str, Tensor],
    architecture: Architecture | None,
    askers: dict[str, Asker],
) -> Opened:
    """A network with what its units do.

    Raises:
        InputError: nobody knows what it computes, or it cannot be run.
    """
    if preparation.heard is None:
        raise ValueError("a model that sees responses has a scale for them")
    named = preparation.given if architecture is None else (architecture,)
    runs_as = which_architecture(meta_of(weights), named, list(preparation.architectures.values()))
    if runs_as.id not in askers:
        askers[runs_as.id] = make_asker(runs_as, AskConfig())
    fitted, notes = fit_weights(weights.read() if isinstance(weights, StoredWeights) else weights, runs_as)
    # What the caller names runs the network; it is laid out and aligned as one that the model knows, if it is one.
    laid_out = runs_as if runs_as.id in preparation.architectures else preparation.recognize(fitted).architecture
    asker, frame = askers[runs_as.id], preparation.frame_of(laid_out)
    canonical, names = _canonical(fitted, laid_out, frame), frame.own_names(laid_out)
    rows = responses_of_rows(asker.ask(canonical), asker, frame.layout, names)
    places = token_rows(frame.layout)
    heard = preparation.heard.of(preparation.key_of(laid_out), frame.layout).apply(rows[places], places)
    said = (*notes, f"asked with {asker.questions}")
    return Opened(laid_out, TokenReader(frame, names, InMemory(canonical)), said, heard, asker.questions.passes)


def _canonical(weights: Mapping[str, Tensor], architecture: Architecture, frame: Frame) -> Weights:
    """A whole network, aligned and in canonical scales."""
    whole: Weights = weights.read() if isinstance(weights, StoredWeights) else dict(weights)
    require_finite(whole, architecture.id)
    return frame.canonicalize(whole, architecture)
