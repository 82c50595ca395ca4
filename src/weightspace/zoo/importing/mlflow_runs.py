"""Runs of MLflow: `EXPERIMENT/RUN/artifacts/`, with parameters in `mlflow.db` or in a file each.

Which step an artifact is of stands nowhere, so that no metric is taken and no epoch is known. A model that was logged
as an exported program cannot be read as weights; a state dict that was logged can.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from weightspace.errors import InputError
from weightspace.weights.files import WEIGHT_SUFFIXES
from weightspace.zoo.importing.properties import name_of, named, plain
from weightspace.zoo.importing.reader import Entry, FileReader, Kind, Listing, is_other
from weightspace.zoo.importing.source import inside

DATABASE, ARTIFACTS, MODEL = "mlflow.db", "artifacts", "MLmodel"


class MlflowReader(FileReader):
    """Reads the files of weights among a run's artifacts."""

    layout = "MLflow"

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there is its database, a logged model, or a run with parameters and artifacts."""
        names = {path.rpartition("/")[2] for path in files}
        parts = {part for path in files for part in path.split("/")[:-1]}
        return bool(names & {DATABASE, MODEL}) or {ARTIFACTS, "params", "metrics"} <= parts

    def scan(self) -> Listing:
        """Every file of weights of every run."""
        listing = Listing()
        stored = self._database(listing)
        for path in self.source.files:
            run, artifact, rest = path.partition(f"/{ARTIFACTS}/")
            if not artifact:
                continue
            if path.endswith((".pt2", ".pkl")) or rest.endswith("data/model.pth"):
                listing.leave_out(path, "a whole model, exported or pickled: log its state dict to have it read")
            elif path.endswith(WEIGHT_SUFFIXES) and not is_other(self.source, path):
                name = run.rpartition("/")[2]
                settings, where = stored.get(name, {}), f"{DATABASE}, params of the run"
                if not settings:
                    settings, where = self._files(run, listing), f"{run}/params"
                sources = {name_of(key): f"{where}, {key}" for key in settings}
                size = self.source.size(path)
                listing.entries.append(Entry(name, None, named(settings), Kind(), path, size, sources=sources))
                listing.note("metrics are left out: which step a file of a run is of stands nowhere")
        return listing

    def _files(self, run: str, listing: Listing) -> dict[str, Any]:
        """The parameters of a run that has a file for each."""
        folder = inside(run, "params/")
        paths = [path for path in self.source.files if path.startswith(folder)]
        return {
            path.removeprefix(folder): plain(listing.read(self.source, path).decode("utf-8", errors="replace").strip())
            for path in paths
        }

    def _database(self, listing: Listing) -> dict[str, dict[str, Any]]:
        """Run -> its parameters."""
        runs: dict[str, dict[str, Any]] = {}
        for path in (path for path in self.source.files if path.rpartition("/")[2] == DATABASE):
            try:
                with (
                    self.source.local(path) as place,
                    closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as database,
                ):
                    for run, key, value in database.execute("select run_uuid, key, value from params"):
                        runs.setdefault(str(run), {})[str(key)] = plain(value)
            except (sqlite3.Error, InputError):
                listing.note(f"{path} cannot be read as a database of MLflow")
        return runs
