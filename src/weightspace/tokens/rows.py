"""The rows of a tensor, cut into tokens and joined again: an exact inverse pair, by reshaping alone.

Works on any run of rows, so a tensor need not be in memory as a whole, and on any number of networks at once.
"""

import math

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from weightspace.tokens.layout import TensorTokens


def rows_of(flat: Shaped[Tensor, "*batch size"], block: TensorTokens) -> Shaped[Tensor, "*batch rows length"]:
    """The rows `[W | b]` of one tensor, out of flat vectors of whole networks."""
    values = flat[..., block.offset : block.offset + block.rows * block.columns]
    outer = block.columns // block.inner
    rows = values.unflatten(-1, (outer, block.rows, block.inner)).movedim(-2, -3).flatten(-2)
    if block.bias is None:
        return rows
    bias = flat[..., block.bias_offset : block.bias_offset + block.rows]
    return torch.cat([rows, bias[..., None]], dim=-1)


def put_rows(
    rows: Shaped[Tensor, "*batch rows length"], flat: Shaped[Tensor, "*batch size"], block: TensorTokens
) -> None:
    """The inverse of `rows_of`: write the rows of one tensor into flat vectors."""
    outer = block.columns // block.inner
    values = rows[..., : block.columns].unflatten(-1, (outer, block.inner)).movedim(-3, -2)
    flat[..., block.offset : block.offset + block.rows * block.columns] = values.flatten(-3)
    if block.bias is not None:
        flat[..., block.bias_offset : block.bias_offset + block.rows] = rows[..., -1]


def cut_rows(
    rows: Shaped[Tensor, "*batch rows length"], block: TensorTokens, width: int
) -> Shaped[Tensor, "*batch tokens width"]:
    """Rows as tokens; 0 in the padding. The first row must be the first of a token."""
    if block.packed == 1:
        padded = functional.pad(rows, (0, block.chunks * width - block.row_length))
        return padded.unflatten(-1, (block.chunks, width)).flatten(-3, -2)
    tokens = math.ceil(rows.shape[-2] / block.packed)
    whole = functional.pad(rows, (0, 0, 0, tokens * block.packed - rows.shape[-2]))
    joined = whole.unflatten(-2, (tokens, block.packed)).flatten(-2)
    return functional.pad(joined, (0, width - joined.shape[-1]))


def join_rows(
    tokens: Shaped[Tensor, "*batch tokens width"], block: TensorTokens, count: int
) -> Shaped[Tensor, "*batch rows length"]:
    """The inverse of `cut_rows` for `count` rows; padding is dropped."""
    if block.packed == 1:
        return tokens.unflatten(-2, (count, block.chunks)).flatten(-2)[..., : block.row_length]
    rows = tokens[..., : block.packed * block.row_length].unflatten(-1, (block.packed, block.row_length))
    return rows.flatten(-3, -2)[..., :count, :]
