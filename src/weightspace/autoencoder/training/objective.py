"""The pre-training loss of a model, as one module, so that it can be compiled and run on several processes."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.autoencoder.config import TrainConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.token_statistics import statistics_loss, token_statistics
from weightspace.autoencoder.training.devices import rows_of_all_processes
from weightspace.autoencoder.training.losses import masked_mse, nt_xent
from weightspace.corpus.views import Batch
from weightspace.tokens.patterns import Entries


class Losses(NamedTuple):
    """The loss and its terms, and the latents it was computed from."""

    total: Tensor
    reconstruction: Tensor
    contrastive: Tensor
    statistics: Tensor
    latents: Tensor


class Objective(nn.Module):
    """(1 - γ) reconstruction + γ contrastive (paper, equation 3), and our term for the tokens' statistics.

    All views go through the model in one forward pass.
    """

    def __init__(self, sane: SANE, config: TrainConfig) -> None:
        super().__init__()
        self.sane, self.config = sane, config

    def forward(
        self,
        batch: Batch,
        scale: Float[Tensor, "views batch window 1"] | None = None,
        share: Float[Tensor, "2"] | None = None,
        spread: Float[Tensor, "statistics"] | None = None,
    ) -> Losses:
        """The losses of a batch.

        Args:
            batch: windows in two views, or in one without the contrastive term.
            scale: what errors are divided by; see `target_scale`.
            share: on several processes, what the two means over this process's part of the batch count: its
                share of the batch's weights and of its tokens, times the number of processes.
            spread: on several processes, that of the statistics over the whole batch.
        """
        config, sane = self.config, self.sane
        views, size = batch.inputs.shape[:2]
        positions, present = batch.positions.repeat(views, 1, 1), batch.present.repeat(views, 1)
        attended = present if batch.padded else None
        entries = Entries(batch.mask.repeat(views, 1, 1), batch.bias.repeat(views, 1, 1))
        latents = sane.encode(batch.inputs.flatten(0, 1), positions, entries, attended)
        decoded = sane.decode(latents, positions, attended)
        targets = batch.targets.flatten(0, 1)
        reconstruction = masked_mse(decoded, targets, entries.mask, scale.flatten(0, 1) if scale is not None else None)
        contrastive, statistics = latents.new_zeros(()), latents.new_zeros(())
        if config.contrastive_weight:
            projected = sane.project(latents, present).view(views, size, -1)
            first, second = (rows_of_all_processes(own) for own in projected)
            contrastive = nt_xent(first, second, config.temperature)
        if config.statistics_weight:
            statistics = statistics_loss(sane.statistics(latents), token_statistics(targets, entries), present, spread)
        if share is not None:
            reconstruction, statistics = reconstruction * share[0], statistics * share[1]
        total = (1 - config.contrastive_weight) * reconstruction + config.contrastive_weight * contrastive
        return Losses(total + config.statistics_weight * statistics, reconstruction, contrastive, statistics, latents)
