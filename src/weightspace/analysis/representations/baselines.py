"""Representations that need no training: what every learned embedding is compared with."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.embedding import mean_and_spread
from weightspace.autoencoder.network import token_statistics
from weightspace.corpus.corpus import opened_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import whole_networks
from weightspace.tokens.patterns import entries_of
from weightspace.weights.values import Weights
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.zoo import Checkpoints, Zoo, require_finite_checkpoints

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def raw_weights(zoo: Zoo) -> Embeddings:
    """W: all floating-point weights of a checkpoint in one row, in the architecture's order, not aligned.

    Raises:
        InputError: networks of different sizes.
    """
    return represent_stacks(zoo, "W", lambda piece: torch.cat(_float_tensors(piece), dim=1))


def layer_statistics(zoo: Zoo) -> Embeddings:
    """s(W): mean, variance and the quantiles 0, 25, 50, 75, 100 % of every tensor (Unterthiner et al., 2020).

    Weights and biases are kept apart and there is no padding, unlike in the published SANE code.

    Raises:
        InputError: networks with different numbers of tensors.
    """
    return represent_stacks(
        zoo, "s(W)", lambda piece: torch.cat([_statistics(t) for t in _float_tensors(piece)], dim=1)
    )


def _statistics(values: Float[Tensor, "networks size"]) -> Float[Tensor, "networks 7"]:
    moments = torch.stack([values.mean(1), values.var(1, correction=0)], dim=1)
    quantiles = torch.from_numpy(np.quantile(values.numpy(), QUANTILES, axis=1).T.astype(np.float32))
    return torch.cat([moments, quantiles], dim=1)


def _float_tensors(piece: Checkpoints) -> list[Tensor]:
    stack: Weights = piece.stack
    floats = [stack[name] for name in piece.architecture.shapes if stack[name].is_floating_point()]
    return [tensor.reshape(len(tensor), -1).to(torch.float32) for tensor in floats if tensor[0].numel()]


def represent_stacks(zoo: Zoo, name: str, compute: Callable[[Checkpoints], Tensor]) -> Embeddings:
    """Compute rows stack by stack, and bring them into the order of the zoo's table."""

    def parts() -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for piece in zoo.stacks():
            computed = compute(piece)
            require_finite_checkpoints(computed, piece.table)
            yield computed.numpy(), piece.table

    return Embeddings(rows_in_order(zoo, parts(), name), zoo.table, Representation(name))


def aligned_weights(zoo: Zoo, preparation: Preparation) -> Embeddings:
    """Canonical weights in one row per checkpoint: W after weight matching."""
    with opened_corpus(zoo, preparation) as corpus:
        rows = rows_in_order(zoo, ((part.flat.numpy(), part.table) for part in corpus.parts), "aligned W")
    return Embeddings(rows, zoo.table, Representation("aligned W"))


def exact_token_statistics(zoo: Zoo, preparation: Preparation) -> Embeddings:
    """t(W): mean and spread, over the tokens of each layer, of the statistics that a SANE's readout learns.

    Raises:
        InputError: networks with different layers.
    """

    def parts() -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for part in corpus.parts:
            rows = []
            for flat in part.chunks():
                statistics = token_statistics(whole_networks(part, flat), entries_of(part.frame.layout))
                rows.append(mean_and_spread(statistics, part.positions[:, 1]).numpy())
            yield np.concatenate(rows), part.table

    with opened_corpus(zoo, preparation) as corpus:
        return Embeddings(rows_in_order(zoo, parts(), "t(W)"), zoo.table, Representation("t(W)"))
