"""Gather windows of tokens, of networks as they are and of permuted ones.

A token is a run of one tensor's row, so where an entry lies splits into a part that only its row decides and a
part that only its column decides; a permutation moves the two parts independently. A permuted window therefore
costs one look-up per token, one per column of the tensors it shows, and the addition of both; nothing is
copied and nothing is kept (the published code writes 200 permuted copies of every window to disk).

One token, step by step. A linear weight [3, 4] lies at 10 in the flat vector of its network; tokens are rows of 4.
Token 1 is row 1: its entries lie at 10 + 1 * 4 + (0, 1, 2, 3) = 14, 15, 16, 17. Now the three units are turned by
(2, 0, 1), new row 1 being old row 0, and the four inputs by (1, 0, 3, 2):

    row part       moves[row 1] = (0 - 1) * 4 = -4                    one look-up for the token
    column part    moves[columns] = +1, -1, +1, -1                    one look-up for every column
    gathered from  14 - 4 + 1, 15 - 4 - 1, 16 - 4 + 1, 17 - 4 - 1  =  11, 10, 13, 12

which is old row 0 with its inputs exchanged in pairs: the permuted weight's row 1, from the unpermuted vector.

In numpy, whose look-ups take a fraction of torch's time here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, repeat
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.symmetry.axes import Axis, Factor, Symmetry, groups_of
from weightspace.symmetry.strided import strided_of
from weightspace.tokens.layout import TensorTokens, TokenLayout

# So few slots are quickest sorted together.
FEW_SLOTS = 512

Indices = np.ndarray


class Moves(NamedTuple):
    """How far every entry of an axis goes: by the sum of `strides * moves[slots]`; unused ones have stride 0."""

    slots: Int[Indices, "factors *size"]
    strides: Int[Indices, "factors *size"]


@dataclass(frozen=True, eq=False)
class _Family:
    """Runs of columns with equally many entries, so that nothing is spent on padding.

    Attributes:
        columns: where the entries of each run lie in row 0.
        slots, strides: how a permutation moves them: by the sum of `strides * moves[slots]`; entries that stay have
            the last slot, whose move is 0.
        row_stride: how far apart in the flat vector two rows of an entry are.
        row_within: in tokens of several rows, which of them an entry is in; None for tokens of one row.
        bias: whether the last entry is the bias, whose rows lie side by side.
    """

    columns: Int[Indices, "runs length"]
    slots: Int[Indices, "factors runs length"]
    strides: Int[Indices, "factors runs 1"]
    row_stride: Int[Indices, "runs length"]
    row_within: Int[Indices, "runs length"] | None
    bias: bool

    def place(self, run: Int[Indices, "tokens"], network: Int[Indices, "tokens"], moves: Indices | None) -> Indices:
        """Where the columns of every token lie in row 0: computed once per network and run."""
        if moves is None:
            return self.columns.take(run, axis=0)
        runs, key = len(self.columns), network
        which, shown = np.arange(len(moves)), np.zeros(len(moves), dtype=np.int64)
        if runs > 1:
            pair = run + runs * network
            used = np.zeros(runs * len(moves), dtype=bool)
            used[pair] = True
            which, shown = np.divmod(np.flatnonzero(used), runs)
            key = (used.cumsum() - 1).take(pair)
        index = self.columns.take(shown, axis=0)
        first = (which * moves.shape[1])[:, None]
        for slots, strides in zip(self.slots, self.strides, strict=True):
            slot = slots.take(shown, axis=0)
            slot += first
            moved = moves.reshape(-1).take(slot)
            moved *= strides.take(shown, axis=0)
            index += moved
        return index.take(key, axis=0)


@dataclass(frozen=True, eq=False)
class WindowGather:
    """The tokens of a layout, and a symmetry, in the form that windows are gathered with.

    Attributes:
        width: numbers per token.
        groups: the sizes of the groups; their entries, one group after the other, are numbered as slots.
        families: the runs of columns, by how many entries they have.
        family_of, run_of, row_of: for every token its family, its run in the family, and its (first) row.
        rows: for every row of every tensor its number in the tensor, and how a permutation moves it.
        touched: for every token which groups move something that it shows.
    """

    width: int
    groups: tuple[int, ...]
    families: tuple[_Family, ...]
    family_of: Int[Indices, "tokens"]
    run_of: Int[Indices, "tokens"]
    row_of: Int[Indices, "tokens"]
    rows: Int[Indices, "rows"]
    row_moves: Moves
    touched: Bool[Indices, "tokens groups"]

    def draw(self, token: Int[Indices, "count window"], generator: torch.Generator) -> Int[Indices, "count slots"]:
        """How far every entry of every group moves, under a random permutation of what each window shows; last a 0."""
        slots = sum(self.groups)
        if slots <= FEW_SLOTS:
            keys = torch.rand(len(token), slots, generator=generator, dtype=torch.float64).numpy()
            keys += np.arange(len(self.groups)).repeat(self.groups)
            return np.pad(keys.argsort(axis=1) - np.arange(slots), ((0, 0), (0, 1)))
        source = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        needed = self.touched[token].any(axis=1)
        moves, first = np.zeros((len(token), slots + 1), dtype=np.int64), 0
        for number, size in enumerate(self.groups):
            networks = np.flatnonzero(needed[:, number])
            entries = np.broadcast_to(np.arange(size), (len(networks), size))
            moves[networks, first : first + size] = source.permuted(entries, axis=1) - entries
            first += size
        return moves

    def gather(
        self,
        flat: Float[Tensor, "networks size"],
        token: Int[Indices, "count window"],
        starts: Int[Indices, "count"],
        moves: Int[Indices, "count slots"] | None = None,
    ) -> Float[Tensor, "count window width"]:
        """Windows of tokens; 0 in the padding (in a token of several rows: some entry of the network).

        Args:
            flat: flat vectors of weights, one after the other.
            token: which tokens each window shows.
            starts: where each window's network begins in `flat`.
            moves: from `draw`; without it networks are taken as they are.
        """
        count, window = token.shape
        vector, tokens = flat.view(-1).numpy(), token.reshape(-1)
        network = np.arange(count).repeat(window)
        shown = _Shown(
            run=self.run_of.take(tokens), row=self.row_of.take(tokens), network=network, first=starts.take(network)
        )
        row = self._moved(shown.row, network, moves)
        values = np.zeros((count * window, self.width), dtype=np.float32)
        family_of = self.family_of.take(tokens)
        for number, family in enumerate(self.families):
            places = np.flatnonzero(family_of == number)
            if len(places):
                own = _Shown(*(part.take(places) for part in shown))
                index = self._index(family, own, row.take(places), moves)
                values[places, : index.shape[1]] = vector.take(index, mode="clip")
        return torch.from_numpy(values).view(count, window, self.width)

    def row(
        self, token: Int[Indices, "count window"], moves: Int[Indices, "count slots"] | None = None
    ) -> Int[Indices, "count window"]:
        """The row that every token shows, all tensors' rows being numbered in turn (see `token_rows`)."""
        row = self.row_of.take(token.reshape(-1))
        network = np.arange(len(token)).repeat(token.shape[1])
        return (row + self._moved(row, network, moves) - self.rows.take(row)).reshape(token.shape)

    def _index(
        self, family: _Family, shown: "_Shown", row: Indices, moves: Indices | None
    ) -> Int[Indices, "tokens length"]:
        index = family.place(shown.run, shown.network, moves)
        if family.row_within is not None:
            # The last token of a tensor may have room for rows that the tensor lacks.
            within = shown.row[:, None] + family.row_within.take(shown.run, axis=0)
            moved = self._moved(within.clip(max=len(self.rows) - 1), shown.network[:, None], moves)
            return index + family.row_stride.take(shown.run, axis=0) * moved + shown.first[:, None]
        last = index[:, -1] + row + shown.first
        index += (row * family.row_stride[:, 0].take(shown.run) + shown.first)[:, None]
        if family.bias:
            index[:, -1] = last
        return index

    def _moved(self, row: Indices, network: Indices, moves: Indices | None) -> Indices:
        """The number of rows in their tensor, after permutation."""
        moved = self.rows.take(row)
        if moves is not None:
            first = network * moves.shape[1]
            for slots, strides in zip(*self.row_moves, strict=True):
                moved += strides.take(row) * moves.reshape(-1).take(slots.take(row) + first)
        return moved


