"""Representations that need no training: what every learned embedding is compared with."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.autoencoder.inference import Embeddings
from weightspace.errors import InputError
from weightspace.weights.values import Weights
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
    rows, tables = [], []
    for piece in zoo.stacks():
        computed = compute(piece)
        require_finite_checkpoints(computed, piece.table)
        rows.append(computed.numpy())
        tables.append(piece.table)
    if len({part.shape[1] for part in rows}) > 1:
        raise InputError(f"expected networks of one size for {name}, found several: choose one architecture")
    table = pd.concat(tables)
    order = zoo.order_of(table)
    return Embeddings(np.concatenate(rows)[order], zoo.table, name)
