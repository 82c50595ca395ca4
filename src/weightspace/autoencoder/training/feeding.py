"""Batches for the training steps, drawn by a thread while the step before is computed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.autoencoder.config import TrainConfig
from weightspace.autoencoder.token_statistics import spread_of, token_statistics
from weightspace.autoencoder.training.losses import target_scale
from weightspace.corpus.views import Batch, Views, WindowSource
from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.tokens.patterns import Entries


class Fed(NamedTuple):
    """What one process computes in one step.

    Attributes:
        batch: its part of the step's batch.
        scale, share, spread: see `Objective`.
        weights: real weights in the whole batch.
        waited: seconds for which the step waited for it.
    """

    batch: Batch
    scale: Tensor | None
    share: Tensor | None
    weights: int
    waited: float = 0.0
    spread: Tensor | None = None


class Feed:
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

    def steps(self, start: int, stop: int) -> Iterator[Fed]:
        """What is computed in the steps `start` to `stop`, one drawn ahead."""
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(self.draw, start)
            for step in range(start, stop):
                began = time.perf_counter()
                fed = waiting.result()
                waited = time.perf_counter() - began
                if step + 1 < stop:
                    waiting = thread.submit(self.draw, step + 1)
                yield fed._replace(waited=waited)

    def draw(self, step: int) -> Fed:
        """One step's batch."""
        whole = self.source.draw(derive_generator(self.config.seed, "step", step), self.views)
        layer = whole.positions[..., 1]
        scale = target_scale(whole.targets, whole.mask, layer, self.config.loss_scale)
        if self.processes == 1:
            return Fed(whole, scale, None, whole.weights)
        own = whole.part(self.rank, self.processes)
        shares = [
            float(part.sum() / all_of_it.sum())
            for part, all_of_it in ((own.mask, whole.mask), (own.present, whole.present))
        ]
        share = self.processes * torch.tensor(shares)
        if scale is not None:
            size = len(own.mask)
            scale = scale[:, self.rank * size : (self.rank + 1) * size]
        true = token_statistics(whole.targets, Entries(whole.mask, whole.bias))
        spread = spread_of(true, whole.present.expand(len(true), -1, -1))
        return Fed(own, scale, share, whole.weights, spread=spread)
