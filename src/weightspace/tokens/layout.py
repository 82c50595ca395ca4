"""Where every weight of a network goes in its token sequence, planned from shapes alone.

A `TokenLayout` maps a network's flat vector of weights (all tokenised tensors, flattened and concatenated
in order) to tokens `[tokens, width]`. It is kept as one small `TensorTokens` per tensor; the table of indices of
any run of tokens is computed on demand, so a layout stays small however large the network is.

Paper, section 3.1: a token is a slice of one output row `[W | b]` of a layer, zero-padded to the width.
Deviations: every tensor is accounted for (the published code takes only names containing "weight"), a
position has a chunk index of its own, and the style `packed` puts several short rows of one tensor in a token.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.values import Role, Shapes, find_aliases, natural_key, shapes_of

TOKEN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Style = Literal["rows", "packed"]


@dataclass(frozen=True)
class TensorTokens:
    """The tokens of one tensor (with its bias, if it has one).

    Attributes:
        name, bias: the tensors; `kind`: the layer kind.
        offset, bias_offset: where they start in the flat vector.
        axis: which axis of the tensor counts the rows.
        rows, columns: rows and columns of the tensor seen as a matrix, without the bias.
        inner: the size of what comes after the row axis; see `place`.
        first: index of the first token; `count`: how many tokens.
        chunks: tokens per row (1 if a row fits); `packed`: rows per token (1 unless rows are packed).
    """

    name: str
    bias: str | None
    kind: str
    offset: int
    bias_offset: int
    axis: int
    rows: int
    columns: int
    inner: int
    first: int
    count: int
    chunks: int
    packed: int

    @property
    def row_length(self) -> int:
        """Numbers in a row, the bias included."""
        return self.columns + (self.bias is not None)

    def place(self, row: Any, column: Any) -> Any:
        """Where entries of the matrix lie in the tensor; whole numbers, arrays or tensors.

        Example: a tensor `[2, 3, 4]` with its rows along axis 1 has 3 rows of 8 columns, and `inner` 4: the first four
        columns of a row come from the tensor's first half, the others from its second.
        """
        return column // self.inner * (self.rows * self.inner) + row * self.inner + column % self.inner

    def packed_count(self, width: int) -> int:
        """How many tokens of this width the rows would take if they were packed."""
        per_token = max(1, min(self.rows, width // self.row_length))
        return math.ceil(self.rows / per_token) * math.ceil(self.row_length / width)


class TokenTable(NamedTuple):
    """Index form of a run of tokens.

    Attributes:
        index: into the flat vector of weights; 0 where `mask` is false.
        mask: which entries are real.
        tensor: which tensor of `layout.names` an entry belongs to; 0 where `mask` is false.
        positions: (token in the network, layer, row in the layer, chunk in the row), all from 0.
    """

    index: Int[Tensor, "tokens width"]  # type: ignore[assignment] # not tuple.index
    mask: Bool[Tensor, "tokens width"]
    tensor: Int[Tensor, "tokens width"]
    positions: Int[Tensor, "tokens 4"]


@dataclass(frozen=True)
class TokenLayout:
    """How the tensors of one network become tokens; made by `plan_layout`, saved as JSON.

    Attributes:
        width: numbers per token.
        style: `rows` (one output row, or a chunk of one, per token) or `packed` (several whole rows of one
            tensor per token where they fit).
        shapes, dtypes: of every tensor that is tokenised, in the order of the flat vector.
        kinds: layer kind of every tokenised tensor.
        carried: tensors that are no 16- or 32-bit floats (counters, masks), kept beside the tokens.
        aliases: tied tensors, `alias -> tokenised name`.
        source: how the rows are known: `trace`, or `names` (the fallback of `plan_layout`).
    """

    width: int
    style: Style
    shapes: Shapes
    dtypes: dict[str, str]
    kinds: dict[str, str]
    blocks: tuple[TensorTokens, ...]
    carried: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    source: str = "names"

    @property
    def names(self) -> list[str]:
        """The tokenised tensors in the order of the flat vector."""
        return list(self.shapes)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where every tokenised tensor starts in the flat vector."""
        return _offsets(self.shapes)

    @cached_property
    def is_bias(self) -> Bool[Tensor, "tensors"]:
        """Which of `names` are appended to the rows of another tensor."""
        appended = {block.bias for block in self.blocks}
        return torch.tensor([name in appended for name in self.names] or [False])

    @cached_property
    def sizes(self) -> Int[Tensor, "tensors"]:
        """How many weights each of `names` has."""
        return torch.tensor([math.prod(shape) for shape in self.shapes.values()], dtype=torch.int64)

    @cached_property
    def size(self) -> int:
        """Length of the flat vector: how many weights are tokenised."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def __len__(self) -> int:
        """How many tokens the network has."""
        return sum(block.count for block in self.blocks)

    @cached_property
    def _firsts(self) -> list[int]:
        """The first token of every block."""
        return [block.first for block in self.blocks]

    @cached_property
    def _order(self) -> dict[str, int]:
        """The place of every tensor among the names."""
        return {name: number for number, name in enumerate(self.names)}

    def table(self, start: int = 0, stop: int | None = None) -> TokenTable:
        """The index table of the tokens `start:stop` (all by default), computed for that run only."""
        stop = len(self) if stop is None else stop
        # Found by bisection: a network may have tens of thousands of tensors.
        layers = range(max(0, bisect_right(self._firsts, start) - 1), bisect_left(self._firsts, stop))
        parts = [
            _block_table(self.blocks[layer], layer, self.width, self._order, range(start, stop)) for layer in layers
        ]
        if not parts:
            empty = torch.zeros(0, self.width, dtype=torch.int64)
            return TokenTable(empty, empty.bool(), empty, torch.zeros(0, 4, dtype=torch.int64))
        return TokenTable(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `TokenLayout.from_json` turns back into an equal layout."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TokenLayout":
        """The inverse of `to_json`."""
        return cls(
            **{
                **value,
                "shapes": {name: tuple(shape) for name, shape in value["shapes"].items()},
                "blocks": tuple(TensorTokens(**block) for block in value["blocks"]),
                "carried": tuple(value["carried"]),
            }
        )


def plan_layout(
    tensors: Mapping[str, Tensor],
    width: int,
    *,
    style: Style = "rows",
    roles: Mapping[str, Role] | None = None,
    order: Collection[str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> TokenLayout:
    """Plan the tokens of a network from the shapes, types and ties of its tensors; values are never read.

    Args:
        tensors: the network's weights, or tensors on the `meta` device in their place.
        width: numbers per token, at least 1.
        style: see `TokenLayout`.
        roles: what the rows of each tensor are, from a trace. Without it: `P.weight` has rows along its first
            axis and `P.bias`, if it has as many entries, as last column; every other tensor stands alone.
        order: names in the architecture's order; natural order of the names without it.
        aliases: tied tensors, `alias -> name`; found by their memory without it (not for `meta` tensors).

    Raises:
        InputError: a width below 1.
    """
    if width < 1:
        raise InputError(f"expected a token width of at least 1, found {width}")
    names = [name for name in order if name in tensors] if order else sorted(tensors, key=natural_key)
    names += sorted(set(tensors) - set(names), key=natural_key)
    kept = {name: tensors[name] for name in names}
    if aliases is None:
        aliases = find_aliases(kept) if not any(tensor.is_meta for tensor in kept.values()) else {}
    aliases = {alias: name for alias, name in aliases.items() if alias in kept and name in kept}
    carried = tuple(name for name, t in kept.items() if t.dtype not in TOKEN_DTYPES and name not in aliases)
    flat = {name: t for name, t in kept.items() if name not in carried and name not in aliases}
    shapes = shapes_of(flat)
    source = "trace" if roles is not None else "names"
    known = {name: role for name, role in (roles or {}).items() if name in shapes}
    all_roles = _with_sound_biases({**_roles_by_name(shapes, known), **known}, shapes)
    return TokenLayout(
        width=width,
        style=style,
        shapes=shapes,
        dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in flat.items()},
        kinds=_kinds(all_roles, shapes),
        blocks=_plan_blocks(shapes, all_roles, width, style),
        carried=carried,
        aliases=dict(aliases),
        source=source,
    )


def _roles_by_name(shapes: Shapes, known: Mapping[str, Role]) -> dict[str, Role]:
    """The one documented fallback: `P.weight` with `P.bias` of length shape[0]; all else on its own."""
    taken = {role.bias for role in known.values()}
    roles = {}
    for name, shape in shapes.items():
        prefix, _, last = name.rpartition(".")
        bias = f"{prefix}.bias" if prefix else "bias"
        pairs = last == "weight" and bool(shape) and shapes.get(bias) == shape[:1] and bias not in taken
        roles[name] = Role(_kind_by_shape(shape), bias=bias if pairs and name not in known else None)
    return roles


def _with_sound_biases(roles: Mapping[str, Role], shapes: Shapes) -> dict[str, Role]:
    """A bias stays with its weight only if it has one number per row and no weight before it has taken it."""
    taken: set[str] = set()
    sound = {}
    for name in shapes:
        role, shape = roles[name], shapes[name]
        fits = role.bias is not None and math.prod(shape) > 0 and shapes.get(role.bias) == (shape[role.axis],)
        if not fits or role.bias in taken:
            role = role._replace(bias=None)
        elif role.bias is not None:
            taken.add(role.bias)
        sound[name] = role
    return sound


def _kind_by_shape(shape: tuple[int, ...]) -> str:
    return "conv" if len(shape) > 2 else "linear" if len(shape) == 2 else "vector"


def _kinds(roles: Mapping[str, Role], shapes: Shapes) -> dict[str, str]:
    biases = {role.bias: f"{role.kind} bias" for role in roles.values() if role.bias is not None}
    return {name: biases.get(name, roles[name].kind) for name in shapes}


def _offsets(shapes: Shapes) -> dict[str, int]:
    offsets, position = {}, 0
    for name, shape in shapes.items():
        offsets[name] = position
        position += math.prod(shape)
    return offsets


def _plan_blocks(shapes: Shapes, roles: Mapping[str, Role], width: int, style: Style) -> tuple[TensorTokens, ...]:
    offsets = _offsets(shapes)
    appended = {role.bias for role in roles.values()}
    blocks: list[TensorTokens] = []
    first = 0
    for name, shape in shapes.items():
        if name in appended or math.prod(shape) == 0:
            continue
        role = roles[name]
        rows = shape[role.axis] if shape else 1
        columns = math.prod(shape) // rows
        length = columns + (role.bias is not None)
        packed = max(1, min(rows, width // length)) if style == "packed" else 1
        chunks = math.ceil(length / width)
        count = math.ceil(rows / packed) * chunks
        blocks.append(
            TensorTokens(
                name=name,
                bias=role.bias,
                kind=role.kind,
                offset=offsets[name],
                bias_offset=offsets[role.bias] if role.bias else 0,
                axis=role.axis,
                rows=rows,
                columns=columns,
                inner=math.prod(shape[role.axis + 1 :]),
                first=first,
                count=count,
                chunks=chunks,
                packed=packed,
            )
        )
        first += count
    return tuple(blocks)


def _block_table(block: TensorTokens, layer: int, width: int, order: Mapping[str, int], run: range) -> TokenTable:
    start, stop = max(run.start, block.first), min(run.stop, block.first + block.count)
    token = torch.arange(start, stop) - block.first
    entry = torch.arange(width)
    length = block.row_length
    row = (token // block.chunks * block.packed)[:, None] + (entry // length if block.packed > 1 else 0 * entry)
    chunk = token % block.chunks
    column = chunk[:, None] * width + (entry % length if block.packed > 1 else entry)
    mask = (column < length) & (row < block.rows) & (entry < block.packed * length if block.packed > 1 else True)
    is_bias = column == block.columns
    index = torch.where(is_bias, block.bias_offset + row, block.offset + block.place(row, column))
    tensor = torch.full_like(index, order[block.name])
    if block.bias is not None:
        tensor[is_bias] = order[block.bias]
    first_row = token // block.chunks * block.packed
    positions = torch.stack([torch.arange(start, stop), torch.full_like(token, layer), first_row, chunk], dim=1)
    return TokenTable(index * mask, mask, tensor * mask, positions)
