"""Read runs of a network's tokens straight from its file, so that it never has to be in memory as a whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.corpus.frame import Frame
from weightspace.errors import InputError
from weightspace.tokens.layout import TensorTokens
from weightspace.tokens.rows import cut_rows


@runtime_checkable
class Parts(Protocol):
    """Tensors of which parts can be read; `StoredWeights` is one."""

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """A copy of the entries `start:stop` along an axis."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Weights in memory, as something of which parts can be read."""

    weights: Mapping[str, Tensor]

    def part(self, name: str, axis: int, start: int, stop: int) -> Tensor:
        """A view of the entries `start:stop` along an axis."""
        return torch.atleast_1d(self.weights[name]).narrow(axis, start, stop - start)


@dataclass(frozen=True, eq=False)
class TokenReader:
    """The standardised tokens of a network that is not aligned, read run by run.

    Attributes:
        frame: how it is tokenised and standardised.
        names: the frame's name of a tensor -> the network's own.
        source: where its tensors are.
    """

    frame: Frame
    names: Mapping[str, str]
    source: Parts

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.frame.layout)

    def read(self, start: int, stop: int) -> Float[Tensor, "tokens width"]:
        """The tokens `start:stop`; 0 in the padding.

        Raises:
            InputError: NaN or infinite weights; the message names the tensor.
        """
        layout = self.frame.layout
        runs = [
            self._read_block(block, max(start, block.first), min(stop, block.first + block.count))
            for block in layout.blocks
            if block.first < stop and block.first + block.count > start
        ]
        return torch.cat(runs) if runs else torch.zeros(0, layout.width)

    def _read_block(self, block: TensorTokens, start: int, stop: int) -> Float[Tensor, "tokens width"]:
        """A run of the tokens of one tensor: the rows it shows, cut."""
        first, last = start - block.first, stop - block.first
        row = first // block.chunks * block.packed
        end = min(block.rows, math.ceil(last / block.chunks) * block.packed)
        rows = self._standardized(block.name, self._rows(block, row, end))
        if block.bias is not None:
            bias = self._standardized(block.bias, self.source.part(self.names[block.bias], 0, row, end))
            rows = torch.cat([rows, bias[:, None]], dim=1)
        tokens = cut_rows(rows, block, self.frame.layout.width)
        skipped = first - row // block.packed * block.chunks
        return tokens[skipped : skipped + stop - start]

    def _rows(self, block: TensorTokens, start: int, stop: int) -> Float[Tensor, "rows columns"]:
        values = self.source.part(self.names[block.name], block.axis, start, stop)
        outer = block.columns // block.inner
        return values.reshape(outer, stop - start, block.inner).movedim(1, 0).flatten(1)

    def _standardized(self, name: str, values: Tensor) -> Tensor:
        mean, std = self._statistics[name]
        values = values.to(torch.float32)
        if not torch.isfinite(values).all():
            raise InputError(f"expected finite weights, found NaN or infinite values in {self.names[name]}")
        return (values - mean) / std

    @cached_property
    def _statistics(self) -> dict[str, tuple[float, float]]:
        own = self.frame.statistics
        return dict(zip(self.frame.layout.names, zip(own.mean, own.std, strict=True), strict=True))
