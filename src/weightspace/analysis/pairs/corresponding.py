"""Which tensors of two checkpoints stand for each other: by name, by name behind a prefix, or by their order."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from weightspace.weights.values import shapes_of

# So many parts are taken off the front of a name: `model.text.encoder.layer.0` is `layer.0`.
DEEPEST, PASSES = 3, 3
TRANSPOSED = "transposed"


class Misshapen(NamedTuple):
    """Two tensors of one name and different shapes.

    Attributes:
        name, counterpart: in the first and in the second checkpoint.
        first, second: their shapes.
        how: in words.
        axis: along which one is longer and all else is equal; None where that is not so.
    """

    name: str
    counterpart: str
    first: tuple[int, ...]
    second: tuple[int, ...]
    how: str
    axis: int | None = None

    @property
    def transposed(self) -> bool:
        """Whether one may be the other with its two axes exchanged."""
        return self.how == TRANSPOSED


class Correspondence(NamedTuple):
    """Tensors of two checkpoints that stand for each other.

    Attributes:
        names: of the first checkpoint -> of the second, where the shapes are equal.
        misshapen: tensors of corresponding names whose shapes differ.
        only_first, only_second: tensors without a counterpart.
        how: what it took, in words; nothing where names are equal.
    """

    names: dict[str, str]
    misshapen: list[Misshapen]
    only_first: list[str]
    only_second: list[str]
    how: str = ""

    @property
    def complete(self) -> bool:
        """Whether no tensor of either is left over."""
        return not (self.misshapen or self.only_first or self.only_second)


def correspond(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Correspondence:
    """Find the counterpart of every tensor.

    Names are compared as they are, else without up to three parts in front of them, on either side, whichever lets
    most tensors have a counterpart; those that are left over once more. Where no names meet, tensors of the same shapes
    in the same order correspond.

    Args:
        first, second: tensors by name, on any device; `meta` is enough.

    Examples:
        >>> one, two = {"fc.weight": torch.zeros(2, 3)}, {"model.fc.weight": torch.zeros(2, 3)}
        >>> correspond(one, two).names
        {'fc.weight': 'model.fc.weight'}
    """
    pairs: dict[str, str] = {}
    notes = []
    for _ in range(PASSES):  # what was wrapped in part has other names there alone
        met = set(pairs.values())
        left, right = [name for name in first if name not in pairs], [name for name in second if name not in met]
        here, there = _best_prefixes(left, right)
        theirs = {name.removeprefix(there): name for name in right if name.startswith(there)}
        more = {name: theirs.get(name.removeprefix(here), "") for name in left if name.startswith(here)}
        pairs |= {name: counterpart for name, counterpart in more.items() if counterpart}
        notes += [_prefixes_in_words(here, there)] if any(more.values()) else []
    how = "; ".join(filter(None, notes))
    if not pairs and list(shapes_of(first).values()) == list(shapes_of(second).values()):
        pairs = dict(zip(first, second, strict=True))
        how = "no names are equal: tensors of the same shapes in the same order were compared"
    alike = {name: other for name, other in pairs.items() if first[name].shape == second[other].shape}
    misshapen = [
        _misshapen(name, other, tuple(first[name].shape), tuple(second[other].shape))
        for name, other in pairs.items()
        if name not in alike
    ]
    met = set(pairs.values())
    return Correspondence(
        alike,
        misshapen,
        [name for name in first if name not in pairs],
        [name for name in second if name not in met],
        how,
    )


def _best_prefixes(first: Iterable[str], second: Iterable[str]) -> tuple[str, str]:
    """What to take off the names of either so that most are equal; as little as possible."""
    behind: dict[str, list[str]] = {}
    for name in second:
        for prefix in _prefixes(name):
            behind.setdefault(name.removeprefix(prefix), []).append(prefix)
    counts = Counter(
        (prefix, their_prefix)
        for name in first
        for prefix in _prefixes(name)
        for their_prefix in behind.get(name.removeprefix(prefix), [])
    )
    return max(counts, key=lambda pair: (counts[pair], -len(pair[0]) - len(pair[1])), default=("", ""))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return ["".join(f"{part}." for part in parts[:count]) for count in range(min(DEEPEST, len(parts) - 1) + 1)]


def _prefixes_in_words(here: str, there: str) -> str:
    taken = [
        f"{prefix} before the names of the {which}" for prefix, which in ((here, "first"), (there, "second")) if prefix
    ]
    return f"without {' and '.join(taken)}" if taken else ""


def _misshapen(name: str, counterpart: str, first: tuple[int, ...], second: tuple[int, ...]) -> Misshapen:
    if len(first) == len(second):
        differing = [axis for axis, sizes in enumerate(zip(first, second, strict=True)) if sizes[0] != sizes[1]]
        if len(differing) == 1:
            axis = differing[0]
            longer = "longer" if second[axis] > first[axis] else "shorter"
            how = f"{longer} along axis {axis}: {first[axis]:,} -> {second[axis]:,}"
            return Misshapen(name, counterpart, first, second, how, axis)
        if len(first) == 2 and first == second[::-1]:
            return Misshapen(name, counterpart, first, second, TRANSPOSED)
    return Misshapen(name, counterpart, first, second, f"another shape: {list(first)} -> {list(second)}")
