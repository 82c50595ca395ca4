"""PyTorch Lightning's folders: `version_3/checkpoints/epoch=4-step=500.ckpt`, with `metrics.csv` beside.

A file's own `epoch` is that of the open pass, counted from 0, or the number of passes once the training is over; how
many were finished stands in its loops. Results are those of `metrics.csv` at the step after which it was written; in
names of files they are of one moment or another, depending on how validation was set up, and are not read. Under weight
averaging `state_dict` is the average, which validation was of, and `current_model_state` what was trained.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from weightspace.errors import InputError
from weightspace.weights.torch_files import load_torch_file
from weightspace.weights.values import natural_key
from weightspace.zoo.importing.properties import flatten, name_of, named, plain, whole
from weightspace.zoo.importing.reader import Entry, FileReader, Kind, Listing, Load, is_copy, load_file
from weightspace.zoo.importing.source import inside, parent_of, without_common_parent

METRICS = "metrics.csv"
NAMED_BY_EPOCH = re.compile(r"(^|[-_])epoch=(\d+)")
# What Lightning adds to a name that is there already.
SECOND = re.compile(r"-v\d+\.ckpt$")
AVERAGED, TRAINED = "state_dict", "current_model_state"
VALIDATED = ("val", "test")


class Moment(NamedTuple):
    """What a file says of itself.

    Attributes:
        finished: passes over the training data; None where it does not say.
        within: whether it was written within a pass.
        step: batches that were stepped with, as `metrics.csv` counts: with two optimisers half of the global step.
        averages: whether it holds an average; `over`: whether the training was over, with the average copied into it.
        settings: the module's hyper-parameters.
    """

    finished: int | None
    within: bool
    step: int | None
    averages: bool
    over: bool
    settings: dict[str, Any]


class LightningReader(FileReader):
    """Reads checkpoints of runs (`version_N`); see the module for which moment each is of."""

    layout = "PyTorch Lightning"

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there are checkpoints named by epoch, or below a run's folder."""
        checkpoints = [path for path in files if path.endswith(".ckpt")]
        return any(
            NAMED_BY_EPOCH.search(path.rpartition("/")[2]) or re.search(r"(^|/)version_\d+/", path)
            for path in checkpoints
        )

    def scan(self) -> Listing:
        """Every checkpoint of every run."""
        listing = Listing()
        files = [path for path in self.source.files if path.endswith(".ckpt")]
        runs: dict[str, list[str]] = {}
        for path in files:
            runs.setdefault(_run_of(path), []).append(path)
        names = without_common_parent(list(runs))
        for run, paths in runs.items():
            rows = self._metrics(run, listing)
            if rows and any(SECOND.search(path) and not is_copy(path) for path in paths):
                listing.note(f"results are left out: two trainings share a folder, and its {METRICS} is of one of them")
                rows = []
            member = names[run] if names[run] != "." else "run"
            for path in paths:
                self._list(path, member, rows, listing)
        listing.entries.sort(key=lambda entry: (natural_key(entry.member.partition(" (")[0]), entry.epoch or 0))
        return listing

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Files are loaded one by one, the network that the entry says."""

        def load(entry: Entry) -> Any:
            loaded = load_file(self.source, entry.path, entry.inside)
            return loaded._replace(metadata={})  # what the trainer notes there is read from its loops

        yield load

    def _list(self, path: str, member: str, rows: Sequence[Mapping[str, Any]], listing: Listing) -> None:
        moment = self._moment(path)
        if isinstance(moment, str):
            listing.leave_out(path, moment)
            return
        if moment.within:
            listing.note("a checkpoint was written within a pass over the data: its epoch is that of those finished")
        values, lines = _results(rows, moment)
        if rows and not values:
            listing.note(f"a checkpoint has no row of its step in {METRICS}, so its results are missing")
        settings = flatten(moment.settings)
        sources = {name_of(key): f"{path}, hyper_parameters, {key}" for key in settings}
        sources |= {name_of(key): f"{METRICS}, line {line}, {key}" for key, line in lines.items()}
        if moment.finished is not None:
            sources["epoch"] = f"{path}, loops: passes processed"
        entry = Entry(
            member,
            moment.finished,
            named({**values, **settings}),
            Kind(),
            path,
            self.source.size(path),
            sources=sources,
            lineage=member if moment.averages else None,
            copied=is_copy(path),
        )
        if not moment.averages:
            listing.entries.append(entry)
            return
        of_trained = {key: value for key, value in entry.properties.items() if not key.startswith(VALIDATED)}
        listing.note("a file holds an average of weights beside what was trained: each is a member of its own")
        trained = entry._replace(properties=of_trained | {"averaged": False}, inside=(TRAINED,))
        of_average = {key: value for key, value in entry.properties.items() if not key.startswith("train")}
        listing.entries += [
            *([] if moment.over else [trained]),
            entry._replace(member=f"{member} (average)", properties=of_average | {"averaged": True}),
        ]

    def _metrics(self, run: str, listing: Listing) -> list[dict[str, Any]]:
        """The rows of a run's table."""
        path = inside(run, METRICS)
        if path not in self.source.files:
            return []
        text = listing.read(self.source, path).decode("utf-8", errors="replace")
        try:
            rows = list(csv.DictReader(io.StringIO(text)))
        except csv.Error:
            listing.note(f"a {METRICS} cannot be read")
            return []
        return [
            {**{key: plain(value) for key, value in row.items() if key and value not in ("", None)}, "_line": place}
            for place, row in enumerate(rows, start=2)
        ]

    def _moment(self, path: str) -> Moment | str:
        """What a file says of itself, or why it cannot be read; nothing but tensors and plain values is unpickled."""
        try:
            with self.source.local(path) as place:
                held = load_torch_file(place)
        except InputError as error:
            if "needs code to load" in str(error):
                return "a pickle that needs code to load (its hyper-parameters are objects), which is never run"
            return f"a file that cannot be read ({error})"
        if not isinstance(held, Mapping) or AVERAGED not in held:
            return "no checkpoint of Lightning: it has no state_dict"
        settings = held.get("hyper_parameters")
        finished, completed, within = _finished(held, path)
        return Moment(
            finished=finished,
            within=within,
            step=_batches(held),
            averages=isinstance(held.get(TRAINED), Mapping),
            over=completed is not None and completed == finished,
            settings=dict(settings) if isinstance(settings, Mapping) else {},
        )


