"""Archives of stable-baselines3: `rl_model_100_steps.zip`.

The number in a name is of steps in the environment; weights change only after a rollout, so that several files are one
network. `_n_updates`, which counts passes over what was collected, stands where others have an epoch.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from weightspace.archives import open_archive, read_entry
from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.weights.values import find_aliases
from weightspace.zoo.importing.properties import flatten, name_of, named, whole
from weightspace.zoo.importing.reader import Entry, FileReader, Kind, Listing, Load, Loaded, load_file
from weightspace.zoo.importing.source import parent_of, without_common_parent


class BaselinesReader(FileReader):
    """Reads archives; of each the policy alone."""

    layout = "stable-baselines3"
    STEPS = re.compile(r"_?(\d+)_steps$")
    SETTINGS = ("num_timesteps", "n_steps", "gamma", "learning_rate", "batch_size", "seed", "ent_coef", "gae_lambda")

    @classmethod
    def recognizes(cls, files: Sequence[str]) -> bool:
        """Whether the archives are named as its callbacks name them."""
        return any(path.endswith("_steps.zip") or path.endswith("best_model.zip") for path in files)

    def scan(self) -> Listing:
        """Every archive, in the order of its updates."""
        listing = Listing()
        paths = [path for path in self.source.files if path.endswith(".zip")]
        names = without_common_parent(list(dict.fromkeys(parent_of(path) for path in paths)))
        for path in paths:
            try:
                data = parse_json(self._part(path, "data"), path)
            except (InputError, ValueError) as error:
                listing.leave_out(path, f"expected a model of stable-baselines3 ({error})")
                continue
            settings = {key: data[key] for key in self.SETTINGS if isinstance(data.get(key), int | float)}
            updates = whole(data.get("_n_updates"))
            stem = self.STEPS.sub("", path.rpartition("/")[2].removesuffix(".zip"))
            folder = names[parent_of(path)]
            member = ", ".join(part for part in (folder, stem) if part not in ("", ".")) or "run"
            sources = {name_of(key): f"{path}, data, {key}" for key in settings}
            sources["epoch"] = f"{path}, data, _n_updates: passes over what was collected"
            properties, size = named(flatten(settings)), self.source.size(path)
            listing.entries.append(Entry(member, updates, properties, Kind(), path, size, sources=sources))
        listing.entries.sort(key=lambda entry: (entry.member, entry.epoch or 0))
        return listing

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Policies are taken out of their archives one by one."""
        yield self._load

    def _load(self, entry: Entry) -> Loaded:
        loaded = load_file(self.source, entry.path)
        shared = find_aliases(loaded.weights)
        notes = ("a part of a policy that another shares is counted once",) if shared else ()
        return Loaded({name: tensor for name, tensor in loaded.weights.items() if name not in shared}, {}, notes)

    def _part(self, path: str, name: str) -> bytes:
        """A file in an archive.

        Raises:
            InputError: no archive, or none with such a file.
        """
        with self.source.local(path) as place:
            archive = open_archive(place)
            if name not in archive.entries:
                raise InputError(f"expected {name} in {path}, found none")
            return read_entry(archive, name)
