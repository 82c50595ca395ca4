"""Splits of zoos, small ones too: most people have three to eleven networks."""

from collections.abc import Sequence
from typing import NamedTuple

from weightspace.errors import InputError
from weightspace.randomness import derive_share
from weightspace.zoo.zoo import Zoo

# Below this many trainings every one of them is tested in turn.
FEW = 12
# Fewer than this many have none to spare for validation.
LEAST_VALIDATED = 6


class Split(NamedTuple):
    """Training, validation and test members; the second may be empty, which the note says."""

    parts: tuple[Zoo, Zoo, Zoo]
    note: str = ""


def split_any(zoo: Zoo, shares: Sequence[float], *, seed: int, fold: int = 0) -> Split:
    """`Zoo.split` in three; of a zoo too small for the shares, by rank: at least one member tests, and from six on at
    least one validates.

    Raises:
        InputError: shares that are none, or a zoo of a single training.
    """
    lineages = zoo.lineages
    count = lineages.nunique()
    try:
        train, validation, test = zoo.split(*shares, seed=seed, fold=fold)
        return Split((train, validation, test))
    except InputError:
        if count >= FEW or len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
            raise
    if count < 2:
        raise InputError(f"expected at least 2 networks of different trainings to split, found {count}")
    ranked = sorted(lineages.unique(), key=lambda name: derive_share(seed, "split", name))
    ranked = ranked[fold % count :] + ranked[: fold % count]
    tested = max(1, round(shares[2] * count))
    validated = max(1, round(shares[1] * count)) if count >= LEAST_VALIDATED else 0
    bounds = (count - tested - validated, count - tested)
    named = (ranked[: bounds[0]], ranked[bounds[0] : bounds[1]], ranked[bounds[1] :])
    train, validation, test = (_those_of(zoo, names) for names in named)
    note = f"{count} trainings are few: {len(named[0])} train, {len(named[1]) or 'none'} validate, {len(named[2])} test"
    return Split((train, validation, test), note)


def leave_one_out(zoo: Zoo, *, seed: int) -> list[tuple[Zoo, Zoo, Zoo]]:
    """Of every training a split that tests it and trains on all others, without a validation part."""
    names = sorted(zoo.lineages.unique(), key=lambda name: derive_share(seed, "split", name))
    nobody = _those_of(zoo, [])
    return [
        (_those_of(zoo, [other for other in names if other != name]), nobody, _those_of(zoo, [name])) for name in names
    ]


def _those_of(zoo: Zoo, lineages: Sequence[str]) -> Zoo:
    return zoo.where(lambda table: zoo.lineages.isin(lineages))
