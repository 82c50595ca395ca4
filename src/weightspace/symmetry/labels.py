"""Labels of axes, united while a network is traced.

Every axis of every value in a traced graph is a product of *atoms*. Operations unite atoms that must move
together, split an atom into factors where a flatten or reshape asks for it, and freeze what must not move.
Splitting and freezing only take symmetries away, so whatever is left at the end is safe.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

AxisLabel: TypeAlias = tuple[int, ...]
ValueLabel: TypeAlias = tuple[AxisLabel, ...]


@dataclass
class _Atom:
    size: int
    frozen: str | None = None
    parent: int | None = None
    parts: tuple[int, ...] | None = None


class Labels:
    """A union-find structure over atoms that can be split into factors."""

    def __init__(self) -> None:
        self._atoms: list[_Atom] = []

    def new(self, size: int, frozen: str | None = None) -> AxisLabel:
        """An axis that is one new atom; `frozen` gives the reason if it must not move."""
        self._atoms.append(_Atom(size, frozen))
        return (len(self._atoms) - 1,)

    def new_value(self, shape: Iterable[int], frozen: str | None = None) -> ValueLabel:
        """A value whose axes are new atoms."""
        return tuple(self.new(size, frozen) for size in shape)

    def resolve(self, axis: AxisLabel) -> AxisLabel:
        """The axis as atoms that are neither united into another nor split; atoms of size 1 are left out."""
        resolved: list[int] = []
        for atom in axis:
            root = self._root(atom)
            parts = self._atoms[root].parts
            resolved += self.resolve(parts) if parts is not None else [root] if self._atoms[root].size > 1 else []
        return tuple(resolved)

    def size(self, axis: AxisLabel) -> int:
        """How many entries the axis has."""
        return math.prod(self._atoms[self._root(atom)].size for atom in axis)

    def reason(self, atom: int) -> str | None:
        """Why a resolved atom is frozen, or None if it may move."""
        return self._atoms[atom].frozen

    def freeze(self, axis: AxisLabel, reason: str) -> None:
        """The axis must not move."""
        for atom in self.resolve(axis):
            self._atoms[atom].frozen = self._atoms[atom].frozen or reason

    def unite(self, first: AxisLabel, second: AxisLabel) -> None:
        """Two axes of equal size move together; where their factors do not fit each other, neither moves."""
        left, right = list(self.resolve(first)), list(self.resolve(second))
        while left and right:
            pair = self._match(left.pop(0), right.pop(0))
            if pair is None:
                self.freeze(first, "axes whose factors do not fit")
                self.freeze(second, "axes whose factors do not fit")
                return
            left, right = list(self.resolve((*pair[0], *left))), list(self.resolve((*pair[1], *right)))

    def regroup(self, axes: ValueLabel, sizes: Sequence[int], reason: str) -> ValueLabel:
        """The axes of a value after a reshape to `sizes`, both in row-major order."""
        atoms = [atom for axis in axes for atom in axis]
        grouped: list[AxisLabel] = []
        for size in sizes:
            taken: list[int] = []
            while (have := self.size(tuple(taken))) < size:
                atom, *atoms = self.resolve(tuple(atoms))
                need = size // have
                if self.size((atom,)) > need and (size % have or self.size((atom,)) % need):
                    return self._freeze_all(axes, sizes, reason)
                if self.size((atom,)) > need:
                    atom, rest = self._split(atom, need)
                    atoms.insert(0, rest)
                taken.append(atom)
            if have != size:
                return self._freeze_all(axes, sizes, reason)
            grouped.append(tuple(taken))
        return tuple(grouped)

    def _freeze_all(self, axes: ValueLabel, sizes: Sequence[int], reason: str) -> ValueLabel:
        for axis in axes:
            self.freeze(axis, reason)
        return self.new_value(sizes, reason)

    def _match(self, first: int, second: int) -> tuple[AxisLabel, AxisLabel] | None:
        """Unite the leading parts of two atoms; returns what is left over of each, or None if they do not fit."""
        a, b = self.size((first,)), self.size((second,))
        if a == b:
            self._join(first, second)
            return (), ()
        if a > b and a % b == 0:
            head, rest = self._split(first, b)
            self._join(head, second)
            return (rest,), ()
        if b > a and b % a == 0:
            head, rest = self._split(second, a)
            self._join(first, head)
            return (), (rest,)
        return None

    def _split(self, atom: int, size: int) -> tuple[int, int]:
        """Split an atom into a slow factor of `size` and the fast rest."""
        whole = self._atoms[atom]
        parts = self.new(size, whole.frozen) + self.new(whole.size // size, whole.frozen)
        whole.parts = parts
        return parts[0], parts[1]

    def _join(self, first: int, second: int) -> None:
        first, second = self._root(first), self._root(second)
        if first != second:
            self._atoms[second].parent = first
            self._atoms[first].frozen = self._atoms[first].frozen or self._atoms[second].frozen

    def _root(self, atom: int) -> int:
        while (parent := self._atoms[atom].parent) is not None:
            atom = parent
        return atom
