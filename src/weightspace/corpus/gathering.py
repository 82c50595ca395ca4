"""Gather indices of token windows, of networks as they are and of permuted ones.

A token is a run of one tensor's row, so where an entry lies splits into a part that only its row decides and a
part that only its column decides; a permutation moves the two parts independently. A permuted window therefore
costs one look-up per token, one per column of the tensors it shows, and the addition of both; nothing is
copied and nothing is kept (the published code writes 200 permuted copies of every window to disk).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.symmetry.axes import Axis, Symmetry
from weightspace.symmetry.blocks import blocks_of
from weightspace.tokens.layout import Block, TokenLayout


@dataclass(frozen=True, eq=False)
class _Moves:
    """How far every entry of an axis goes: by the sum of `strides * moves[slots]`; unused ones have stride 0."""

    slots: Int[Tensor, "size factors"]
    strides: Int[Tensor, "size factors"]


@dataclass(frozen=True, eq=False)
class PermutedGather:
    """A symmetry in the form that permutes the gather indices of a layout's tokens.

    Attributes:
        groups: the size of every group; their entries are numbered one group after the other as `slots`.
        rows: for every row of every tensor its number in the tensor, and how a permutation moves it.
        row_of, columns_of: for every token its (first) row, and its run of columns.
        columns: for every run of columns where its entries lie in row 0, and how a permutation moves them.
        row_stride: how far apart in the flat vector two rows of an entry are.
        row_within: in a token of several rows, which of them an entry is in; None if no token has several.
        size: the length of the flat vector.
    """

    size: int
    groups: tuple[int, ...]
    rows: Int[Tensor, "rows"]
    row_moves: _Moves
    row_of: Int[Tensor, "tokens"]
    columns_of: Int[Tensor, "tokens"]
    columns: Int[Tensor, "runs width"]
    column_moves: _Moves
    row_stride: Int[Tensor, "runs width"]
    row_within: Int[Tensor, "runs width"] | None

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, "count slots"]:
        """How far every entry of every group moves, under `count` random permutations."""
        parts = []
        for size in self.groups:
            permutation = torch.rand(count, size, generator=generator).argsort(1)
            parts.append(permutation - torch.arange(size))
        return torch.cat(parts, dim=1) if parts else torch.zeros(count, 1, dtype=torch.int64)

    def apply(
        self, token: Int[Tensor, "count window"], moves: Int[Tensor, "count slots"]
    ) -> Int[Tensor, "count window width"]:
        """Gather indices of the windows of permuted networks; anything within the vector where there is padding."""
        run = self.columns_of[token]
        index = self._columns(run, moves)
        row = self._rows(token, run, moves)
        index.addcmul_(self.row_stride[run], row)
        # The last token of a tensor may have room for rows that the tensor lacks.
        return index if self.row_within is None else index.clamp_max_(self.size - 1)

    def _columns(self, run: Int[Tensor, "count window"], moves: Tensor) -> Tensor:
        """Where the columns of every token lie in row 0: computed once per network and run of columns."""
        count, runs = len(run), len(self.columns)
        key = run + runs * torch.arange(count)[:, None]
        used = torch.zeros(count * runs, dtype=torch.bool)
        used[key] = True
        pairs = used.nonzero()[:, 0]
        network, own = pairs // runs, pairs % runs
        found = self.columns[own]
        width = found.shape[1]
        slots, strides = (part.view(runs, width, -1) for part in (self.column_moves.slots, self.column_moves.strides))
        first = network[:, None] * moves.shape[1]
        for factor in range(slots.shape[2]):
            found += strides[own, :, factor] * moves.view(-1)[first + slots[own, :, factor]]
        return found[(used.cumsum(0) - 1)[key]]

    def _rows(self, token: Tensor, run: Tensor, moves: Tensor) -> Tensor:
        """The row of every entry in the permuted network, one for a token where it has one row."""
        row = self.row_of[token][..., None]
        if self.row_within is not None:
            row = (row + self.row_within[run]).clamp_max(len(self.rows) - 1)
        moved = self.rows[row]
        first = (torch.arange(len(token)) * moves.shape[1])[:, None, None]
        for factor in range(self.row_moves.slots.shape[1]):
            slot = self.row_moves.slots[:, factor][row]
            moved = moved + self.row_moves.strides[:, factor][row] * moves.view(-1)[first + slot]
        return moved


def permuted_gather(layout: TokenLayout, symmetry: Symmetry) -> PermutedGather:
    """Tabulate a symmetry over the rows and columns of a layout's tensors."""
    starts, first = {}, 0
    for group, size in symmetry.groups.items():
        starts[group], first = first, first + size
    plans = [_Plan(layout, block, symmetry.axes[block.name], starts) for block in layout.blocks]
    row_of, columns_of, rows, runs = [], [], 0, 0
    for plan in plans:
        token = torch.arange(plan.block.count)
        row_of.append(rows + token // plan.block.chunks * plan.block.packed)
        columns_of.append(runs + token % plan.block.chunks)
        rows, runs = rows + plan.block.rows, runs + plan.block.chunks
    packed = any(block.packed > 1 for block in layout.blocks)
    return PermutedGather(
        size=layout.size,
        groups=tuple(symmetry.groups.values()),
        rows=torch.cat([torch.arange(plan.block.rows) for plan in plans]),
        row_moves=_stacked([plan.row_moves for plan in plans]),
        row_of=torch.cat(row_of),
        columns_of=torch.cat(columns_of),
        columns=torch.cat([plan.in_runs(plan.columns) for plan in plans]),
        column_moves=_stacked([plan.column_moves_in_runs for plan in plans]),
        row_stride=torch.cat([plan.in_runs(plan.row_stride) for plan in plans]),
        row_within=torch.cat([plan.row_within for plan in plans]) if packed else None,
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """The tables of one tensor (with its bias as last column, if it has one)."""

    layout: TokenLayout
    block: Block
    axes: tuple[Axis, ...]
    starts: dict[str, int]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shapes[self.block.name]

    @cached_property
    def row_axis(self) -> int | None:
        block = self.block
        fits = (
            axis
            for axis, size in enumerate(self.shape)
            if size == block.rows and math.prod(self.shape[axis + 1 :]) == block.inner
        )
        return next(fits, None)

    @cached_property
    def row_moves(self) -> _Moves:
        if self.row_axis is None:
            return _still(self.block.rows)
        return _axis_moves(self.axes[self.row_axis], self.starts)

    @cached_property
    def columns(self) -> Int[Tensor, "columns"]:
        """Where the columns lie in row 0, the bias last."""
        block, column = self.block, torch.arange(self.block.columns)
        place = block.offset + column // block.inner * (block.rows * block.inner) + column % block.inner
        return torch.cat([place, torch.tensor([block.bias_offset])]) if block.bias is not None else place

    @cached_property
    def row_stride(self) -> Int[Tensor, "columns"]:
        stride = torch.full((self.block.columns,), self.block.inner)
        return torch.cat([stride, torch.ones(1, dtype=torch.int64)]) if self.block.bias is not None else stride

    @cached_property
    def column_moves(self) -> _Moves:
        """How the columns move: along every axis but that of the rows."""
        column = self.columns[: self.block.columns] - self.block.offset
        parts = [_still(len(column))]
        for axis, size in enumerate(self.shape):
            stride = math.prod(self.shape[axis + 1 :])
            if axis != self.row_axis:
                own, place = _axis_moves(self.axes[axis], self.starts), column // stride % size
                parts.append(_Moves(own.slots[place], own.strides[place] * stride))
        slots, strides = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("slots", "strides"))
        used = strides.any(0)
        moves = _Moves(slots[:, used], strides[:, used])
        return _stacked([moves, _still(1)]) if self.block.bias is not None else moves

    @cached_property
    def column_moves_in_runs(self) -> _Moves:
        own = self.column_moves
        slots, strides = (
            torch.stack([self.in_runs(column).flatten() for column in part.T], 1)
            if part.shape[1]
            else part.new_zeros(self.block.chunks * self.layout.width, 0)
            for part in (own.slots, own.strides)
        )
        return _Moves(slots, strides)

    @cached_property
    def row_within(self) -> Int[Tensor, "chunks width"]:
        number = torch.arange(self.layout.width) // self.block.row_length
        return (number if self.block.packed > 1 else torch.zeros_like(number)).repeat(self.block.chunks, 1)

    def in_runs(self, values: Int[Tensor, "columns"]) -> Int[Tensor, "chunks width"]:
        """Values of the columns as they lie in the tokens; 0 in the padding."""
        padded = values.repeat(self.block.packed)
        room = self.block.chunks * self.layout.width
        return torch.cat([padded, padded.new_zeros(room - len(padded))]).view(self.block.chunks, self.layout.width)


def _axis_moves(axis: Axis, starts: dict[str, int]) -> _Moves:
    """How a permutation moves the entries of one axis."""
    blocks = blocks_of((axis,))
    most = max((len(block.steps) for block in blocks), default=0)
    size = math.prod(factor.size for factor in axis)
    slots, strides = torch.zeros(size, most, dtype=torch.int64), torch.zeros(size, most, dtype=torch.int64)
    for block in blocks:
        entry = torch.arange(math.prod(block.sizes))
        place, remaining, positions = torch.full_like(entry, block.offset), len(entry), []
        for step in block.steps:
            remaining //= step.size
            positions.append(entry // remaining % step.size)
            place += positions[-1] * step.stride
        for number, (step, position) in enumerate(zip(block.steps, positions, strict=True)):
            if step.group is not None:
                slots[place, number], strides[place, number] = starts[step.group] + position, step.stride
    used = strides.any(0)
    return _Moves(slots[:, used], strides[:, used])


def _still(size: int) -> _Moves:
    return _Moves(torch.zeros(size, 0, dtype=torch.int64), torch.zeros(size, 0, dtype=torch.int64))


def _stacked(parts: list[_Moves]) -> _Moves:
    """One table below the other, as wide as the widest."""
    most = max((part.slots.shape[1] for part in parts), default=0)

    def padded(table: Tensor) -> Tensor:
        return torch.cat([table, table.new_zeros(len(table), most - table.shape[1])], 1)

    return _Moves(torch.cat([padded(own.slots) for own in parts]), torch.cat([padded(own.strides) for own in parts]))
