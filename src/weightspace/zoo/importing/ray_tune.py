"""Ray Tune folders: the published zoos of modelzoos.cc, and anybody's own runs.

A trial is a folder with `result.json` (one JSON object a line), usually `progress.csv` and `params.json`, and
`checkpoint_000001/` folders with a state dict each. Nothing is unpickled but tensors.

Which line a checkpoint belongs to: the one that names its folder, the last if there are several, as folders are written
over; without names, class trainables number folders as iterations, function trainables from 0 where their results begin
at 1. `training_iteration` goes on where a trial failed and began anew, so that a line's own `epoch` counts more.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from weightspace.inputs import parse_json
from weightspace.zoo.growing.networks import ACTIVATIONS
from weightspace.zoo.growing.recipes import Recipe, cnn_recipe, resnet18_recipe
from weightspace.zoo.importing.counting import (
    PROGRESS,
    RESULTS,
    finished_epochs,
    iteration_of,
    read_results,
    with_late_results,
    with_progress,
)
from weightspace.zoo.importing.properties import flatten, name_of, named, number
from weightspace.zoo.importing.reader import Entry, FileReader, Kind, Listing
from weightspace.zoo.importing.source import inside, parent_of, without_common_parent

SETTINGS, EXPLOITS = ("params.json", "config.json"), "pbt_global.txt"
CHECKPOINT = re.compile(r"checkpoint_(\d+)$")
FIRST_CHOICES = ("checkpoints", "model", "state_dict", "checkpoint", "weights")
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors")
SUFFIXES = ("", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# What Ray notes of its own work, which says nothing about the network.
BOOKKEEPING = {
    *("training_iteration", "checkpoint_dir_name", "config", "date", "done", "experiment_id", "experiment_tag"),
    *("hostname", "iterations_since_restore", "node_ip", "pid", "should_checkpoint", "time_since_restore"),
    *("time_this_iter_s", "time_total_s", "timestamp", "timesteps_since_restore", "timesteps_total", "trial_id"),
    *("warmup_time", "episodes_total", "_where"),
}
NO_LINE = "a checkpoint has no line in result.json, so its results are missing"
UNSURE = "a checkpoint's folder may be of one of two iterations, so its epoch and results are missing"


class RayTuneReader(FileReader):
    """Reads trial folders; see the module for how checkpoints meet their results."""

    layout = "Ray Tune (modelzoos.cc)"

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there is a trial folder: results, and checkpoints or settings beside them."""
        results = {parent_of(path) for path in files if path.rpartition("/")[2] == RESULTS}
        beside = {parent_of(path) for path in files if path.rpartition("/")[2] in (*SETTINGS, PROGRESS)}
        beside |= {parent_of(parent_of(path)) for path in files if CHECKPOINT.search(parent_of(path))}
        return bool(results & beside)

    def scan(self) -> Listing:
        """Every checkpoint of every trial."""
        listing = Listing()
        folders = {parent_of(path) for path in self.source.files if path.rpartition("/")[2] == RESULTS}
        files: dict[str, list[str]] = {}
        for path in self.source.files:
            folder = _trial_of(path, folders)
            if folder is not None:
                files.setdefault(folder, []).append(path)
            elif _suffix(path) in SUFFIXES and not path.endswith(EXPLOITS):
                listing.leave_out(path, f"no {RESULTS} in any of its folders, so no trial is known that it belongs to")
        names = without_common_parent(list(files))
        trials = [self._open(folder, names[folder], own, listing) for folder, own in files.items()]
        votes = {vote for vote in (_first_folder(trial) for trial in trials) if vote is not None}
        first = votes.pop() if len(votes) == 1 else None
        for trial in trials:
            self._list(trial, listing, first)
        return listing

    def _open(self, folder: str, member: str, files: list[str], listing: Listing) -> "Trial":
        lines = read_results(listing.read(self.source, inside(folder, RESULTS)), listing)
        if inside(folder, PROGRESS) in files:
            lines = with_progress(lines, listing.read(self.source, inside(folder, PROGRESS)))
        checkpoints: dict[str, list[str]] = {}
        for path in files:
            parent = parent_of(path)
            if CHECKPOINT.search(parent) and parent_of(parent) == folder:
                checkpoints.setdefault(parent, []).append(path)
            elif path.endswith(WEIGHTS):
                listing.leave_out(path, "in no checkpoint folder of its trial, so that its moment is not known")
        exploits = inside(parent_of(folder), EXPLOITS)
        record = exploits if exploits in self.source.files else None
        takes_over = record is not None and _takes_over(folder, listing.read(self.source, record))
        settings = self._settings(folder, files, lines, listing)
        return Trial(folder, member, lines, checkpoints, settings, record, takes_over)

    def _list(self, trial: "Trial", listing: Listing, first: int | None) -> None:
        kind = describe_kind(trial.settings)
        moments, epochs = with_late_results(trial.lines), trial.epochs()
        if not trial.checkpoints:
            listing.leave_out(trial.folder or ".", "no checkpoint folder in it")
        gone = {str(line.get("checkpoint_dir_name")) for line in trial.lines if line.get("checkpoint_dir_name")}
        gone -= {folder.rpartition("/")[2] for folder in trial.checkpoints}
        if gone:
            listing.note("a line names a checkpoint that Ray deleted: what it kept was chosen by a score", len(gone))
        entries: list[tuple[int, Entry]] = []
        for folder, paths in trial.checkpoints.items():
            chosen = _choose_file(paths)
            if chosen is None:
                listing.leave_out(folder, f"expected one file with weights, found {_names(paths)}")
                continue
            place = trial.line_of(folder, first)
            if isinstance(place, str):
                listing.note(place)
                epoch = trial.iteration_of(folder, first) if place == NO_LINE else None
                settings = {} if trial.takes_over else trial.settings
                sources = {"epoch": "the folder's number"} if epoch is not None else {}
                values, late, order = dict[str, Any](), dict[str, int](), -1
            else:
                line, (values, late), epoch, order = trial.lines[place], moments[place], epochs[place], place
                if epoch is None:
                    listing.note("an epoch that results name cannot be told as finished passes, and is not known")
                settings = trial.settings_of(line)
                counted = "epoch" if trial.counts_epochs else "training_iteration"
                sources = {"epoch": f"{trial.where(line)}, {counted}, as finished epochs"}
                listing.ignored |= line.keys() & BOOKKEEPING - {"training_iteration", "config", "_where"}
            if trial.takes_over and not settings:
                listing.note("a trial took over another's settings, and which a checkpoint had is not recorded")
            entry = self._entry(trial, kind, chosen, epoch, values, settings)
            sources |= {name_of(key): f"{trial.where(trial.lines[order])}, {key}" for key in flatten(values)}
            for key, later in late.items():
                sources[name_of(key)] = f"{trial.where(trial.lines[later])}, {key}, which is written an epoch late"
            sources = {**{name_of(key): f"{trial.folder}, settings, {key}" for key in flatten(settings)}, **sources}
            entries.append((order, entry._replace(sources=sources)))
        listing.entries += trial.in_parts(entries)

    def _entry(
        self,
        trial: "Trial",
        kind: Kind,
        path: str,
        epoch: int | None,
        values: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Entry:
        known = {"epoch"} if epoch is not None else set()  # one that nobody can translate is kept as what it was called
        results = {key: value for key, value in values.items() if key not in BOOKKEEPING | known}
        dropout = {"dropout": kind.dropout} if kind.dropout is not None else {}
        properties = named({**flatten(results), **flatten(settings)}) | dropout
        return Entry(trial.member, epoch, properties, kind, path, self.source.size(path), lineage=trial.record)

    def _settings(
        self, folder: str, files: list[str], lines: Sequence[Mapping[str, Any]], listing: Listing
    ) -> dict[str, Any]:
        """What varies between trials: `params.json`, else the configuration noted in the last result."""
        for name in SETTINGS:
            if inside(folder, name) in files:
                try:
                    settings = parse_json(self.source.read(inside(folder, name)), name)
                except ValueError as error:
                    listing.note(f"a {name} cannot be read ({error})")
                    continue
                if isinstance(settings, dict):
                    return settings
        config = lines[-1].get("config") if lines else None
        return config if isinstance(config, dict) else {}


class Trial(NamedTuple):
    """One trial's folder.

    Attributes:
        lines: its results, in the order of time.
        checkpoints: folder -> the files in it.
        settings: what `params.json` says; of a trial that took over another's, that is of its end alone.
        record: of who took over whose weights, if there is one: all its trials are of one lineage.
        takes_over: whether it was one of those that went on from another's weights.
    """

    folder: str
    member: str
    lines: list[dict[str, Any]]
    checkpoints: dict[str, list[str]]
    settings: dict[str, Any]
    record: str | None = None
    takes_over: bool = False

    @property
    def restarts(self) -> list[int]:
        """Numbers of the lines with which it began again."""
        return [place for place, line in enumerate(self.lines) if place and line.get("iterations_since_restore") == 1]

    @property
    def counts_epochs(self) -> bool:
        """Whether its lines say how many epochs were finished."""
        return finished_epochs(self.lines, self.restarts) is not None

    def epochs(self) -> list[int] | list[None]:
        """For every line the finished epochs, or the iteration where no line has an epoch; None where those they have
        cannot be told.
        """
        counted = finished_epochs(self.lines, self.restarts)
        if counted is not None:
            return counted
        if any("epoch" in line for line in self.lines):
            return [None] * len(self.lines)
        return [iteration_of(line) for line in self.lines]

    def settings_of(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """What a line says it was made with; what the folder says, unless that was written over."""
        config = line.get("config")
        if not self.takes_over:
            return self.settings
        return config if isinstance(config, dict) else {}

    def line_of(self, folder: str, first: int | None) -> int | str:
        """The number of the line that a checkpoint belongs to, or why there is none.

        Args:
            folder: of the checkpoint.
            first: the number of the folder of iteration 1, as far as the trials together tell.
        """
        name = folder.rpartition("/")[2]
        by_name = {str(line.get("checkpoint_dir_name")): place for place, line in enumerate(self.lines)}
        if self.names_folders:
            return by_name.get(name, NO_LINE)
        iteration = self.iteration_of(folder, first)
        by_iteration = {iteration_of(line): place for place, line in enumerate(self.lines)}
        return UNSURE if iteration is None else by_iteration.get(iteration, NO_LINE)

    @property
    def names_folders(self) -> bool:
        """Whether its lines say which folder is theirs."""
        return any(line.get("checkpoint_dir_name") for line in self.lines)

    def iteration_of(self, folder: str, first: int | None) -> int | None:
        """The iteration of a checkpoint by the number of its folder; None where that says nothing."""
        if self.names_folders or (first is None and self.lines):
            return None
        return int(folder.rpartition("_")[2]) + 1 - (1 if first is None else first)

    def where(self, line: Mapping[str, Any]) -> str:
        """Which line of which file, in words."""
        return inside(self.folder, str(line.get("_where", RESULTS)))

    def in_parts(self, entries: list[tuple[int, Entry]]) -> list[Entry]:
        """Its checkpoints in the order of time: what began again, or went on from another's weights, is a member of
        its own, the last part that of the trial's name.
        """
        ordered = [entry for _, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].epoch or 0))]
        starts = sorted(place for place, _ in entries)
        parts: list[list[Entry]] = []
        crossed: list[int] = []
        for place, entry in zip(starts, ordered, strict=True):
            passed = sum(restart <= place for restart in self.restarts)
            falls = bool(parts) and entry.epoch is not None and entry.epoch <= max(e.epoch or 0 for e in parts[-1])
            taken_over = bool(parts) and self.takes_over and passed != crossed[-1]
            if not parts or (falls and passed != crossed[-1]) or taken_over:
                parts.append([])
            parts[-1].append(entry)
            crossed.append(passed)
        if len(parts) < 2:
            return ordered
        lineage = self.record or self.member
        called = [f"{self.member}, part {number}" for number in range(1, len(parts))] + [self.member]
        return [
            entry._replace(member=name, lineage=lineage)
            for name, part in zip(called, parts, strict=True)
            for entry in part
        ]


