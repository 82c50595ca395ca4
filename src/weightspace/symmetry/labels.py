"""Labels of axes, united while a network is traced.

Every axis of every value in a traced graph is a product of *atoms*, slowest first. An atom may turn out to be
a product itself (a flatten or reshape asks for it) or a concatenation of axes (a cat, split or slice asks for
it). Operations unite atoms that must move together and freeze what must not move. Dividing, cutting and
freezing only take symmetries away, so whatever is left at the end is safe.

A convolution of 4 channels on 3x3 maps, flattened, before a linear layer of 5 units, with atoms a, b, ...:

    weight of the convolution [4, 1, 2, 2]    (a) (b) (c) (d)   every axis a new atom
    its output            [2, 4, 3, 3]    (n) (a) (h) (w)   the channels are the weight's: a
    flattened             [2, 36]         (n) (a h w)       one axis, a product of three atoms, slowest first
    weight of the linear  [5, 36]         (e) (f)           new atoms, until the product is taken:
    contraction                           f := a h w        f is divided into factors, which are united with a, h, w
    output                [2, 5]          (n) (e)           an output: e is frozen, as are h and w (a convolution
                                                            knows them by their place)

What is left is a: permuting it moves the convolution's rows, and in the linear layer columns in blocks of nine.

An axis labelled `()` has one entry, or is constant along itself: either way any order of it will do.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from weightspace.symmetry.axes import Axis, Factor

AxisLabel: TypeAlias = tuple[int, ...]
ValueLabel: TypeAlias = tuple[AxisLabel, ...]

MISFIT = "axes whose factors do not fit"


@dataclass
class _Atom:
    """One axis or part of one.

    Attributes:
        frozen: why it must not move, if so.
        parent: the atom it was united with; factors: the product it is; parts: the axes it concatenates.
    """

    size: int
    frozen: str | None = None
    parent: int | None = None
    factors: AxisLabel | None = None
    parts: tuple[AxisLabel, ...] | None = None


class Labels:
    """A union-find structure over atoms that can be divided into factors and cut into parts."""

    def __init__(self) -> None:
        self._atoms: list[_Atom] = []

    def new(self, size: int, frozen: str | None = None) -> AxisLabel:
        """An axis that is one new atom; `frozen` gives the reason if it must not move."""
        self._atoms.append(_Atom(size, frozen))
        return (len(self._atoms) - 1,)

    def new_value(self, shape: Iterable[int], frozen: str | None = None) -> ValueLabel:
        """A value whose axes are new atoms."""
        return tuple(self.new(size, frozen) for size in shape)

    def filled(self, value: ValueLabel, shape: Sequence[int]) -> ValueLabel:
        """The value with new atoms for the axes it is constant along."""
        pairs = zip(value, shape, strict=True)
        return tuple(axis if self.size(axis) == size else self.new(size) for axis, size in pairs)

    def concatenate(self, axes: Sequence[AxisLabel]) -> AxisLabel:
        """An axis that is these axes one after the other."""
        parts = tuple(axis for axis in axes if self.size(axis))
        if len(parts) == 1:
            return parts[0]
        label = self.new(sum(self.size(axis) for axis in parts))
        self._atoms[label[0]].parts = parts
        return label

    def resolve(self, axis: AxisLabel) -> AxisLabel:
        """The axis as atoms that are neither united into another nor products; atoms of size 1 are left out."""
        resolved: list[int] = []
        for atom in axis:
            root = self._root(atom)
            factors = self._atoms[root].factors
            resolved += self.resolve(factors) if factors is not None else [root] if self._atoms[root].size != 1 else []
        return tuple(resolved)

    def parts(self, atom: int) -> tuple[AxisLabel, ...]:
        """The axes that a resolved atom concatenates, none of them a concatenation; () if it is no such atom."""
        spread: list[AxisLabel] = []
        for part in self._atoms[atom].parts or ():
            first, *rest = self.resolve(part) or (None,)
            inner = self.parts(first) if first is not None else ()
            spread += [(*own, *rest) for own in inner] if inner else [self.resolve(part)]
        return tuple(spread)

    def size(self, axis: AxisLabel) -> int:
        """How many entries the axis has."""
        return math.prod(self._atoms[self._root(atom)].size for atom in axis)

    def reason(self, atom: int) -> str | None:
        """Why a resolved atom is frozen, or None if it may move."""
        return self._atoms[atom].frozen

    def freeze(self, axis: AxisLabel, reason: str) -> None:
        """The axis must not move."""
        for atom in self.resolve(axis):
            for part in self.parts(atom):
                self.freeze(part, reason)
            self._atoms[atom].frozen = self._atoms[atom].frozen or reason

    def unite(self, first: AxisLabel, second: AxisLabel) -> None:
        """Two axes of equal size move together; where their factors do not fit each other, neither moves."""
        left, right = list(self.resolve(first)), list(self.resolve(second))
        if not left or not right:
            return
        while left and right:
            pair = self._match(left.pop(0), right.pop(0))
            if pair is None:
                break
            left, right = list(self.resolve((*pair[0], *left))), list(self.resolve((*pair[1], *right)))
        else:
            if not left and not right:
                return
        self.freeze(first, MISFIT)
        self.freeze(second, MISFIT)

    def regroup(self, axes: ValueLabel, sizes: Sequence[int], reason: str) -> ValueLabel:
        """The axes of a value after a reshape to `sizes`, both in row-major order."""
        atoms: AxisLabel = tuple(atom for axis in axes for atom in axis)
        grouped: list[AxisLabel] = []
        for size in sizes:
            taken: list[int] = []
            while (have := self.size(tuple(taken))) < size:
                atom, *rest = self.resolve(atoms) or (None,)
                need, left_over = divmod(size, have)
                if atom is None or (self.size((atom,)) > need and (left_over or not self._divide(atom, need))):
                    return self._freeze_all(axes, sizes, reason)
                first, *others = self.resolve((atom,))
                taken.append(first)
                atoms = (*others, *rest)
            if have != size:
                return self._freeze_all(axes, sizes, reason)
            grouped.append(tuple(taken))
        return tuple(grouped)

    def cut(self, axis: AxisLabel, sizes: Sequence[int], reason: str) -> list[AxisLabel]:
        """The axis as consecutive pieces of these sizes; frozen pieces where it cannot be cut there."""
        pieces: list[AxisLabel] = []
        rest = axis
        for size in sizes[:-1]:
            pair = self._cut_in_two(rest, size)
            if pair is None:
                self.freeze(axis, reason)
                return [self.new(size, reason) for size in sizes]
            pieces.append(pair[0])
            rest = pair[1]
        return [*pieces, rest]

    def _freeze_all(self, axes: ValueLabel, sizes: Sequence[int], reason: str) -> ValueLabel:
        for axis in axes:
            self.freeze(axis, reason)
        return self.new_value(sizes, reason)

    def _match(self, first: int, second: int) -> tuple[AxisLabel, AxisLabel] | None:
        """Unite the leading factors of two atoms; returns what is left over of each, or None if they do not fit."""
        a, b = self.size((first,)), self.size((second,))
        if a == b:
            return ((), ()) if self._join(first, second) else None
        larger, need = (first, b) if a > b else (second, a)
        if not self._divide(larger, need):
            return None
        return (self.resolve((first,)), (second,)) if a > b else ((first,), self.resolve((second,)))

    def _join(self, first: int, second: int) -> bool:
        """Make one atom of two of equal size; false if their parts do not fit."""
        first, second = self._root(first), self._root(second)
        if first == second:
            return True
        if self._atoms[first].parts is None:
            first, second = second, first
        if self._atoms[second].parts is not None and not self._unite_parts(first, second):
            return False
        first, second = self._root(first), self._root(second)
        reason = self._atoms[first].frozen or self._atoms[second].frozen
        if first != second:
            self._atoms[second].parent = first
        if reason is not None:
            self.freeze((first,), reason)
        return True

    def _unite_parts(self, first: int, second: int) -> bool:
        """Unite two concatenations part by part, cutting parts where the other one ends."""
        left, right = list(self.parts(first)), list(self.parts(second))
        while left and right:
            first_part, second_part = left.pop(0), right.pop(0)
            common = min(self.size(first_part), self.size(second_part))
            for axis, rest in ((first_part, left), (second_part, right)):
                if self.size(axis) > common:
                    pair = self._cut_in_two(axis, common)
                    if pair is None:
                        return False
                    rest.insert(0, pair[1])
                    first_part, second_part = (pair[0], second_part) if axis is first_part else (first_part, pair[0])
            self.unite(first_part, second_part)
        return True

    def _divide(self, atom: int, size: int) -> bool:
        """Turn an atom into a product of a slow factor of `size` and the fast rest; false if that is impossible."""
        whole = self._atoms[atom]
        if size == 0 or whole.size % size:
            return False
        fast = whole.size // size
        if whole.parts is None:
            whole.factors = self.new(size, whole.frozen) + self.new(fast, whole.frozen)
            return True
        parts = self.parts(atom)
        if any(self.size(part) % fast for part in parts):
            return False
        pairs = [self.regroup((part,), (self.size(part) // fast, fast), MISFIT) for part in parts]
        for _, faster in pairs[1:]:
            self.unite(pairs[0][1], faster)
        slow = self.concatenate([slower for slower, _ in pairs])
        whole.parts, whole.factors = None, (*slow, *pairs[0][1])
        return True

    def _cut_in_two(self, axis: AxisLabel, at: int) -> tuple[AxisLabel, AxisLabel] | None:
        """The first `at` entries of an axis and the others; None if its factors do not allow that."""
        if at == 0:
            return self.new(0), axis
        if at == self.size(axis):
            return axis, self.new(0)
        slow, *fast = self.resolve(axis)
        rest = self.size(tuple(fast))
        if at % rest:
            return None
        halves = self._cut_atom(slow, at // rest)
        return ((*halves[0], *fast), (*halves[1], *fast)) if halves is not None else None

    def _cut_atom(self, atom: int, at: int) -> tuple[AxisLabel, AxisLabel] | None:
        whole = self._atoms[atom]
        if whole.parts is None:
            whole.parts = (self.new(at, whole.frozen), self.new(whole.size - at, whole.frozen))
            return whole.parts[0], whole.parts[1]
        head: list[AxisLabel] = []
        tail = list(self.parts(atom))
        while at:
            part = tail.pop(0)
            if self.size(part) > at:
                pair = self._cut_in_two(part, at)
                if pair is None:
                    return None
                part, other = pair
                tail.insert(0, other)
            head.append(part)
            at -= self.size(part)
        return self.concatenate(head), self.concatenate(tail)

    def _root(self, atom: int) -> int:
        while (parent := self._atoms[atom].parent) is not None:
            atom = parent
        return atom


def name_groups(labels: Labels, axis: AxisLabel, prefix: str, names: dict[int, str], groups: dict[str, int]) -> None:
    """Name the free atoms of an axis that have no name yet: by its place if they are all of it, else by number."""
    atoms = labels.resolve(axis)
    for number, atom in enumerate(atoms):
        name = prefix if len(atoms) == 1 else f"{prefix}.{number}"
        parts = labels.parts(atom)
        for position, part in enumerate(parts):
            name_groups(labels, part, f"{name}.{position}", names, groups)
        if not parts and labels.reason(atom) is None and atom not in names:
            names[atom] = name
            groups[name] = labels.size((atom,))


def axis_of(labels: Labels, axis: AxisLabel, names: Mapping[int, str]) -> Axis:
    """An axis with the names of its free atoms."""
    factors = []
    for atom in labels.resolve(axis):
        size, parts = labels.size((atom,)), tuple(axis_of(labels, part, names) for part in labels.parts(atom))
        moving = any(leaf for part in labels.parts(atom) for leaf in _free(labels, part))
        factors.append(Factor(names.get(atom), size, parts if moving else ()))
    return tuple(factors) or (Factor(None, 1),)


def _free(labels: Labels, axis: AxisLabel) -> list[int]:
    """The atoms of an axis that may move."""
    free: list[int] = []
    for atom in labels.resolve(axis):
        parts = labels.parts(atom)
        free += [inner for part in parts for inner in _free(labels, part)]
        if not parts and labels.reason(atom) is None:
            free.append(atom)
    return free


def reasons_of(labels: Labels, axis: AxisLabel) -> list[str]:
    """Why parts of an axis stand still."""
    reasons: list[str] = []
    for atom in labels.resolve(axis):
        parts = labels.parts(atom)
        reason = labels.reason(atom)
        reasons += [inner for part in parts for inner in reasons_of(labels, part)]
        reasons += [reason] if reason is not None and not parts else []
    return list(dict.fromkeys(reasons))
