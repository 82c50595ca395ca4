"""Whose moment a trainer's numbers are of: its counts as finished epochs, and results that it writes a moment late."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.zoo.importing.properties import number, whole

Line = Mapping[str, Any]


def finished_epochs(lines: Sequence[Line], restarts: Sequence[int] = ()) -> list[int] | None:
    """For every line of a training the number of finished epochs, by the line's own `epoch`.

    A first epoch of 0 is counted from 0 and written after it. None where the lines do not say: no epoch in some, a
    first one that is neither 0 nor 1, or several lines for one epoch, of which nobody knows which part each ended.

    Args:
        lines: in the order of time.
        restarts: numbers of the lines with which the training began again, anew or from a checkpoint.
    """
    epochs = [whole(line.get("epoch")) for line in lines]
    if not epochs or None in epochs or epochs[0] not in (0, 1):
        return None
    steady = all(
        place in restarts or later == earlier + 1  # type: ignore[operator]
        for place, (earlier, later) in enumerate(itertools.pairwise(epochs), start=1)
    )
    first = 1 - (epochs[0] or 0)
    return [(epoch or 0) + first for epoch in epochs] if steady else None


def with_late_results(lines: Sequence[Line]) -> list[tuple[dict[str, Any], dict[str, int]]]:
    """Every line with the results of its own moment, and which of them stand in which later line.

    What begins with `train`, is missing in the first line and there in all others, was written an epoch late: Lightning
    reduces the training loss of an epoch after the validation whose results it reports.
    """
    late = set[str]()
    if len(lines) > 1:
        later = set.intersection(*(set(line) for line in lines[1:])) - set(lines[0])
        late = {name for name in later if name.startswith("train") and number(lines[1][name]) is not None}
    moments = []
    for place, line in enumerate(lines):
        values = {key: value for key, value in line.items() if key not in late}
        following = lines[place + 1] if place + 1 < len(lines) else {}
        values |= {key: following[key] for key in late if key in following}
        moments.append((values, {key: place + 1 for key in late if key in following}))
    return moments
