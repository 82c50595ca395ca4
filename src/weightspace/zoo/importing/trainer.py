"""Folders of the Hugging Face Trainer: `RUN/checkpoint-500/` with a `trainer_state.json`, and a copy of one in `RUN`;
and the states that its accelerate saves.

A checkpoint's state holds the whole history up to it; results are those evaluated at its own step. The model in the
run's folder may be the best one, beside a state that is the last one's: where it is no copy of a checkpoint, its epoch
is known only if no best one was loaded. `training_args.bin` is a pickle and never read.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.inputs import parse_json
from weightspace.zoo.importing.properties import LARGEST_EPOCH, flatten, name_of, named, number, whole
from weightspace.zoo.importing.reader import (
    STATES_NOTE,
    Entry,
    FileReader,
    Kind,
    Listing,
    is_other,
    kind_of_config,
    weights_in,
)
from weightspace.zoo.importing.source import inside, parent_of, without_common_parent

STATE = "trainer_state.json"
WITHIN = "a checkpoint was written within a pass over the data: its epoch is that of those finished"
CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
# What the Trainer measures of its own work.
SPEEDS = ("_runtime", "_samples_per_second", "_steps_per_second", "_jit_compilation_time", "_model_preparation_time")


class TrainerReader(FileReader):
    """Reads runs of the Trainer, and searches over several."""

    layout = "Hugging Face Trainer"

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether there is a Trainer's state."""
        return any(path.rpartition("/")[2] == STATE for path in files)

    def scan(self) -> Listing:
        """Every checkpoint of every run."""
        listing = Listing()
        folders = [parent_of(path) for path in self.source.files if path.rpartition("/")[2] == STATE]
        runs = {folder: parent_of(folder) if _step_of(folder) is not None else folder for folder in folders}
        names = without_common_parent(list(dict.fromkeys(runs.values())))
        for folder in sorted(folders, key=lambda folder: (runs[folder], _step_of(folder) or 10**12)):
            member = names[runs[folder]] if names[runs[folder]] != "." else "run"
            self._list(folder, runs[folder], member, listing)
        _unite(listing, {run: names[run] for run in runs.values()})
        return listing

    def _list(self, folder: str, run: str, member: str, listing: Listing) -> None:
        where = inside(folder, STATE)
        try:
            state = parse_json(self.source.read(where), where)
            history = [line for line in state.get("log_history") or [] if isinstance(line, Mapping)]
            step, passes = whole(state.get("global_step")), _passes(state.get("epoch"))
            trial = state.get("trial_params") or {}
            trial = dict(trial) if isinstance(trial, Mapping) else {}
        except (ValueError, AttributeError, TypeError):
            listing.leave_out(folder, f"expected a readable {STATE}, found another")
            return
        path = weights_in(self.source, folder, listing)
        if path is None:
            return
        copied = folder == run
        states = [name for name in self.source.files if parent_of(name) == folder and is_other(self.source, name)]
        if states:
            listing.note(STATES_NOTE, len(states))
        unsure = copied and state.get("best_model_checkpoint") is not None
        values, sources = ({}, {}) if unsure else _results(history, step, where)
        settings = flatten({**trial, "batch_size": state.get("train_batch_size")})
        if not unsure and passes is not None:
            sources["epoch"] = f"{where}, epoch {passes:g}, of which finished"
            values["passes"], sources["passes"] = passes, f"{where}, epoch"
            if passes != int(passes):
                listing.note(
                    "a checkpoint was written within a pass over the data: its epoch is that of those finished"
                )
        if step is not None and not unsure:
            values["step"], sources["step"] = step, f"{where}, global_step"
        if any("loss" in line for line in history) and "train_loss" not in values and not unsure:
            listing.note("a training loss is the mean of another span than the pass that ended, and is left out")
        sources |= {name_of(key): f"{where}, trial_params, {key}" for key in trial}
        sources |= {"batch_size": f"{where}, train_batch_size"}
        kind, base = kind_of_config(self.source, folder, listing)
        search = parent_of(run) if state.get("is_hyper_param_search") else None
        listing.entries.append(
            Entry(
                member,
                None if unsure or passes is None else int(passes),
                named({**values, **settings}),
                kind,
                path,
                self.source.size(path),
                sources=sources,
                lineage=search if search is not None else base,
                copied=copied,
            )
        )


def _unite(listing: Listing, members: Mapping[str, str]) -> None:
    """Runs that went on from another run of the folder are of its lineage."""

    def run_in(base: str) -> str | None:
        parts = base.replace("\\", "/").strip("/")
        tails = (parts, parent_of(parts))
        return next((run for run in members if run and any(f"/{tail}".endswith(f"/{run}") for tail in tails)), None)

    member_of = {member: run for run, member in members.items()}
    base_of = {member_of.get(entry.member, ""): run_in(entry.lineage) for entry in listing.entries if entry.lineage}
    lineage_of: dict[str, str] = {}
    for run in members:
        root, seen = run, {run}
        while (above := base_of.get(root)) is not None and above not in seen:
            root = above
            seen.add(root)
        if root != run:
            lineage_of |= dict.fromkeys((members[run], members[root]), f"runs from {root}")
    listing.entries = [entry._replace(lineage=lineage_of.get(entry.member, entry.lineage)) for entry in listing.entries]


def _step_of(folder: str) -> int | None:
    found = CHECKPOINT.match(folder.rpartition("/")[2])
    return int(found[1]) if found else None


def _passes(value: Any) -> float | None:
    """How many passes over the data, with a fraction; None for what can be none."""
    passes = number(value)
    return passes if passes is not None and 0 <= passes < LARGEST_EPOCH else None


def _results(
    history: Sequence[Mapping[str, Any]], step: int | None, where: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was evaluated at a step, and the training loss if it is the mean of the pass that ended there."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    losses = [line for line in history if "loss" in line]
    for place, line in enumerate(history):
        if step is None or whole(line.get("step")) != step:
            continue
        for key, value in line.items():
            if key.startswith(("eval_", "test_")) and not key.endswith(SPEEDS):
                name = f"validation_{key.removeprefix('eval_')}" if key.startswith("eval_") else key
                values[name], sources[name] = value, f"{where}, log_history {place}, {key} at step {step}"
    if losses and whole(losses[-1].get("step")) == step:
        ended, began = (number(line.get("epoch")) for line in (losses[-1], losses[-2] if losses[1:] else {"epoch": 0}))
        if ended is not None and began is not None and ended == int(ended) and ended - began == 1:
            values["train_loss"] = losses[-1]["loss"]
            sources["train_loss"] = f"{where}, log_history {history.index(losses[-1])}, loss over the pass that ended"
    return values, sources


class AccelerateReader(FileReader):
    """Reads every model of every state of accelerate's: `checkpoint_N/`, as `Accelerator.save_state` writes them.

    N counts what was saved, so that no epoch is known. A second model is a member of its own.
    """

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
