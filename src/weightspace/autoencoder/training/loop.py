"""The training loop: resumable at any step, stoppable with Ctrl-C, on one process or several.

Pre-training, distilling and the hyper-representation are stages of it: each says what a step is computed from and what
its losses are.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from weightspace.autoencoder.training.config import DistillConfig, TrainConfig
from weightspace.autoencoder.training.devices import lowered_precision
from weightspace.autoencoder.training.feeding import Waited, draw_ahead
from weightspace.autoencoder.training.states import (
    HISTORY_FILE,
    STATE_FILE,
    History,
    Row,
    TrainingState,
    load_state,
    save_state,
)
from weightspace.errors import InputError
from weightspace.interrupting import deferred_interrupt
from weightspace.outputs import write_json
from weightspace.progress import Advance, progress_bar, say
from weightspace.randomness import derive_seed, own_randomness

# Called with the step: measures the model that is trained, in evaluation mode; what it returns joins the history.
Observer = Callable[[int], Row]
# How many times the loss of predicting the mean a loss must be for the training to be stopped.
DIVERGED, FIRST_EXAMINED = 100.0, 20


class TrainingStopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; the state of the last whole step is saved."""


class StepLosses(NamedTuple):
    """What a step goes down, and what the history may say of it, computed only where it is asked for."""

    total: Tensor
    measure: Callable[[], Row]
    weights: int = 0


