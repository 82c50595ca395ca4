"""Ray Train runs (version 2): checkpoint folders named by the clock, their metrics in one snapshot of the manager.

The settings of a run (`train_loop_config`) stand in no file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.zoo.importing.properties import flatten, name_of, named, whole
from weightspace.zoo.importing.reader import Entry, FileReader, Kind, Listing, weights_in
from weightspace.zoo.importing.source import inside, parent_of, without_common_parent

SNAPSHOT = "checkpoint_manager_snapshot.json"


class RayTrainReader(FileReader):
    """Reads runs; every checkpoint that a snapshot lists has the metrics that it was reported with."""

    layout = "Ray Train"

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there is a snapshot of a checkpoint manager."""
        return any(path.rpartition("/")[2] == SNAPSHOT for path in files)

    def scan(self) -> Listing:
        """Every checkpoint of every run, in the order in which they were reported."""
        listing = Listing()
        runs = [parent_of(path) for path in self.source.files if path.rpartition("/")[2] == SNAPSHOT]
        names = without_common_parent(runs)
        for run in runs:
            member = names[run] if names[run] != "." else "run"
            try:
                snapshot = parse_json(self.source.read(inside(run, SNAPSHOT)), SNAPSHOT)
                results: list[Mapping[str, Any]] = list(snapshot["checkpoint_results"])
                folders = [str(result["checkpoint_dir_name"]) for result in results]
                lines = [dict(result.get("metrics") or {}) for result in results]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(f"expected a list of checkpoints in {inside(run, SNAPSHOT)}, found none") from error
            epochs = _epochs(lines, snapshot.get("checkpoint_report_indices"))
            if None in epochs:
                listing.note("a run does not say how many epochs were finished when a checkpoint was reported")
            for place, (folder, metrics) in enumerate(zip(folders, lines, strict=True)):
                where = f"{inside(run, SNAPSHOT)}, checkpoint {place + 1}"
                path = weights_in(self.source, inside(run, folder), listing)
                if path is None:
                    continue
                epoch = epochs[place]
                # An epoch that nobody can translate is kept as what it was called.
                values = flatten({key: value for key, value in metrics.items() if key != "epoch" or epoch is None})
                sources = {name_of(key): f"{where}, {key}" for key in values}
                sources["epoch"] = f"{where}, epoch, as finished epochs"
                size = self.source.size(path)
                listing.entries.append(Entry(member, epoch, named(values), Kind(), path, size, sources=sources))
        return listing


def _epochs(lines: Sequence[Mapping[str, Any]], reports: Any) -> list[int | None]:
    """Finished epochs of checkpoints, by their own `epoch`; None where that cannot be told.

    Of checkpoints some may have been deleted: only beside the numbers of the reports, which count from 0, an epoch says
    whether it counts from 0 or from 1.
    """
    numbers = [whole(number) for number in reports] if isinstance(reports, list) else []
    epochs = [whole(line.get("epoch")) for line in lines]
    if len(numbers) != len(epochs):
        return [None] * len(epochs)
    pairs = [(epoch, number) for epoch, number in zip(epochs, numbers, strict=True)]
    for first in (0, 1):
        if pairs and all(None not in pair and pair[0] == pair[1] + first for pair in pairs):  # type: ignore[operator]
            return [number + 1 if number is not None else None for number in numbers]
    return [None] * len(epochs)
