"""What the units do whose rows are tokens: numbers that stand beside every row, and move with it.

A row of a layer's weights makes one unit. What that unit does when its network is asked (see `responses`) is known
without labels and without data, and is permuted as its row is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.responses.asking import Asker, Responses
from weightspace.responses.observing import PRODUCTS, Place
from weightspace.responses.summarizing import OUTPUT_STATISTICS, UNIT_STATISTICS
from weightspace.tokens.layout import TensorTokens, TokenLayout
from weightspace.tokens.patterns import locate_tokens

# Of white and of smooth noise; where inputs are of one kind, its numbers stand for both.
KINDS = 2
OF_UNITS = KINDS * len(UNIT_STATISTICS)
ROW_NUMBERS = OF_UNITS + KINDS * len(OUTPUT_STATISTICS)
# Operations of recurrent layers: so many rows of gates for every unit, and the parameters of a single layer.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
OF_ONE_LAYER = 4
# Numbers that are asinh of something may lie far from everyone's: in spreads.
FARTHEST = 4.0
SMALLEST_SPREAD = 1e-3
CHUNK = 2**20


class Spread(NamedTuple):
    """Mean and standard deviation of every number."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class RowScale(NamedTuple):
    """Mean and standard deviation of every number of every row of a network."""

    mean: Float[Tensor, "rows numbers"]
    std: Float[Tensor, "rows numbers"]

    def apply(self, values: Float[Tensor, "... numbers"], rows: Int[Tensor, "..."]) -> Tensor:
        """Standardise numbers of these rows, within 4 standard deviations; NaN, what nobody knows, stays."""
        return FARTHEST * ((values - self.mean[rows]) / (FARTHEST * self.std[rows])).tanh()


@dataclass(frozen=True)
class ResponseScale:
    """What the responses of a zoo's networks are standardised with, layer by layer, as weights are.

    Attributes:
        layers: by the key of a frame, of the rows of every tensor; pooled: of all rows, for tensors never seen.
    """

    layers: Mapping[str, tuple[Spread, ...]]
    pooled: Spread

    def of(self, key: str, layout: TokenLayout) -> RowScale:
        """The scale of every row of networks of a frame."""
        spreads = self.layers.get(key, (self.pooled,) * len(layout.blocks))
        counts = torch.tensor([block.rows for block in layout.blocks])
        mean, std = (torch.tensor(values) for values in zip(*spreads, strict=True))
        return RowScale(mean.repeat_interleave(counts, 0), std.repeat_interleave(counts, 0))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `ResponseScale.from_json` turns back into an equal scale."""
        return {"layers": self.layers, "pooled": self.pooled}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ResponseScale":
        """The inverse of `to_json`."""

        def spread(pair: Sequence[Sequence[float]]) -> Spread:
            return Spread(*(tuple(values) for values in pair))

        layers = {key: tuple(map(spread, own)) for key, own in value["layers"].items()}
        return cls(layers, spread(value["pooled"]))


@dataclass(frozen=True, eq=False)
class RowResponses:
    """What the units of all checkpoints of a part of a corpus do.

    Attributes:
        path: the file; values: what is in it, memory-mapped; NaN where nobody knows.
        scale: what they are standardised with.
    """

    path: Path
    values: Float[Tensor, "checkpoints rows numbers"]
    scale: RowScale | None = None

    def take(
        self, networks: Int[Tensor, "count 1"], rows: Int[Tensor, "count rows"]
    ) -> Float[Tensor, "count rows numbers"]:
        """Standardised numbers of rows of networks."""
        return self._scaled(self.values[networks, rows], rows)

    def whole(self, networks: slice | Tensor, layout: TokenLayout) -> Float[Tensor, "networks tokens numbers"]:
        """Standardised numbers of all tokens of networks."""
        rows = token_rows(layout)
        return self._scaled(self.values[networks][:, rows], rows)

    def _scaled(self, values: Tensor, rows: Tensor) -> Tensor:
        return self.scale.apply(values, rows) if self.scale is not None else values


def count_rows(layout: TokenLayout) -> int:
    """How many rows all tensors of a layout have."""
    return sum(block.rows for block in layout.blocks)


def token_rows(layout: TokenLayout) -> Int[Tensor, "tokens"]:
    """The row that every token shows, or the first of them, all tensors' rows being numbered in turn."""
    before = np.cumsum([0, *(block.rows for block in layout.blocks)])
    positions = locate_tokens(layout, np.arange(len(layout))).positions
    return torch.from_numpy(before[positions[:, 1]] + positions[:, 2])


