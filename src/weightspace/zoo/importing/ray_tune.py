"""Ray Tune folders: the published zoos of modelzoos.cc, and anybody's own runs.

A trial is a folder with `result.json` (one JSON object a line, `training_iteration` among its fields), usually
`params.json`, and `checkpoint_000001/` folders with a state dict each. Nothing is unpickled but tensors.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from weightspace.zoo.growing.networks import ACTIVATIONS
from weightspace.zoo.growing.recipes import Recipe, cnn_recipe, resnet18_recipe
from weightspace.zoo.importing.properties import flatten, named, number, whole
from weightspace.zoo.importing.reader import Entry, Kind, Listing, Load, load_file
from weightspace.zoo.importing.source import Source, inside, parent_of, without_common_parent

RESULTS, SETTINGS = "result.json", ("params.json", "config.json")
CHECKPOINT = re.compile(r"checkpoint_(\d+)$")
FIRST_CHOICES = ("checkpoints", "model", "state_dict", "checkpoint", "weights")
SUFFIXES = ("", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# What Ray notes of its own work, which says nothing about the network.
BOOKKEEPING = {
    *("training_iteration", "checkpoint_dir_name", "config", "date", "done", "experiment_id", "experiment_tag"),
    *("hostname", "iterations_since_restore", "node_ip", "pid", "should_checkpoint", "time_since_restore"),
    *("time_this_iter_s", "time_total_s", "timestamp", "timesteps_since_restore", "timesteps_total", "trial_id"),
    *("warmup_time", "episodes_total"),
}


class RayTuneReader:
    """Reads trial folders; checkpoints meet their results by `training_iteration`, never by line number."""

    layout = "Ray Tune (modelzoos.cc)"

    def __init__(self, source: Source) -> None:
        self.source = source

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there is a trial folder."""
        return any(path.rpartition("/")[2] == RESULTS for path in files)

    def scan(self) -> Listing:
        """Every checkpoint of every trial."""
        listing = Listing()
        trials: dict[str, list[str]] = {}
        folders = {parent_of(path) for path in self.source.files if path.rpartition("/")[2] == RESULTS}
        for path in self.source.files:
            trial = _trial_of(path, folders)
            if trial is not None:
                trials.setdefault(trial, []).append(path)
            elif _suffix(path) in SUFFIXES:
                listing.leave_out(path, f"no {RESULTS} in any of its folders, so no trial is known that it belongs to")
        names = without_common_parent(list(trials))
        for folder, files in trials.items():
            self._list_trial(listing, folder, names[folder], files)
        return listing

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Checkpoints are files of their own, loaded one by one."""
        yield lambda entry: load_file(self.source, entry.path)

    def _list_trial(self, listing: Listing, folder: str, member: str, files: list[str]) -> None:
        lines = _read_results(self.source.read(inside(folder, RESULTS)), listing)
        settings = self._settings(folder, files, lines, listing)
        kind = describe_kind(settings)
        dropout = {"dropout": kind.dropout} if kind.dropout is not None else {}
        by_iteration = {_iteration(line): line for line in lines}
        by_folder = {str(line["checkpoint_dir_name"]): line for line in lines if line.get("checkpoint_dir_name")}
        checkpoints: dict[str, list[str]] = {}
        for path in files:
            parent = parent_of(path)
            if CHECKPOINT.search(parent) and parent_of(parent) == folder:
                checkpoints.setdefault(parent, []).append(path)
        if not checkpoints:
            listing.leave_out(folder or ".", "no checkpoint folder in it")
        for parent, paths in checkpoints.items():
            name = parent.rpartition("/")[2]
            chosen = _choose_file(paths)
            if chosen is None:
                listing.leave_out(parent, f"expected one file with weights, found {_names(paths)}")
                continue
            line = by_folder.get(name, None if by_folder else by_iteration.get(int(name.rpartition("_")[2])))
            epoch = _iteration(line) if line else int(name.rpartition("_")[2])
            if line is None:
                listing.note("a checkpoint has no line in result.json, so its results are missing")
            results = {key: value for key, value in (line or {}).items() if key not in BOOKKEEPING}
            listing.ignored |= (line or {}).keys() & BOOKKEEPING - {"training_iteration", "config"}
            properties = named({**flatten(results), **flatten(settings)}) | dropout
            listing.entries.append(Entry(member, epoch, properties, kind, chosen, self.source.size(chosen)))

    def _settings(self, folder: str, files: list[str], lines: list[dict[str, Any]], listing: Listing) -> dict[str, Any]:
        """What varies between trials: `params.json`, else the configuration noted in the last result."""
        for name in SETTINGS:
            if inside(folder, name) in files:
                try:
                    found = json.loads(self.source.read(inside(folder, name)))
                except (ValueError, RecursionError):
                    listing.note(f"a {name} cannot be read")
                    continue
                if isinstance(found, dict):
                    return found
        config = lines[-1].get("config") if lines else None
        return config if isinstance(config, dict) else {}


def describe_kind(settings: Mapping[str, Any]) -> Kind:
    """The architecture that published settings name; without a recipe where this package has no such network."""
    name = str(settings.get("model::type", "network"))
    activation = settings.get("model::nlin")
    rate = number(settings.get("model::dropout"))
    dropout = float(f"{rate:g}") if rate is not None else None
    known = isinstance(activation, str) and activation in ACTIVATIONS
    return Kind(
        name=re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "network",
        recipe=_recipe(name, settings, known),
        activation=str(activation) if activation is not None else None,
        dropout=dropout,
        note="" if known or activation is None else f"the activation '{activation}' is not one of this package's",
    )


def _recipe(name: str, settings: Mapping[str, Any], known_activation: bool) -> Recipe | None:
    channels = int(number(settings.get("model::channels_in"), 3.0) or 3)
    classes = int(number(settings.get("model::o_dim"), 10.0) or 10)
    if name == "CNN" and known_activation:
        return cnn_recipe("cnn-s", channels, classes)
    if name == "CNN3" and known_activation:
        return cnn_recipe("cnn-l", channels, classes)
    if name.lower() == "resnet18":
        return resnet18_recipe((channels, 32, 32), classes, 64)
    return None


def _trial_of(path: str, folders: set[str]) -> str | None:
    """The trial that a file belongs to: the nearest of its folders that is one."""
    folder = parent_of(path)
    while folder not in folders:
        if not folder:
            return None
        folder = parent_of(folder)
    return folder


def _read_results(data: bytes, listing: Listing) -> list[dict[str, Any]]:
    """The lines of a `result.json` that are whole and say which iteration they are of; the last of each counts."""
    found: dict[int, dict[str, Any]] = {}
    for text in data.decode("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            iteration = whole(line["training_iteration"])
        except (ValueError, TypeError, KeyError, RecursionError):
            iteration = None
        if iteration is not None:
            found[iteration] = line
        elif text.strip():
            listing.note("a line of result.json is cut off or names no training_iteration")
    return list(found.values())


def _iteration(line: Mapping[str, Any]) -> int:
    """The iteration of a line that `_read_results` let through."""
    return whole(line["training_iteration"]) or 0


def _choose_file(files: list[str]) -> str | None:
    """The file with weights among those of a checkpoint folder."""
    usable = {path: path.rpartition("/")[2].partition(".") for path in files if _suffix(path) in SUFFIXES}
    for choice in FIRST_CHOICES:
        named_so = [path for path, (stem, _, _) in usable.items() if stem == choice]
        if len(named_so) == 1:
            return named_so[0]
    rest = [path for path, (stem, dot, _) in usable.items() if "optim" not in stem and dot]
    return rest[0] if len(rest) == 1 else None


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return f".{name.rpartition('.')[2]}" if "." in name else ""


def _names(files: list[str]) -> str:
    return ", ".join(sorted(path.rpartition("/")[2] for path in files))
