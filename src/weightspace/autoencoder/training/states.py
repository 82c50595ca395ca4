"""The state of a training run on disk, from which it goes on."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.errors import InputError
from weightspace.inputs import read_object
from weightspace.outputs import to_json, write_json

STATE_FILE, RUN_FILE, HISTORY_FILE = "state.pt", "run.json", "history.json"
Row = dict[str, float | int]
History = list[Row]


class TrainingState(NamedTuple):
    """What a training run changes as it goes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


def save_state(
    path: Path, training: TrainingState, step: int, history: History, config: TrainConfig | DistillConfig
) -> None:
    """Write the state whole: to another name first, then renamed."""
    state = {
        "model": training.network.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "step": step,
        "history": history,
        "config": asdict(config),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path, training: TrainingState, config: TrainConfig | DistillConfig) -> tuple[int, History]:
    """Bring a run to its saved state; returns the steps done and the history, which are none without a file.

    Raises:
        InputError: no state of ours, or one of another configuration.
    """
    if not path.exists():
        return 0, []
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"expected a saved state of tensors at {path}, found a file that is none") from error
    described = {name: value for name, value in asdict(config).items() if name != "device"}
    changed = [name for name, value in described.items() if state["config"].get(name) != value]
    if changed:
        raise InputError(f"expected the configuration the run was started with, found another {', '.join(changed)}")
    training.network.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.schedule.load_state_dict(state["schedule"])
    return state["step"], state["history"]


def check_run(folder: Path, run: Mapping[str, object], resume: bool) -> None:
    """Raise `InputError` if a resumed run is not the run that was begun; a new one is written down."""
    path = folder / RUN_FILE
    if not resume or not path.exists():
        write_json(path, run)
        return
    begun = read_object(path)
    changed = [name for name, value in json.loads(to_json(run)).items() if begun.get(name) != value]
    if changed:
        raise InputError(f"expected the run that was begun for this folder, found another {', '.join(changed)}")
