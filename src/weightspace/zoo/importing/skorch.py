"""Folders of skorch: what its `Checkpoint` and `TrainEndCheckpoint` write.

A file of parameters belongs to the last row of the history of its prefix; epochs count from 1 there.
"""

import re
from collections.abc import Sequence

from weightspace.inputs import parse_json
from weightspace.zoo.importing.properties import name_of, named, whole
from weightspace.zoo.importing.reader import STATES_NOTE, Entry, FileReader, Kind, Listing
from weightspace.zoo.importing.source import inside, parent_of, without_common_parent


class SkorchReader(FileReader):
    """Reads parameters that have a history beside them."""

    layout = "skorch"
    HISTORY = re.compile(r"^(.*)history\.json$")

    @classmethod
    def recognizes(cls, files: Sequence[str]) -> bool:
        """Whether a history lies beside parameters of the same prefix."""
        present = set(files)
        return any(cls._weights(path, present) for path in files)

    @classmethod
    def _weights(cls, path: str, present: set[str]) -> str | None:
        history = cls.HISTORY.match(path.rpartition("/")[2])
        if history is None:
            return None
        places = (inside(parent_of(path), f"{history[1]}params{suffix}") for suffix in (".pt", ".safetensors"))
        return next((place for place in places if place in present), None)

    def scan(self) -> Listing:
        """Every file of parameters that has a history."""
        listing, present = Listing(), set(self.source.files)
        histories = {path: weights for path in present if (weights := self._weights(path, present))}
        names = without_common_parent(list(dict.fromkeys(parent_of(path) for path in sorted(histories))))
        for path, weights in sorted(histories.items()):
            try:
                row = parse_json(self.source.read(path), path)[-1]
                values = {key: value for key, value in row.items() if isinstance(value, int | float | str)}
            except (ValueError, TypeError, IndexError, KeyError, AttributeError):
                listing.leave_out(weights, f"expected a history with rows in {path}, found none")
                continue
            epoch = whole(values.pop("epoch", None))
            kept = {_skorch_name(key): value for key, value in values.items() if not isinstance(value, bool)}
            results = {key: value for key, value in kept.items() if key.startswith(("train_", "validation_"))}
            results = {key: value for key, value in results.items() if not key.endswith("batch_count")}
            listing.ignored |= kept.keys() - results.keys()
            where = f"{path}, last row"
            sources = {name_of(key): f"{where}, {key}" for key in results} | {"epoch": f"{where}, epoch, from 1"}
            member = names[parent_of(path)] if names[parent_of(path)] != "." else "run"
            size = self.source.size(weights)
            listing.entries.append(Entry(member, epoch, named(results), Kind(), weights, size, sources=sources))
        for path in sorted(present - set(histories.values())):
            if path.endswith((".pt", ".safetensors")):
                if "optimizer" in path or "criterion" in path:
                    listing.note(STATES_NOTE)
                else:
                    listing.leave_out(path, "no history of its prefix lies beside it, so that its epoch is not known")
        listing.entries.sort(key=lambda entry: (entry.member, entry.epoch or 0))
        return listing


def _skorch_name(key: str) -> str:
    return f"validation_{key.removeprefix('valid_')}" if key.startswith("valid_") else key
