"""Random scales and signs of units, as factors of windows of tokens.

What a rescaling multiplies an entry by splits, as its place does (see `gathering`), into a part that its row
decides and a part that its column decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.corpus.gathering import axis_moves, slot_starts
from weightspace.errors import InputError
from weightspace.symmetry.axes import Axis
from weightspace.symmetry.rescaling import Rescaling, random_factors
from weightspace.tokens.layout import TensorTokens, TokenLayout

Factor = tuple[Tensor, Tensor]
Logs = Float[Tensor, "count units"]


@dataclass(frozen=True, eq=False)
class RescalingWindows:
    """A rescaling over the rows and columns of a layout's tensors.

    Attributes:
        rescaling: what is drawn.
        rows, biases, columns: for every row of a tensor, for its bias there, and for every entry of a run of columns
            the units that multiply it, and by which power; unused ones have power 0.
        row_of, run_of: for every token its row and its run of columns.
        bias_at: for every run of columns which entry is the bias.
    """

    rescaling: Rescaling
    rows: tuple[Int[Tensor, "_ rows"], Int[Tensor, "_ rows"]]
    biases: tuple[Int[Tensor, "_ rows"], Int[Tensor, "_ rows"]]
    columns: tuple[Int[Tensor, "_ runs width"], Int[Tensor, "_ runs width"]]
    row_of: Int[Tensor, "tokens"]
    run_of: Int[Tensor, "tokens"]
    bias_at: Float[Tensor, "runs width"]

    def draw(
        self, token: Int[np.ndarray, "count window"], spread: float, generator: torch.Generator
    ) -> Float[Tensor, "count window width"]:
        """Factors of windows, each of a network with scales (or signs) of its own."""
        factors = random_factors(self.rescaling, len(token), generator, spread=spread)
        drawn = torch.cat(list(factors.values()), dim=1).float()
        # A sign is counted in half turns, so that it adds up as logarithms do.
        logs = (drawn < 0).float() if self.rescaling.kind == "sign" else drawn.log()
        shown = torch.from_numpy(token)
        row, run = self.row_of[shown], self.run_of[shown]
        bias = self.bias_at[run]
        by_row = (_sum(logs, self.rows, row)[..., None], _sum(logs, self.biases, row)[..., None])
        total = (1 - bias) * (by_row[0] + _sum(logs, self.columns, run)) + bias * by_row[1]
        return 1 - 2 * total.round().remainder(2) if self.rescaling.kind == "sign" else total.exp()


def rescaling_windows(layout: TokenLayout, rescaling: Rescaling) -> RescalingWindows:
    """Tabulate a rescaling over a layout.

    Raises:
        InputError: tokens that hold several rows.
    """
    if layout.style != "rows":
        raise InputError(f"expected the token style rows for rescaled views, found {layout.style}")
    starts = slot_starts(rescaling.groups)
    tables: list[tuple[list[Factor], ...]] = []
    row_of, run_of, bias_at = [], [], []
    count = runs = 0
    for block in layout.blocks:
        token = torch.arange(block.count)
        row_of.append(count + token // block.chunks)
        run_of.append(runs + token % block.chunks)
        count, runs = count + block.rows, runs + block.chunks
        tables.append(_tables(layout, block, rescaling, starts))
        is_bias = torch.zeros(block.chunks * layout.width)
        if block.bias is not None:
            is_bias[block.columns] = 1
        bias_at.append(is_bias.view(block.chunks, layout.width))
    rows, biases, columns = (_joined(list(table)) for table in zip(*tables, strict=True))
    return RescalingWindows(
        rescaling=rescaling,
        rows=rows,
        biases=biases,
        columns=columns,
        row_of=torch.cat(row_of),
        run_of=torch.cat(run_of),
        bias_at=torch.cat(bias_at),
    )


def _tables(
    layout: TokenLayout, block: TensorTokens, rescaling: Rescaling, starts: Mapping[str, int]
) -> tuple[list[Factor], ...]:
    """What multiplies the rows, their biases, and the columns of one tensor: (units, powers) of every factor."""
    shape = layout.shapes[block.name]
    rows: list[Factor] = [_nothing((block.rows,))]
    biases, columns = list(rows), [_nothing((block.chunks, layout.width))]
    column = torch.arange(block.columns)
    entry = block.place(0, column)
    for attached in rescaling.places:
        if attached.tensor == block.bias:
            biases += _units(attached.axis, starts, attached.exponent)
        if attached.tensor != block.name:
            continue
        inner = math.prod(shape[attached.number + 1 :])
        if attached.number == block.axis:
            rows += _units(attached.axis, starts, attached.exponent)
        else:
            along = entry // inner % shape[attached.number]
            for units, powers in _units(attached.axis, starts, attached.exponent):
                padded = [torch.zeros(block.chunks * layout.width, dtype=torch.int64) for _ in range(2)]
                padded[0][: block.columns], padded[1][: block.columns] = units[along], powers[along]
                columns.append((padded[0].view(block.chunks, -1), padded[1].view(block.chunks, -1)))
    return rows, biases, columns


def _units(axis: Axis, starts: Mapping[str, int], exponent: int) -> list[Factor]:
    """For every factor of an axis the unit that multiplies each entry, and the power."""
    moves = axis_moves(axis, starts)
    units, moving = torch.from_numpy(moves.slots), torch.from_numpy(moves.strides) > 0
    return list(zip(units, exponent * moving.long(), strict=True))


def _nothing(shape: tuple[int, ...]) -> Factor:
    return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)


def _joined(tables: list[list[Factor]]) -> Factor:
    """Tables of all tensors one after the other, as deep as the deepest."""
    depth = max(len(own) for own in tables)
    filled = [own + [_nothing(tuple(own[0][0].shape)) for _ in range(depth - len(own))] for own in tables]
    units, powers = (
        torch.stack([torch.cat([own[factor][part] for own in filled]) for factor in range(depth)]) for part in range(2)
    )
    return units, powers


def _sum(logs: Logs, table: Factor, chosen: Int[Tensor, "count window"]) -> Tensor:
    """The logarithm of what multiplies rows, or runs of columns, in each network."""
    network = torch.arange(len(chosen)).view(-1, *[1] * (table[0].ndim - 1))
    total = torch.zeros(())
    for units, powers in zip(*table, strict=True):
        unit = units[chosen]
        total = total + powers[chosen] * logs[network, unit]
    return total
