"""What tokens look like: two patterns for each tensor, however many tokens it has.

The tokens of a tensor differ only in whether they are the last of a row (or, where rows are packed, of the
tensor): so masks, biases and statistics are kept per pattern and never per token.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from weightspace.tokens.layout import TokenLayout


class TokenPatterns(NamedTuple):
    """Per pattern and entry: whether it is real, whether it is a bias, and which of the layout's tensors it is of."""

    mask: Bool[np.ndarray, "patterns width"]
    bias: Bool[np.ndarray, "patterns width"]
    tensor: Int[np.ndarray, "patterns width"]


def token_patterns(layout: TokenLayout) -> TokenPatterns:
    """The patterns of a layout: of the inner tokens and of the last ones of every tensor, in turn."""
    places = [place for block in layout.blocks for place in (block.first, block.first + block.count - 1)]
    tables = [layout.table(place, place + 1) for place in places]
    mask = torch.cat([table.mask for table in tables])
    tensor = torch.cat([table.tensor for table in tables])
    return TokenPatterns(mask.numpy(), (layout.is_bias[tensor] & mask).numpy(), tensor.numpy())


class Located(NamedTuple):
    """Where tokens are, and which pattern each has.

    Attributes:
        positions: (token in the network, layer, row in the layer, chunk in the row), all from 0.
    """

    positions: Int[np.ndarray, "*tokens 4"]
    pattern: Int[np.ndarray, "*tokens"]


def locate_tokens(layout: TokenLayout, token: Int[np.ndarray, "*tokens"]) -> Located:
    """Locate tokens by their number in the network."""
    first, count, chunks, packed = _columns(layout)
    layer = np.searchsorted(first, token, side="right") - 1
    within = token - first[layer]
    per_row = chunks[layer]
    row, chunk = np.divmod(within, per_row)
    final = np.where(packed[layer] > 1, within == count[layer] - 1, chunk == per_row - 1)
    positions = np.stack([token, layer, row * packed[layer], chunk], axis=-1)
    return Located(positions, 2 * layer + final)


class Entries(NamedTuple):
    """What the entries of tokens are: real or padding, and which of the real ones are biases."""

    mask: Bool[torch.Tensor, "*tokens width"]
    bias: Bool[torch.Tensor, "*tokens width"]


def entries_of(layout: TokenLayout, start: int = 0, stop: int | None = None) -> Entries:
    """The entries of the tokens `start:stop` of a network (all by default)."""
    patterns = token_patterns(layout)
    place = locate_tokens(layout, np.arange(start, len(layout) if stop is None else stop)).pattern
    return Entries(torch.from_numpy(patterns.mask[place]), torch.from_numpy(patterns.bias[place]))


def positions_of(layout: TokenLayout, start: int = 0, stop: int | None = None) -> Int[torch.Tensor, "tokens 4"]:
    """The positions of the tokens `start:stop` of a network (all by default)."""
    stop = len(layout) if stop is None else stop
    return torch.from_numpy(locate_tokens(layout, np.arange(start, stop)).positions)


def largest_positions(layout: TokenLayout) -> Int[torch.Tensor, "1 4"]:
    """The largest of every component of the positions in a layout that has tokens."""
    rows = max(block.rows - 1 for block in layout.blocks)
    chunks = max(block.chunks - 1 for block in layout.blocks)
    return torch.tensor([[len(layout) - 1, len(layout.blocks) - 1, rows, chunks]])


def _columns(layout: TokenLayout) -> np.ndarray:
    return np.array([[b.first, b.count, b.chunks, b.packed] for b in layout.blocks], dtype=np.int64).reshape(-1, 4).T