class _Shown(NamedTuple):
    """What tokens show: their run, first row, network, and where that begins."""

    run: Int[Indices, "tokens"]
    row: Int[Indices, "tokens"]
    network: Int[Indices, "tokens"]
    first: Int[Indices, "tokens"]


def window_gather(layout: TokenLayout, symmetry: Symmetry | None) -> WindowGather:
    """Tabulate a layout and a symmetry (None: nothing can be permuted) over the rows and columns of tensors."""
    groups = symmetry.groups if symmetry is not None else {}
    starts, total = slot_starts(groups), sum(groups.values())
    still = {name: tuple((Factor(None, size),) for size in shape) for name, shape in layout.shapes.items()}
    axes = symmetry.axes if symmetry is not None else still
    plans = [_Plan(layout, block, axes[block.name], starts, total) for block in layout.blocks]
    members: dict[tuple[int, bool, bool], list[tuple[_Plan, int]]] = {}
    family_of, run_of, row_of, rows = [], [], [], 0
    for plan in plans:
        own = [members.setdefault(key, []) for key in map(plan.family, range(plan.block.chunks))]
        runs = []
        for chunk, family in enumerate(own):
            runs.append(len(family))
            family.append((plan, chunk))
        numbers = [list(members.values()).index(family) for family in own]
        token = np.arange(plan.block.count)
        family_of.append(np.array(numbers)[token % plan.block.chunks])
        run_of.append(np.array(runs)[token % plan.block.chunks])
        row_of.append(rows + token // plan.block.chunks * plan.block.packed)
        rows += plan.block.rows
    return WindowGather(
        width=layout.width,
        groups=tuple(groups.values()),
        families=tuple(_family(own, key) for key, own in members.items()),
        family_of=np.concatenate(family_of),
        run_of=np.concatenate(run_of),
        row_of=np.concatenate(row_of),
        rows=np.concatenate([np.arange(plan.block.rows) for plan in plans]),
        row_moves=_side_by_side([plan.row_moves for plan in plans]),
        touched=np.concatenate([np.tile(plan.touched, (plan.block.count, 1)) for plan in plans]),
    )


def _family(members: "list[tuple[_Plan, int]]", key: tuple[int, bool, bool]) -> _Family:
    length, several, bias = key
    moves = [plan.moves_in_chunk(chunk) for plan, chunk in members]
    shape = (max(len(own.slots) for own in moves), len(members))
    slots = np.full((*shape, length), members[0][0].still)
    strides = np.zeros((*shape, 1), dtype=np.int64)
    for run, own in enumerate(moves):
        slots[: len(own.slots), run], strides[: len(own.slots), run, 0] = own
    return _Family(
        columns=np.stack([plan.in_chunk(plan.columns, chunk) for plan, chunk in members]),
        slots=slots,
        strides=strides,
        row_stride=np.stack([plan.in_chunk(plan.row_stride, chunk) for plan, chunk in members]),
        row_within=np.stack([np.arange(length) // plan.block.row_length for plan, _ in members]) if several else None,
        bias=bias,
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """The tables of one tensor (with its bias as last column, if it has one)."""

    layout: TokenLayout
    block: TensorTokens
    axes: tuple[Axis, ...]
    starts: dict[str, int]
    still: int

    def family(self, chunk: int) -> tuple[int, bool, bool]:
        """What decides with which others a run of columns is treated: its length, several rows, a bias at its end."""
        block, width = self.block, self.layout.width
        if block.packed > 1:
            return block.packed * block.row_length, True, False
        length = min(width, block.row_length - chunk * width)
        return length, False, block.bias is not None and chunk == block.chunks - 1

    def in_chunk(self, values: Int[Indices, "columns"], chunk: int) -> Int[Indices, "length"]:
        """Values of the columns as a token shows them."""
        start = chunk * self.layout.width
        return np.tile(values, self.block.packed)[start : start + self.family(chunk)[0]]

    def moves_in_chunk(self, chunk: int) -> Moves:
        """How the columns of a token move: slots of every factor, and one stride for each."""
        found: list[tuple[Indices, int]] = []
        for slots, strides in zip(
            *(map(self.in_chunk, part, repeat(chunk)) for part in self.column_moves), strict=True
        ):
            found += [
                (np.where(strides == stride, slots, self.still), stride) for stride in np.unique(strides[strides > 0])
            ]
        length = self.family(chunk)[0]
        return Moves(
            np.array([slots for slots, _ in found], dtype=np.int64).reshape(-1, length),
            np.array([stride for _, stride in found], dtype=np.int64),
        )

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shapes[self.block.name]

    @cached_property
    def row_axis(self) -> int | None:
        return self.block.axis if self.shape else None

    @cached_property
    def row_moves(self) -> Moves:
        if self.row_axis is None:
            return _still(self.block.rows)
        return axis_moves(self.axes[self.row_axis], self.starts)

    @cached_property
    def columns(self) -> Int[Indices, "columns"]:
        """Where the columns lie in row 0, the bias last."""
        block, column = self.block, np.arange(self.block.columns)
        place = block.offset + block.place(0, column)
        return np.append(place, block.bias_offset) if block.bias is not None else place

    @cached_property
    def row_stride(self) -> Int[Indices, "columns"]:
        stride = np.full(self.block.columns, self.block.inner)
        return np.append(stride, 1) if self.block.bias is not None else stride

    @cached_property
    def touched(self) -> Bool[Indices, "groups"]:
        """Which groups move something in the tensor; its bias moves with its rows."""
        own = groups_of(self.axes)
        return np.array([group in own for group in self.starts], dtype=bool)

    @cached_property
    def column_moves(self) -> Moves:
        """How the columns move: along every axis but that of the rows."""
        column = self.columns[: self.block.columns] - self.block.offset
        parts = [_still(len(column))]
        for axis, size in enumerate(self.shape):
            stride = math.prod(self.shape[axis + 1 :])
            if axis != self.row_axis:
                moves_along, entry = axis_moves(self.axes[axis], self.starts), column // stride % size
                parts.append(Moves(moves_along.slots[:, entry], moves_along.strides[:, entry] * stride))
        moves = Moves(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return _side_by_side([moves, _still(1)]) if self.block.bias is not None else moves


def slot_starts(groups: Mapping[str, int]) -> dict[str, int]:
    """The first slot of every group, when the entries of all groups are numbered one group after the other."""
    return dict(zip(groups, accumulate(groups.values(), initial=0), strict=False))


def axis_moves(axis: Axis, starts: Mapping[str, int]) -> Moves:
    """How a permutation moves the entries of one axis."""
    blocks = strided_of((axis,))
    most = max((len(block.steps) for block in blocks), default=0)
    size = math.prod(factor.size for factor in axis)
    slots, strides = np.zeros((most, size), dtype=np.int64), np.zeros((most, size), dtype=np.int64)
    for block in blocks:
        entry = np.arange(math.prod(block.sizes))
        place, remaining, positions = np.full_like(entry, block.offset), len(entry), []
        for step in block.steps:
            remaining //= step.size
            positions.append(entry // remaining % step.size)
            place += positions[-1] * step.stride
        for number, (step, position) in enumerate(zip(block.steps, positions, strict=True)):
            if step.group is not None:
                slots[number, place], strides[number, place] = starts[step.group] + position, step.stride
    used = strides.any(axis=1)
    return Moves(slots[used], strides[used])


def _still(size: int) -> Moves:
    return Moves(np.zeros((0, size), dtype=np.int64), np.zeros((0, size), dtype=np.int64))


def _side_by_side(parts: list[Moves]) -> Moves:
    """Tables for one axis after the other, as deep as the deepest."""
    most = max((len(part.slots) for part in parts), default=0)

    def deepened(table: Indices) -> Indices:
        return np.concatenate([table, np.zeros((most - len(table), *table.shape[1:]), dtype=np.int64)])

    return Moves(*(np.concatenate([deepened(own) for own in tables], axis=1) for tables in zip(*parts, strict=True)))
