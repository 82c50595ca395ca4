"""The training loop: resumable at any step, stoppable with Ctrl-C, on one process or several."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from weightspace.autoencoder.config import TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.devices import compiled, make_accelerator
from weightspace.autoencoder.training.feeding import Fed, Feed
from weightspace.autoencoder.training.losses import effective_rank
from weightspace.autoencoder.training.objective import Losses, Objective
from weightspace.autoencoder.training.states import STATE_FILE, History, Row, Run, load_state, save_state
from weightspace.corpus.corpus import Corpus
from weightspace.corpus.views import Batch, WindowSource
from weightspace.errors import InputError
from weightspace.interrupting import deferred_interrupt
from weightspace.progress import progress_bar
from weightspace.randomness import derive_seed
from weightspace.supervised import own_randomness

Observer = Callable[[int, SANE], Row]


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
    generator of its own, so a run that was interrupted anywhere and resumed ends with the same weights. Several
    processes share every batch and end with the same weights as one, up to rounding.

    Args:
        sane: the model; moved to the device that accelerate chooses.
        corpus: training members.
        config: see `TrainConfig`.
        folder: where `state.pt` is kept.
        resume: continue from `folder/state.pt`, where there is one.
        observers: `(every, observer)`: called after every so many steps and after the last with the step and
            the model in evaluation mode; what they return joins the history. On the first process only.

    Raises:
        InputError: the saved state belongs to another configuration, or a loss that is not finite.
        TrainingStopped: Ctrl-C, after the current step, once the state is saved.
    """
    config.check()
    for part in corpus.parts:
        sane.positions.check(part.positions)
    trainer = _Trainer(sane, corpus, config)
    done, history = load_state(folder / STATE_FILE, trainer.run, config) if resume else (0, [])
    with (
        deferred_interrupt() as interrupted,
        progress_bar("pre-training", config.steps, done=done, shown=trainer.first) as advance,
    ):
        meter = _Meter()
        for step, fed in enumerate(trainer.feed.steps(done, config.steps), start=done + 1):
            last = step == config.steps
            due = [observer for every, observer in observers if step % every == 0 or last]
            logged = bool(due) or step % config.log_every == 0 or last
            saved = step % config.save_every == 0 or last
            row = trainer.step(step, fed, measured=logged or saved)
            meter.count(fed)
            if logged:
                history.append({"step": step, **row, **meter.rates()})
            if due and trainer.first:
                save_state(folder / STATE_FILE, trainer.run, step, history, config)
            for observer in due if trainer.first else ():
                history[-1].update(_observe(observer, step, sane))
            stopped = trainer.agree(interrupted(), logged)
            if (saved or stopped) and trainer.first:
                save_state(folder / STATE_FILE, trainer.run, step, history, config)
            if stopped and not last:
                raise TrainingStopped(f"stopped after step {step} of {config.steps}; --resume continues")
            advance(note=_note(history))
    return history


class _Trainer:
    """One process's model, optimiser and batches."""

    def __init__(self, sane: SANE, corpus: Corpus, config: TrainConfig) -> None:
        self.config, self.accelerator = config, make_accelerator(config)
        device = self.accelerator.device
        sane.to(device)
        optimizer = _make_optimizer(sane, config)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
        self.run = Run(sane, optimizer, schedule)
        prepared = self.accelerator.prepare_model(Objective(sane, config))
        self.objective: nn.Module = compiled(prepared, config, device)
        source = WindowSource(corpus, window=config.window, batch_size=config.batch_size, balance=config.balance)
        self.feed = Feed(source, config, self.accelerator.process_index, self.accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator.is_main_process

    def agree(self, stop: bool, asked: bool) -> bool:
        """Whether any process was asked to stop; several talk about it only at steps that are logged."""
        if self.accelerator.num_processes == 1:
            return stop
        if not asked:
            return False
        told = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told) > 0)

    def step(self, step: int, fed: Fed, *, measured: bool) -> Row:
        """One optimiser step; measures it, which takes time on a GPU, only if asked."""
        run, config = self.run, self.config
        run.sane.train()
        batch, *extras = _to_device(fed, self.accelerator.device)
        chance = derive_seed(config.seed, "dropout", step, self.accelerator.process_index)
        with (
            own_randomness(chance if run.sane.config.dropout else None, batch.mask.device),
            self.accelerator.autocast(),
        ):
            result: Losses = self.objective(batch, *extras)
        if (measured or batch.mask.device.type == "cpu") and not torch.isfinite(result.total):
            raise InputError(f"expected a finite loss, found {result.total.item()}: lower the learning rate")
        self.accelerator.backward(result.total)
        norm = self.accelerator.clip_grad_norm_(run.sane.parameters(), config.clip or torch.inf)
        rate = run.optimizer.param_groups[0]["lr"]
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.schedule.step()
        if not measured:
            return {}
        return {**_measure(self.accelerator, result, batch), "learning_rate": rate, "gradient_norm": float(norm)}


def _to_device(fed: Fed, device: torch.device) -> tuple[Batch, *tuple[torch.Tensor | None, ...]]:
    """A batch and what goes with it where the model is."""
    extras = (fed.scale, fed.share, fed.spread)
    if device.type == "cpu":
        return fed.batch, *extras
    batch = fed.batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
    return batch, *(own.to(device) if own is not None else None for own in extras)


def _measure(accelerator: Accelerator, result: Losses, batch: Batch) -> Row:
    """The losses of a step and the state of its latents, averaged over processes."""
    latents = result.latents.detach()[batch.present.repeat(len(batch.inputs), 1)].float()
    values = {
        "loss": result.total,
        "reconstruction": result.reconstruction,
        "contrastive": result.contrastive,
        "statistics": result.statistics,
        "latent_norm": latents.norm(dim=-1).mean(),
        "effective_rank": torch.tensor(effective_rank(latents), device=latents.device),
    }
    mean = accelerator.reduce(torch.stack([value.detach().float() for value in values.values()]), "mean")
    return dict(zip(values, mean.tolist(), strict=True))


def _make_optimizer(sane: SANE, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in sane.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in sane.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _observe(observer: Observer, step: int, sane: SANE) -> Row:
    sane.eval()
    with torch.no_grad():
        return {name: float(value) for name, value in observer(step, sane).items()}


def _note(history: History) -> str:
    if not history:
        return ""
    return f"loss {history[-1]['loss']:.3f}, {history[-1]['weights_per_second']:,.0f} weights/s"


class _Meter:
    """Real weights per second since the start of the run, and the share of the time that batches were waited for."""

    def __init__(self) -> None:
        self._start, self._weights, self._waited = time.perf_counter(), 0, 0.0

    def count(self, fed: Fed) -> None:
        self._weights += fed.weights
        self._waited += fed.waited

    def rates(self) -> Row:
        seconds = max(1e-9, time.perf_counter() - self._start)
        return {"weights_per_second": self._weights / seconds, "waiting_for_batches": self._waited / seconds}
