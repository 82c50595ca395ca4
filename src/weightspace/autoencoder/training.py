"""The training loop: resumable at any step, stoppable with Ctrl-C."""

import contextlib
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from weightspace.autoencoder.config import TrainConfig
from weightspace.autoencoder.losses import effective_rank, masked_mse, nt_xent
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.statistics import STATISTICS, token_statistics
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.views import Batch, WindowSource
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.randomness import derive_generator

STATE_FILE = "state.pt"
Row = dict[str, float | int]
History = list[Row]
Observer = Callable[[int, SANE], Row]


class Losses(NamedTuple):
    """The loss and its terms, and the latents it was computed from."""

    total: Tensor
    reconstruction: Tensor
    contrastive: Tensor
    statistics: Tensor
    latents: Tensor


class TrainingStopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; the state of the last whole step is saved."""


def train(
    sane: SANE,
    corpus: Corpus,
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    observers: Sequence[tuple[int, Observer]] = (),
) -> History:
    """Train a model in place and return its history, one row per `log_every` steps.

    AdamW with one cosine cycle of the learning rate; gradients are clipped. Every step draws its batch from a
    generator of its own, so a run that was interrupted anywhere and resumed ends with the same weights.

    Args:
        sane: the model; moved to the device that accelerate chooses.
        corpus: training members.
        config: see `TrainConfig`.
        folder: where `state.pt` is kept.
        resume: continue from `folder/state.pt`, where there is one.
        observers: `(every, observer)`: called after every so many steps and after the last with the step and
            the model in evaluation mode; what they return joins the history.

    Raises:
        InputError: the saved state belongs to another configuration.
        TrainingStopped: Ctrl-C, after the current step, once the state is saved.
    """
    config.check()
    accelerator = Accelerator(mixed_precision=_precision(config))
    optimizer = _make_optimizer(sane, config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    source = WindowSource(corpus, window=config.window, batch_size=config.batch_size)
    done, history = _load_state(folder / STATE_FILE, sane, optimizer, schedule, config) if resume else (0, [])
    model, optimizer = accelerator.prepare(sane, optimizer)
    with (
        _deferred_interrupt() as interrupted,
        progress_bar("pre-training", config.steps, done=done) as advance,
    ):
        meter = _Meter()
        for step in range(done, config.steps):
            batch = _draw(source, config, step)
            row = _step(accelerator, model, optimizer, batch, config)
            schedule.step()
            meter.count(batch.weights)
            last = step + 1 == config.steps
            due = [observer for every, observer in observers if (step + 1) % every == 0 or last]
            if due or (step + 1) % config.log_every == 0 or last:
                history.append({"step": step + 1, **row(), "weights_per_second": meter.rate()})
            for observer in due:
                history[-1].update(_observe(observer, step + 1, sane))
            if interrupted() or (step + 1) % config.save_every == 0 or last:
                _save_state(folder / STATE_FILE, sane, optimizer, schedule, step + 1, history, config)
            if interrupted() and not last:
                raise TrainingStopped(f"stopped after step {step + 1} of {config.steps}; --resume continues")
            advance(note=f"loss {history[-1]['loss']:.3f}, {meter.rate():,.0f} weights/s" if history else "")
    return history


def losses(sane: SANE, batch: Batch, config: TrainConfig) -> Losses:
    """The pre-training loss of a batch with two views, both in one forward pass.

    (1 - γ) reconstruction + γ contrastive (paper, equation 3), and our term for the tokens' statistics.
    """
    views, size = batch.inputs.shape[:2]
    positions = batch.positions.repeat(views, 1, 1)
    present = batch.present.repeat(views, 1)
    latents = sane.encode(batch.inputs.flatten(0, 1), positions, present)
    decoded = sane.decode(latents, positions, present)
    mask, bias = batch.mask.repeat(views, 1, 1), batch.bias.repeat(views, 1, 1)
    targets = batch.targets.flatten(0, 1)
    reconstruction = masked_mse(decoded, targets, mask)
    contrastive, statistics = torch.zeros(()), torch.zeros(())
    if config.contrastive_weight:
        projected = sane.project(latents, present).view(views, size, -1)
        contrastive = nt_xent(projected[0], projected[1], config.temperature)
    if config.statistics_weight:
        known = present[..., None].expand(-1, -1, len(STATISTICS))
        statistics = masked_mse(sane.statistics(latents), token_statistics(targets, mask, bias), known)
    total = (1 - config.contrastive_weight) * reconstruction + config.contrastive_weight * contrastive
    return Losses(total + config.statistics_weight * statistics, reconstruction, contrastive, statistics, latents)


def _draw(source: WindowSource, config: TrainConfig, step: int) -> Batch:
    generator = derive_generator(config.seed, "step", step)
    permuted = (False, config.permute_second_view) if config.contrastive_weight else (config.permute_second_view,)
    return source.draw(generator, permuted=permuted, noise=config.noise, spread=config.rescale_second_view)


def _step(
    accelerator: Accelerator, model: SANE, optimizer: Any, batch: Batch, config: TrainConfig
) -> Callable[[], Row]:
    """One optimiser step; returns a function that measures it (only called when it is logged)."""
    model.train()
    batch = Batch(*(tensor.to(accelerator.device) for tensor in batch))
    with accelerator.autocast():
        result = losses(model, batch, config)
    if not torch.isfinite(result.total):
        raise InputError(f"expected a finite loss, found {result.total.item()}: lower the learning rate")
    accelerator.backward(result.total)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
    rate = optimizer.param_groups[0]["lr"]
    optimizer.step()
    optimizer.zero_grad()

    def measure() -> Row:
        present = batch.present.repeat(len(batch.inputs), 1)
        latents = result.latents.detach()[present]
        return {
            "loss": result.total.item(),
            "reconstruction": result.reconstruction.item(),
            "contrastive": result.contrastive.item(),
            "statistics": result.statistics.item(),
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "latent_norm": latents.norm(dim=-1).mean().item(),
            "effective_rank": effective_rank(latents),
        }

    return measure


def _make_optimizer(sane: SANE, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in sane.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in sane.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _precision(config: TrainConfig) -> str:
    """bf16 is 50 times slower than fp32 on CPUs that lack it, so `auto` takes it on GPUs only."""
    automatic = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    chosen = automatic if config.precision == "auto" else config.precision
    return "no" if chosen == "fp32" else chosen


def _observe(observer: Observer, step: int, sane: SANE) -> Row:
    sane.eval()
    with torch.no_grad():
        return observer(step, sane)


def _save_state(
    path: Path, sane: SANE, optimizer: Any, schedule: Any, step: int, history: History, config: TrainConfig
) -> None:
    """Write the state whole: to another name first, then renamed."""
    state = {
        "model": sane.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "step": step,
        "history": history,
        "config": asdict(config),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _load_state(path: Path, sane: SANE, optimizer: Any, schedule: Any, config: TrainConfig) -> tuple[int, History]:
    if not path.exists():
        return 0, []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"expected a saved state of tensors at {path}, found a file that is none") from error
    changed = [name for name, value in asdict(config).items() if state["config"].get(name) != value]
    if changed:
        raise InputError(f"expected the configuration the run was started with, found another {', '.join(changed)}")
    sane.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["step"], state["history"]


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the current step finish; a second one stops at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Meter:
    """Real weights seen per second since the start of the run."""

    def __init__(self) -> None:
        self._start, self._weights = time.perf_counter(), 0

    def count(self, weights: int) -> None:
        self._weights += weights

    def rate(self) -> float:
        return self._weights / max(1e-9, time.perf_counter() - self._start)
