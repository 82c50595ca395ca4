"""Permutation symmetry as data, and permutations that act on weights.

A permutation `p` of a group acts on an axis by `new[i] = old[p[i]]`. An axis may be a product of factors, as
the input axis of a linear layer after a flatten is (channels x height x width): a group then moves whole
blocks. A factor may be a concatenation of axes, as the input channels of a layer in a DenseNet are: a group
then moves its own part.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.weights.values import Weights, WeightsMismatch

Permutations: TypeAlias = dict[str, Tensor]


class Factor(NamedTuple):
    """One factor of an axis: its group (None if it must not move as one), its size, and the axes it concatenates."""

    group: str | None
    size: int
    parts: tuple[tuple["Factor", ...], ...] = ()


Axis: TypeAlias = tuple[Factor, ...]


@dataclass(frozen=True)
class Symmetry:
    """The permutation symmetry of one architecture.

    Attributes:
        groups: `name -> size`; every group is permuted freely and independently.
        axes: for every tensor the factors of each of its axes, slowest first.
        buffers: tensors that are not parameters; they move along but never enter a matching.
        frozen: why axes stand still: `reason -> tensors`.
    """

    groups: dict[str, int]
    axes: dict[str, tuple[Axis, ...]]
    buffers: tuple[str, ...] = ()
    frozen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def moved(self) -> list[str]:
        """Tensors that some group moves."""
        return [name for name, axes in self.axes.items() if groups_of(axes)]

    @property
    def coverage(self) -> float:
        """Share of the parameters (buffers apart) that lie in tensors which some group moves."""
        sizes = {name: math.prod(shape_of(axes)) for name, axes in self.axes.items() if name not in self.buffers}
        return sum(sizes.get(name, 0) for name in self.moved) / max(1, sum(sizes.values()))

    def places(self) -> dict[str, list[str]]:
        """For every group the axes it moves, each as `tensor[axis]`."""
        places: dict[str, list[str]] = {group: [] for group in self.groups}
        for name, axes in self.axes.items():
            for number, axis in enumerate(axes):
                for group in groups_of((axis,)):
                    places[group].append(f"{name}[{number}]")
        return places

    def without(self, groups: Collection[str], reason: str) -> "Symmetry":
        """The same symmetry with some groups standing still."""
        if not groups:
            return self
        still = {place: None for group, places in self.places().items() if group in groups for place in places}
        return replace(
            self,
            groups={group: size for group, size in self.groups.items() if group not in groups},
            axes={name: tuple(_still(axis, groups) for axis in axes) for name, axes in self.axes.items()},
            frozen={**self.frozen, reason: (*self.frozen.get(reason, ()), *still)},
        )

    def report(self) -> str:
        """Plain text: every group with its size and the axes it moves, then what is frozen and by which operation."""
        lines = [f"{len(self.groups)} groups move {self.coverage:.1%} of the parameters"]
        lines += [f"  {group} ({self.groups[group]}): {', '.join(places)}" for group, places in self.places().items()]
        lines += [f"  frozen by {reason}: {', '.join(names)}" for reason, names in self.frozen.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Symmetry.from_json` turns back into an equal symmetry."""
        return {
            "groups": self.groups,
            "axes": {name: [axis_to_json(axis) for axis in axes] for name, axes in self.axes.items()},
            "buffers": list(self.buffers),
            "frozen": {reason: list(names) for reason, names in self.frozen.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Symmetry":
        """The inverse of `to_json`."""
        return cls(
            groups=dict(value["groups"]),
            axes={name: tuple(axis_from_json(axis) for axis in axes) for name, axes in value["axes"].items()},
            buffers=tuple(value["buffers"]),
            frozen={reason: tuple(names) for reason, names in value["frozen"].items()},
        )


def leaves(axis: Axis) -> Iterator[Factor]:
    """The factors of an axis, those of concatenated parts included."""
    for factor in axis:
        if factor.parts:
            for part in factor.parts:
                yield from leaves(part)
        else:
            yield factor


def _still(axis: Axis, groups: Collection[str]) -> Axis:
    return tuple(
        Factor(
            None if factor.group in groups else factor.group,
            factor.size,
            tuple(_still(part, groups) for part in factor.parts),
        )
        for factor in axis
    )


def groups_of(axes: tuple[Axis, ...]) -> list[str]:
    """The groups that move a tensor, each once."""
    found = (leaf.group for axis in axes for leaf in leaves(axis) if leaf.group is not None)
    return list(dict.fromkeys(found))


def shape_of(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    """The shape of a tensor with these axes."""
    return tuple(math.prod(factor.size for factor in axis) for axis in axes)


def random_permutations(symmetry: Symmetry, generator: torch.Generator) -> Permutations:
    """A uniform permutation of every group.

    Examples:
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> symmetry = ws.trace_symmetry(module, torch.zeros(1, 4))
        >>> [len(order) for order in ws.random_permutations(symmetry, torch.Generator()).values()]
        [3]
    """
    return {group: torch.randperm(size, generator=generator) for group, size in symmetry.groups.items()}


def identity_permutations(symmetry: Symmetry) -> Permutations:
    """The permutations that change nothing."""
    return {group: torch.arange(size) for group, size in symmetry.groups.items()}


def compose(first: Permutations, second: Permutations) -> Permutations:
    """`permute(permute(w, first), second) == permute(w, compose(first, second))`."""
    return {group: permutation[second[group]] for group, permutation in first.items()}


def invert(permutations: Permutations) -> Permutations:
    """`permute(permute(w, p), invert(p)) == w`."""
    return {group: torch.argsort(permutation) for group, permutation in permutations.items()}


def permute(weights: Mapping[str, Tensor], symmetry: Symmetry, permutations: Permutations) -> Weights:
    """Permute a network's weights (moved tensors are copies); its function does not change.

    Raises:
        WeightsMismatch: a tensor that the symmetry moves is missing or has another shape.

    Examples:
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> symmetry, inputs = ws.trace_symmetry(module, torch.zeros(1, 4)), torch.ones(1, 4)
        >>> before, orders = module(inputs), ws.random_permutations(symmetry, torch.Generator())
        >>> _ = module.load_state_dict(ws.permute(module.state_dict(), symmetry, orders))
        >>> torch.allclose(before, module(inputs))
        True
    """
    missing = [name for name in symmetry.moved if name not in weights]
    expected = {name: shape_of(symmetry.axes[name]) for name in symmetry.moved if name in weights}
    misshapen = {
        name: (shape, tuple(weights[name].shape))
        for name, shape in expected.items()
        if shape != tuple(weights[name].shape)
    }
    if missing or misshapen:
        raise WeightsMismatch(missing, [], misshapen)
    return {
        name: permute_tensor(tensor, symmetry.axes[name], permutations) if name in symmetry.axes else tensor
        for name, tensor in weights.items()
    }


def permute_tensor(tensor: Tensor, axes: tuple[Axis, ...], permutations: Permutations) -> Tensor:
    """Permute one tensor along the axes of a `Symmetry`."""
    for number, axis in enumerate(axes):
        if groups_of((axis,)):
            tensor = tensor.index_select(number, axis_index(axis, permutations).to(tensor.device))
    return tensor


def axis_index(axis: Axis, permutations: Mapping[str, Int[Tensor, "*networks _"]]) -> Int[Tensor, "*networks size"]:
    """Where every entry of an axis comes from, as an index into that axis; for one network or a stack of them."""
    index = torch.zeros(1, dtype=torch.int64)
    for factor in axis:
        index = (index[..., :, None] * factor.size + _factor_index(factor, permutations)[..., None, :]).flatten(-2)
    return index


def _factor_index(factor: Factor, permutations: Mapping[str, Tensor]) -> Tensor:
    if factor.group is not None:
        return permutations[factor.group]
    if not factor.parts:
        return torch.arange(factor.size)
    pieces, start = [], 0
    for part in factor.parts:
        pieces.append(start + axis_index(part, permutations))
        start += pieces[-1].shape[-1]
    shape = torch.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
    return torch.cat([piece.expand(*shape, -1) for piece in pieces], dim=-1)


def axis_to_json(axis: Axis) -> list[list[Any]]:
    """A JSON value that `axis_from_json` turns back into an equal axis."""
    return [
        [factor.group, factor.size, *([[axis_to_json(part) for part in factor.parts]] if factor.parts else [])]
        for factor in axis
    ]


def axis_from_json(value: list[list[Any]]) -> Axis:
    """The inverse of `axis_to_json`."""
    return tuple(Factor(own[0], own[1], *(tuple(map(axis_from_json, parts)) for parts in own[2:])) for own in value)
