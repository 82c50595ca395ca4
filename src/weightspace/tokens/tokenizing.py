"""Weights to tokens and back: an exact inverse pair."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from weightspace.errors import InputError
from weightspace.tokens.layout import TokenLayout
from weightspace.tokens.rows import cut_rows, join_rows, put_rows, rows_of
from weightspace.weights.values import Weights, WeightsMismatch, require_shapes


class Tokens(NamedTuple):
    """The tokens of one network, and the tensors that are not tokenised.

    Attributes:
        values: padding is exactly 0.
        carried: the layout's carried tensors, as they were.
    """

    values: Float[Tensor, "tokens width"]
    carried: Weights


def flatten_weights(weights: Mapping[str, Tensor], layout: TokenLayout) -> Float[Tensor, "size"]:
    """The flat float32 vector of all tokenised weights, in the layout's order (a copy).

    Raises:
        WeightsMismatch: names or shapes differ from the layout's, or tensors it takes for tied differ.
    """
    _require(weights, layout)
    if not layout.shapes:
        return torch.zeros(0)
    return torch.cat([weights[name].detach().reshape(-1).to(torch.float32) for name in layout.shapes])


def unflatten_weights(flat: Float[Tensor, "size"], layout: TokenLayout, carried: Mapping[str, Tensor]) -> Weights:
    """The inverse of `flatten_weights`; tied tensors come back as one tensor under every name."""
    weights: Weights = {}
    for name, shape in layout.shapes.items():
        start = layout.offsets[name]
        values = flat[start : start + _count(shape)].reshape(shape)
        weights[name] = values.to(getattr(torch, layout.dtypes[name]))
    weights.update(carried)
    weights.update({alias: weights[name] for alias, name in layout.aliases.items()})
    return weights


def tokenize(weights: Mapping[str, Tensor], layout: TokenLayout) -> Tokens:
    """Cut weights into tokens of the layout's width (paper, section 3.1).

    float16, bfloat16 and float32 go through exactly; tensors of other types are carried beside the tokens.

    Raises:
        WeightsMismatch: names or shapes differ from the layout's, or tensors it takes for tied differ.
    """
    values = gather_tokens(flatten_weights(weights, layout), layout)
    return Tokens(values, {name: weights[name] for name in layout.carried})


def detokenize(tokens: Tokens, layout: TokenLayout) -> Weights:
    """The inverse of `tokenize`: bit for bit the weights it was given.

    Raises:
        ValueError: another number or width of tokens than the layout's.
    """
    return unflatten_weights(scatter_tokens(tokens.values, layout), layout, tokens.carried)


def gather_tokens(flat: Shaped[Tensor, "*batch size"], layout: TokenLayout) -> Shaped[Tensor, "*batch tokens width"]:
    """Tokens of flat vectors of whole networks; padding is 0."""
    tokens = flat.new_zeros((*flat.shape[:-1], len(layout), layout.width))
    for block in layout.blocks:
        tokens[..., block.first : block.first + block.count, :] = cut_rows(rows_of(flat, block), block, layout.width)
    return tokens


def scatter_tokens(values: Shaped[Tensor, "*batch tokens width"], layout: TokenLayout) -> Shaped[Tensor, "*batch size"]:
    """The inverse of `gather_tokens`; padding is dropped."""
    if values.shape[-2:] != (len(layout), layout.width):
        expected, found = [len(layout), layout.width], list(values.shape[-2:])
        raise ValueError(f"expected tokens of shape {expected}, found {found}")
    flat = values.new_empty((*values.shape[:-2], layout.size))
    for block in layout.blocks:
        tokens = values[..., block.first : block.first + block.count, :]
        put_rows(join_rows(tokens, block, block.rows), flat, block)
    return flat


def _require(weights: Mapping[str, Tensor], layout: TokenLayout) -> None:
    others = {name: tuple(weights[name].shape) for name in layout.carried if name in weights}
    retyped = [
        name for name, kind in layout.dtypes.items() if name in weights and weights[name].dtype != getattr(torch, kind)
    ]
    if retyped:
        found = str(weights[retyped[0]].dtype).removeprefix("torch.")
        raise InputError(f"expected {layout.dtypes[retyped[0]]} in {retyped[0]}, found {found}")
    absent = [name for name in layout.carried if name not in weights]
    if absent:
        raise WeightsMismatch(absent, [], {})
    tied = {alias: layout.shapes[name] for alias, name in layout.aliases.items() if name in layout.shapes}
    tied_carried = {alias: others[name] for alias, name in layout.aliases.items() if name in others}
    require_shapes(weights, {**layout.shapes, **others, **tied, **tied_carried})
    loose = [alias for alias, name in layout.aliases.items() if not _same(weights[alias], weights[name])]
    if loose:
        raise WeightsMismatch([f"tied {alias}" for alias in loose], [], {})


def _same(first: Tensor, second: Tensor) -> bool:
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
