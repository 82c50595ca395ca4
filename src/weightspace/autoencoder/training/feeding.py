"""Batches for the training steps, drawn by a thread while the step before is computed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.objective import described, spread_of, target_scale
from weightspace.corpus.views import Batch, Views, WindowSource
from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.tokens.patterns import Entries


class Waited(NamedTuple):
    """What a step is computed from, and for how many seconds the step waited for it."""

    drawn: Any
    seconds: float


def draw_ahead(draw: Callable[[int], Any], start: int, stop: int) -> Iterator[Waited]:
    """What is drawn for the steps `start` to `stop`, each by a thread while the step before is computed."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(draw, start)
        for step in range(start, stop):
            began = time.perf_counter()
            drawn = waiting.result()
            seconds = time.perf_counter() - began
            if step + 1 < stop:
                waiting = thread.submit(draw, step + 1)
            yield Waited(drawn, seconds)


class StepBatch(NamedTuple):
    """What one process computes in one step.

    Attributes:
        batch: its part of the step's batch.
        scale, share, spread: see `Objective`.
        weights: real weights in the whole batch.
    """

    batch: Batch
    scale: Tensor | None
    share: Tensor | None
    weights: int
    spread: Tensor | None = None


class BatchQueue:
    """Draws the batch of every step from a generator of the step's own, and hands out one process's part.

    Every process draws the whole batch, so that runs on one process and on several see the same.

    Raises:
        InputError: a batch that the processes cannot share equally.
    """

    def __init__(self, source: WindowSource, config: TrainConfig, rank: int = 0, processes: int = 1) -> None:
        if source.batch_size % processes:
            fits = source.batch_size // processes * processes
            raise InputError(
                f"expected a batch that {processes} processes share equally, found {source.batch_size} (at most one "
                f"window of each member): --batch-size {fits} fits"
            )
        self.source, self.config, self.rank, self.processes = source, config, rank, processes
        two = (False, config.permute_second_view)
        self.views = Views(
            permuted=two if config.contrastive_weight else two[1:],
            noise=config.noise,
            multiplicative=config.noise_kind == "multiplicative",
            denoise=config.denoise,
            erase=config.erase,
            spread=config.rescale_second_view,
        )

    def draw(self, step: int) -> StepBatch:
        """One step's batch."""
        whole = self.source.draw(derive_generator(self.config.seed, "step", step), self.views)
        layer = whole.positions[..., 1]
        scale = target_scale(whole.targets, whole.mask, layer, self.config.loss_scale)
        if self.processes == 1:
            return StepBatch(whole, scale, None, whole.weights)
        part = whole.part(self.rank, self.processes)
        here = slice(self.rank * len(part.mask), (self.rank + 1) * len(part.mask))
        present = whole.present.expand(len(whole.targets), -1, -1)
        told = described(whole.targets, Entries(whole.mask, whole.bias), present, whole.heard)
        shares = [float(part.mask.sum() / whole.mask.sum()), float(told.known[:, here].sum() / told.known.sum())]
        if scale is not None:
            scale = scale[:, here]
        share = self.processes * torch.tensor(shares)
        return StepBatch(part, scale, share, whole.weights, spread=spread_of(*told))
