"""A tensor with a symmetry as strided blocks, on whose every axis one group acts, or none.

An axis that concatenates parts is several blocks side by side. What matching multiplies and what a permuted
gather adds up are both read off these blocks.
"""

from typing import NamedTuple

from weightspace.symmetry.axes import Axis


class Step(NamedTuple):
    """One axis of a block: the group that acts on it (None if none does), its size, and its stride in the tensor."""

    group: str | None
    size: int
    stride: int


class Strided(NamedTuple):
    """A part of a contiguous tensor: where it starts, and its axes, slowest first."""

    offset: int
    steps: tuple[Step, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The block's shape."""
        return tuple(step.size for step in self.steps)

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of its axes, in elements."""
        return tuple(step.stride for step in self.steps)

    @property
    def groups(self) -> tuple[str | None, ...]:
        """The group that acts on each axis."""
        return tuple(step.group for step in self.steps)


def strided_of(axes: tuple[Axis, ...]) -> list[Strided]:
    """The blocks of a tensor with these axes."""
    factors = tuple(factor for axis in axes for factor in axis)
    return [Strided(block.offset, _merged(block.steps)) for block in _strides(factors, 1)]


def _strides(factors: Axis, stride: int) -> list[Strided]:
    """All blocks, from the fastest factor up."""
    blocks = [Strided(0, ())]
    for factor in reversed(factors):
        grown = []
        start = 0
        for part in factor.parts or ((factor,),):
            inner = _strides(part, stride) if factor.parts else [Strided(0, (Step(factor.group, factor.size, stride),))]
            grown += [
                Strided(outer.offset + block.offset + start * stride, outer.steps + block.steps)
                for outer in inner
                for block in blocks
            ]
            start += _size(part)
        blocks = grown
        stride *= factor.size
    return blocks


def _size(axis: Axis) -> int:
    size = 1
    for factor in axis:
        size *= factor.size
    return size


def _merged(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Neighboring axes that no group moves become one; axes of one entry go."""
    merged: list[Step] = []
    for step in steps:
        last = merged[-1] if merged else None
        if step.size == 1:
            continue
        if last and last.group is None and step.group is None and last.stride == step.stride * step.size:
            merged[-1] = Step(None, last.size * step.size, step.stride)
        else:
            merged.append(step)
    return tuple(merged)