def responses_of_rows(
    responses: Responses, asker: Asker, layout: TokenLayout, names: Mapping[str, str]
) -> Float[Tensor, "rows numbers"]:
    """What the unit of every row does, and what the outputs do that it writes; NaN where neither is known.

    Args:
        responses: of one network.
        asker: who asked it.
        layout: of its tokens.
        names: the layout's name of a tensor -> the network's own.
    """
    units = dict(zip(asker.places, responses.units.values(), strict=True))
    table = torch.full((count_rows(layout), ROW_NUMBERS), torch.nan)
    first = 0
    for block in layout.blocks:
        rows = table[first : first + block.rows]
        tensors = {names[block.name], *(names[alias] for alias, name in layout.aliases.items() if name == block.name)}
        heard = [place for place in asker.places if tensors & {*place.parameters} and _writes(block, place)]
        if heard:
            written = torch.stack([units[place].repeat(block.rows // place.units, 1) for place in heard]).mean(0)
            rows[:, :OF_UNITS] = _of_both_kinds(written, OF_UNITS)
        answers = [
            outputs
            for outputs, writers in zip(responses.outputs, asker.answering, strict=True)
            if any(place in heard for place in writers)
        ]
        if answers:
            rows[:, OF_UNITS:] = _of_both_kinds(torch.stack(answers).mean(0), ROW_NUMBERS - OF_UNITS)
        first += block.rows
    return table


def _writes(block: TensorTokens, place: Place) -> bool:
    """Whether rows of a tensor are units of a place: one row for each, or one for every gate of each.

    Where sizes cannot tell it, nothing is known: of embeddings, whose rows are no units, of square matrices
    in products, and of stacked recurrent layers, whose last one alone is observed.
    """
    if block.kind == "embedding" and block.rows != block.columns and block.rows == place.units:
        return True  # tied to the layer that writes a score for each of its rows
    if block.kind == "embedding" or (place.operation in PRODUCTS and block.rows == block.columns):
        return False
    gates = GATES.get(place.operation)
    if gates is None:
        return block.rows == place.units
    return len(place.parameters) <= OF_ONE_LAYER and block.rows == gates * place.units


def _of_both_kinds(values: Float[Tensor, "*rows some"], count: int) -> Float[Tensor, "*rows numbers"]:
    return values.repeat(*(1 for _ in values.shape[:-1]), count // values.shape[-1])


def fit_scale(parts: Mapping[str, tuple[RowResponses, TokenLayout]]) -> ResponseScale:
    """Mean and standard deviation of every number, over the rows of every tensor of which it is known, and over all.

    Args:
        parts: what units do, and the layout of their networks, by the key of the frame.
    """
    layers, whole = {}, torch.zeros(3, ROW_NUMBERS, dtype=torch.float64)
    for key, (heard, layout) in parts.items():
        rows = torch.zeros(3, count_rows(layout), ROW_NUMBERS, dtype=torch.float64)
        for values in heard.values.split(max(1, CHUNK // rows[0].numel())):
            there, numbers = ~values.isnan(), values.nan_to_num().double()
            rows += torch.stack([there.sum(0), numbers.sum(0), numbers.square().sum(0)])
        sums = [each.sum(1) for each in rows.split([block.rows for block in layout.blocks], dim=1)]
        layers[key] = tuple(map(_spread, sums))
        whole += torch.stack(sums).sum(0)
    return ResponseScale(layers, _spread(whole))


def _spread(sums: Float[Tensor, "3 numbers"]) -> Spread:
    count = sums[0].clamp_min(1)
    mean = sums[1] / count
    std = (sums[2] / count - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST_SPREAD)
    return Spread(tuple(mean.tolist()), tuple(std.tolist()))
