"""Whose moment a trainer's numbers are of: its counts as finished epochs, and results that it writes a moment late."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.inputs import parse_json
from weightspace.zoo.importing.properties import number, plain, whole
from weightspace.zoo.importing.reader import Listing

Line = Mapping[str, Any]
# Where Ray Tune writes the results of a trial.
RESULTS, PROGRESS = "result.json", "progress.csv"


def finished_epochs(lines: Sequence[Line], restarts: Sequence[int] = ()) -> list[int] | None:
    """For every line of a training the number of finished epochs, by the line's own `epoch`.

    A first epoch of 0 is counted from 0 and written after it; lines may be of every fifth epoch. None where they do
    not say: no epoch in some, a first one that fits neither count, or several lines for one epoch, of which nobody
    knows which part each ended.

    Args:
        lines: in the order of time.
        restarts: numbers of the lines with which the training began again, anew or from a checkpoint.
    """
    epochs = [whole(line.get("epoch")) for line in lines]
    if not epochs or None in epochs:
        return None
    counts = [epoch for epoch in epochs if epoch is not None]
    step = counts[1] - counts[0] if len(counts) > 1 and 1 not in restarts else 1
    # From 0 or from 1; reported after every `step` passes, the first line is of that many.
    first = next((offset for offset in (0, 1) if counts[0] + offset == step), None)
    steady = all(
        place in restarts or later == earlier + step
        for place, (earlier, later) in enumerate(itertools.pairwise(counts), start=1)
    )
    return [epoch + first for epoch in counts] if steady and step > 0 and first is not None else None


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


def read_results(data: bytes, listing: Listing) -> list[dict[str, Any]]:
    """The lines of a `result.json` that are whole and say which iteration they are of."""
    lines: list[dict[str, Any]] = []
    for place, text in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            line = parse_json(text, RESULTS)
            iteration = whole(line["training_iteration"])
        except (ValueError, TypeError, KeyError):
            iteration = None
        if iteration is not None:
            lines.append({**line, "_where": f"{RESULTS}, line {place}"})
        elif text.strip():
            listing.note("a line of result.json is cut off or names no training_iteration")
    return lines


def with_progress(lines: list[dict[str, Any]], data: bytes) -> list[dict[str, Any]]:
    """The lines of `result.json` and those that `progress.csv` alone has: of a trial that failed some are lost."""
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8", errors="replace"))))
    except csv.Error:
        return lines

    def moment(line: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(line.get(key)) for key in ("training_iteration", "timestamp", "checkpoint_dir_name"))

    seen = {moment(line) for line in lines}
    more = [
        {**{key: plain(value) for key, value in row.items() if key and value not in ("", None)}, "_where": where}
        for where, row in ((f"{PROGRESS}, line {place}", row) for place, row in enumerate(rows, start=2))
        if row.get("timestamp") and whole(row.get("training_iteration")) is not None and moment(row) not in seen
    ]
    if not more:
        return lines
    # Within a second the iteration decides; what began again later has a later second.
    return sorted([*lines, *more], key=lambda line: (number(line.get("timestamp"), 0.0), iteration_of(line)))


def iteration_of(line: Mapping[str, Any]) -> int:
    """The iteration of a line that `_read_results` let through."""
    return whole(line["training_iteration"]) or 0
