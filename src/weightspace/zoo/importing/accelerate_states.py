"""States of accelerate: `checkpoint_N/`, as `Accelerator.save_state` writes them.

N counts what was saved, so that no epoch is known. A second model is a member of its own.
"""

import re
from collections.abc import Sequence

from weightspace.zoo.importing.properties import whole
from weightspace.zoo.importing.reader import STATES_NOTE, Entry, FileReader, Kind, Listing
from weightspace.zoo.importing.source import parent_of, without_common_parent


class AccelerateReader(FileReader):
    """Reads every model of every saved state."""

    layout = "accelerate states"
    STATE = re.compile(r"(^|/)random_states_\d+\.pkl$")
    MODEL = re.compile(r"^(?:model|pytorch_model)(_\d+)?\.(?:safetensors|bin)$")

    @classmethod
    def recognizes(cls, files: Sequence[str]) -> bool:
        """Whether there are random states, which `save_state` always writes."""
        return any(cls.STATE.search(path) for path in files)

    def scan(self) -> Listing:
        """Every model of every state."""
        listing = Listing()
        folders = list(dict.fromkeys(parent_of(path) for path in self.source.files if self.STATE.search(path)))
        names = without_common_parent(list(dict.fromkeys(parent_of(folder) for folder in folders)))
        for path in self.source.files:
            folder, _, name = path.rpartition("/")
            if folder not in folders:
                continue
            model = self.MODEL.match(name)
            if model is None:
                if name.startswith("custom_checkpoint"):
                    listing.leave_out(
                        path, "an object that was registered to be saved: it may be an average of weights"
                    )
                else:
                    listing.note(STATES_NOTE)
                continue
            run = names[parent_of(folder)] if names[parent_of(folder)] != "." else "run"
            number = whole(folder.rpartition("_")[2])
            saved = {"saved": number} if number is not None else {}
            listing.entries.append(
                Entry(
                    f"{run}, model{model[1]}" if model[1] else run,
                    None,
                    saved,
                    Kind(),
                    path,
                    self.source.size(path),
                    sources=dict.fromkeys(saved, f"{folder}: its number counts what was saved, not epochs"),
                )
            )
        return listing