@runtime_checkable
class Stage(Protocol):
    """What is trained, and how."""

    @property
    def description(self) -> str:
        """For the progress bar."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

    @property
    def dropout(self) -> float:
        """Its rate; 0 if steps draw nothing at random."""

    @property
    def worst_useful_loss(self) -> float | None:
        """The reconstruction loss of predicting the mean of all weights; None where there is no such number."""

    def draw(self, step: int) -> Any:
        """What a step (from 0) is computed from: a pure function of its number, called in a thread."""

    def losses(self, drawn: Any) -> StepLosses:
        """The losses of a step, with gradients to the network."""


@dataclass(frozen=True)
class Loop:
    """Trains the network of a stage in place.

    AdamW with one cosine cycle of the learning rate; gradients are clipped. Every step is drawn by its number, so a run
    that was interrupted anywhere and resumed ends with the same weights. Several processes share every step and end
    with the same weights as one, up to rounding.

    Attributes:
        stage: what is trained.
        config: steps, learning rate, and how often to log and save.
        accelerator: devices and processes.
        folder: where `state.pt` is kept; without one nothing is.
        resume: continue from `folder/state.pt`, where there is one.
        observers: `(every, observer)`: called after every so many steps and after the last, on the first process only.
    """

    stage: Stage
    config: TrainConfig | DistillConfig
    accelerator: Accelerator
    folder: Path | None = None
    resume: bool = False
    observers: Sequence[tuple[int, Observer]] = ()

    def run(self) -> History:
        """Train, and return the history, one row per `log_every` steps.

        Raises:
            InputError: the saved state belongs to another configuration, or the training diverges: its history is kept.
            TrainingStopped: Ctrl-C, after the current step, once the state is saved.
        """
        config = self.config
        training = self._start()
        done, history = load_state(self._file, training, config) if self.folder and self.resume else (0, [])
        bar = progress_bar(self.stage.description, config.steps, done=done, shown=self._first)
        with deferred_interrupt() as interrupted, bar as advance:
            meter = _Meter()
            for step, waited in enumerate(draw_ahead(self.stage.draw, done, config.steps), start=done + 1):
                self._step(training, step, waited, history, meter)
                self._examine(step, history)
                self._observe(training, step, history)
                stopped = self._agree(interrupted(), self._logged(step))
                if self._saved(step) or stopped:
                    self._save(training, step, history)
                if stopped and step < config.steps:
                    why = f"stopped after step {step} of {config.steps}; --resume continues"
                    raise TrainingStopped(why) from interrupted.reason()
                _tell(advance, history)
        return history

    @property
    def _first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator.is_main_process

    @property
    def _file(self) -> Path:
        return (self.folder or Path()) / STATE_FILE

    def _start(self) -> TrainingState:
        groups = _parameter_groups(self.stage.network, self.config)
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        peaks = [group["lr"] for group in groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=self.config.steps)
        return TrainingState(self.stage.network, optimizer, schedule)

    def _step(self, training: TrainingState, step: int, waited: Waited, history: History, meter: "_Meter") -> None:
        """One optimiser step; measures it, which takes time on a GPU, only where that is logged."""
        device = next(self.stage.network.parameters()).device
        chance = derive_seed(self.config.seed, "dropout", step, self.accelerator.process_index)
        training.network.train()
        precision = lowered_precision(self.config, device, training.network)
        with own_randomness(chance if self.stage.dropout else None, device), precision:
            losses = self.stage.losses(waited.drawn)
        logged = self._logged(step)
        if (logged or self._saved(step) or device.type == "cpu") and not torch.isfinite(losses.total):
            self._refuse(f"expected a finite loss, found {losses.total.item()} at step {step}", history)
        self.accelerator.backward(losses.total)
        norm = self.accelerator.clip_grad_norm_(training.network.parameters(), self.config.clip or torch.inf)
        rate = max(group["lr"] for group in training.optimizer.param_groups)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.schedule.step()
        meter.count(losses.weights, waited.seconds)
        if logged:
            row = {**losses.measure(), "learning_rate": rate, "gradient_norm": float(norm)}
            history.append({"step": step, **row, **meter.rates()})

    def _examine(self, step: int, history: History) -> None:
        """Say once if predicting the mean would be better, and stop a training that diverges."""
        if not self._logged(step) or self.stage.worst_useful_loss is None:
            return
        worst, losses = self.stage.worst_useful_loss, [row["reconstruction"] for row in history]
        if losses[-1] > DIVERGED * max(worst, min(losses)):
            self._refuse(f"expected a loss that falls, found {losses[-1]:.3g} at step {step}", history)
        early = max(self.config.steps // 10, FIRST_EXAMINED)
        first_after = step >= early and not any(row["step"] >= early for row in history[:-1])
        if self._first and losses[-1] > worst and first_after:
            advice = f"a tenth of the way, the loss is {losses[-1]:.2f}, and predicting the mean has {worst:g}"
            say(f"{advice}: try a lower --learning-rate than {self.config.learning_rate:g}")

    def _refuse(self, mistake: str, history: History) -> NoReturn:
        kept = ""
        if self.folder is not None and self._first:
            write_json(self.folder / HISTORY_FILE, history)
            kept = f"; its history is kept in {self.folder / HISTORY_FILE}"
        raise InputError(f"{mistake}: the training diverges, lower the learning rate{kept}")

    def _due(self, step: int) -> list[Observer]:
        return [observer for every, observer in self.observers if step % every == 0 or step == self.config.steps]

    def _logged(self, step: int) -> bool:
        return bool(self._due(step)) or step % self.config.log_every == 0 or step == self.config.steps

    def _saved(self, step: int) -> bool:
        return step % self.config.save_every == 0 or step == self.config.steps

    def _observe(self, training: TrainingState, step: int, history: History) -> None:
        due = self._due(step) if self._first else []
        if due:
            self._save(training, step, history)  # whatever becomes of the observers
        for observer in due:
            training.network.eval()
            with torch.no_grad():
                history[-1].update({name: float(value) for name, value in observer(step).items()})

    def _save(self, training: TrainingState, step: int, history: History) -> None:
        if self.folder is not None and self._first:
            save_state(self._file, training, step, history, self.config)

    def _agree(self, stop: bool, asked: bool) -> bool:
        """Whether any process was asked to stop; several talk about it only at steps that are logged."""
        if self.accelerator.num_processes == 1:
            return stop
        if not asked:
            return False
        told = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told) > 0)


def _parameter_groups(network: nn.Module, config: TrainConfig | DistillConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay: vectors have none; see `Network.rate_scale`."""
    by_width = getattr(network, "rate_scale", None) if getattr(config, "rate_by_width", True) else None
    decay = getattr(config, "weight_decay", 0.0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        scale = by_width(name) if by_width else 1.0
        groups.setdefault((scale, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": config.learning_rate * scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def _tell(advance: Advance, history: History) -> None:
    """One more step on the progress bar, with the first loss and the speed."""
    if not history:
        advance()
        return
    row = history[-1]
    name = next(name for name in row if name != "step")
    advance(note=f"{name} {row[name]:.3f}, {row['weights_per_second']:,.0f} weights/s")


class _Meter:
    """Real weights per second since the start of the run, and the share of the time that batches were waited for."""

    def __init__(self) -> None:
        self._start, self._weights, self._waited = time.perf_counter(), 0, 0.0

    def count(self, weights: int, waited: float) -> None:
        self._weights += weights
        self._waited += waited

    def rates(self) -> Row:
        seconds = max(1e-9, time.perf_counter() - self._start)
        return {"weights_per_second": self._weights / seconds, "waiting_for_batches": self._waited / seconds}
