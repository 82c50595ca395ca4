"""The state of a training run on disk, from which it goes on."""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weightspace.autoencoder.config import BehaviourConfig, TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError

STATE_FILE = "state.pt"
Row = dict[str, float | int]
History = list[Row]


class Run(NamedTuple):
    """What a training run changes as it goes."""

    sane: SANE
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


def save_state(path: Path, run: Run, step: int, history: History, config: TrainConfig | BehaviourConfig) -> None:
    """Write the state whole: to another name first, then renamed."""
    state = {
        "model": run.sane.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "step": step,
        "history": history,
        "config": asdict(config),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path, run: Run, config: TrainConfig | BehaviourConfig) -> tuple[int, History]:
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
    changed = [name for name, value in asdict(config).items() if state["config"].get(name) != value]
    if changed:
        raise InputError(f"expected the configuration the run was started with, found another {', '.join(changed)}")
    run.sane.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    return state["step"], state["history"]