def _first_folder(trial: Trial) -> int | None:
    """The number of the folder of iteration 1: 1, or 0 as function trainables count; None if this trial leaves it open.

    As many folders from 0 as results from 1 are counted from 0; one folder more, the first is the untrained network's.
    """
    folders = sorted(int(folder.rpartition("_")[2]) for folder in trial.checkpoints)
    iterations = sorted({iteration_of(line) for line in trial.lines})
    if not folders or not iterations:
        return None
    if iterations[0] == 0 or (folders[-1] == iterations[-1] and (folders[0] > 0 or "model::type" in trial.settings)):
        return 1
    if folders[0] == 0:
        # One folder more than results: the untrained network's, or that of a result which was lost.
        return 0 if folders == [iteration - 1 for iteration in iterations] else None
    steps = {later - earlier for earlier, later in itertools.pairwise(folders)}
    regular = len(steps) == 1 and min(steps) > 1 and folders[0] == min(steps)
    return 1 if regular else None


def _takes_over(folder: str, record: bytes) -> bool:
    """Whether a trial is one of those that took over another's weights: named first in a line of the record."""
    name = f"{folder.rpartition('/')[2]}_"
    for text in record.decode("utf-8", errors="replace").splitlines():
        try:
            target = parse_json(text, EXPLOITS)[0]
        except (ValueError, TypeError, KeyError, IndexError):
            continue
        if f"_{target}_" in name:
            return True
    return False


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