def _run_of(path: str) -> str:
    """The folder of a checkpoint's run: the nearest version, else that of the checkpoints, or what holds it."""
    version = re.match(r"(.*(?:^|/)version_\d+)/", path)
    if version:
        return version[1]
    folder = parent_of(path)
    return parent_of(folder) if folder.rpartition("/")[2] == "checkpoints" else folder


def _finished(held: Mapping[str, Any], path: str) -> tuple[int | None, int | None, bool]:
    """How many passes a file is of, how many the trainer had closed, and whether it was written within one.

    Files without loops, of old versions or cut down: those named by the epoch they are of were written after it.
    """
    try:
        fit = held["loops"]["fit_loop"]
        passes = fit["epoch_progress"]["current"]
        last = fit.get("epoch_loop.batch_progress", {}).get("is_last_batch", True)
        return whole(passes["processed"]), whole(passes["completed"]), not last
    except (KeyError, TypeError, AttributeError):
        opened = whole(held.get("epoch"))
        by_name = NAMED_BY_EPOCH.search(path.rpartition("/")[2])
        return (opened + 1 if opened is not None and (by_name or is_copy(path)) else None), None, False


def _batches(held: Mapping[str, Any]) -> int | None:
    """Batches that were stepped with; the global step, which counts every optimiser's steps, where nothing else is."""
    try:
        return whole(held["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
    except (KeyError, TypeError):
        return whole(held.get("global_step"))


def _results(rows: Sequence[Mapping[str, Any]], moment: Moment) -> tuple[dict[str, Any], dict[str, int]]:
    """The results of the step after which a file was written, and the line of each: steps are counted from 0 there."""
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if moment.step is None:
        return values, lines
    for row in rows:
        passed = whole(row.get("epoch"))
        other = not moment.within and None not in (passed, moment.finished) and passed != moment.finished - 1  # type: ignore[operator]
        if whole(row.get("step")) == moment.step - 1 and not other:
            more = {key: value for key, value in row.items() if key not in ("epoch", "step", "_line")}
            values |= more
            lines |= dict.fromkeys(more, row["_line"])
    return values, lines
