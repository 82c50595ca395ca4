"""The losses of pre-training, as one module, so that it can be compiled and run on several processes."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from weightspace.autoencoder.network import Network, token_statistics
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.devices import rows_of_all_processes
from weightspace.corpus.views import Batch
from weightspace.tokens.patterns import Entries

# What weights that are all alike (those of a fresh norm, or a single one) are divided by.
SMALLEST_SCALE = 0.01
SMALLEST_SPREAD = 0.02


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

    def __init__(self, network: Network, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

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
                share of the batch's weights and of what is known of its tokens, times the number of processes.
            spread: on several processes, that of the statistics over the whole batch.
        """
        config, network = self.config, self.network
        views, size = batch.inputs.shape[:2]
        positions, present = batch.positions.repeat(views, 1, 1), batch.present.repeat(views, 1)
        attended = present if batch.padded else None
        entries = Entries(batch.mask.repeat(views, 1, 1), batch.bias.repeat(views, 1, 1))
        heard = batch.heard.flatten(0, 1) if batch.heard is not None else None
        latents, summaries = network.encode(batch.inputs.flatten(0, 1), positions, entries, attended, heard)
        decoded = network.decode(latents, positions, entries, attended)
        targets = batch.targets.flatten(0, 1)
        reconstruction = masked_mse(decoded, targets, entries.mask, scale.flatten(0, 1) if scale is not None else None)
        contrastive, statistics = latents.new_zeros(()), latents.new_zeros(())
        if config.contrastive_weight:
            projected = network.project(summaries, present).view(views, size, -1)
            first, second = (rows_of_all_processes(view) for view in projected)
            contrastive = nt_xent(first, second, config.temperature)
        if config.statistics_weight:
            told = described(targets, entries, present, heard)
            statistics = statistics_loss(network.statistics(summaries), *told, spread)
        if share is not None:
            reconstruction, statistics = reconstruction * share[0], statistics * share[1]
        total = (1 - config.contrastive_weight) * reconstruction + config.contrastive_weight * contrastive
        return Losses(total + config.statistics_weight * statistics, reconstruction, contrastive, statistics, latents)


def masked_mse(
    predicted: Float[Tensor, "*batch width"],
    target: Float[Tensor, "*batch width"],
    mask: Bool[Tensor, "*masked width"],
    scale: Float[Tensor, "*scaled 1"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error per real weight (paper, equation 5); with a `scale`, errors are divided by it first.

    Deviation: divided by the number of real entries. The published code divides by all entries, so that
    padding dilutes the loss and layers with short rows count for little.
    """
    real = mask.expand_as(predicted)
    error = predicted - target if scale is None else (predicted - target) / scale
    return (error.square() * real).sum() / real.sum().clamp_min(1)


def target_scale(
    target: Float[Tensor, "*views batch window width"],
    mask: Bool[Tensor, "batch window width"],
    layer: Int[Tensor, "batch window"],
    kind: str,
) -> Float[Tensor, "*views batch window 1"] | None:
    """The standard deviation that errors are divided by: of the targets in the batch, each token, or each layer.

    MultiZoo-SANE (`masked loss normalisation`): its paper says per token, its code takes the whole batch.

    Args:
        target: what is to be reconstructed; 0 in the padding.
        mask: which entries are real.
        layer: which layer of its network every token is of.
        kind: `none`, `batch`, `token` or `layer` (of one window of one view).
    """
    if kind == "none":
        return None
    real = mask.expand_as(target).to(target.dtype)
    sums = torch.stack([real, target, target.square()])
    if kind == "batch":
        sums = sums.sum(dim=tuple(range(1, sums.ndim)), keepdim=True)
    elif kind == "token":
        sums = sums.sum(-1, keepdim=True)
    else:
        same = (layer[:, :, None] == layer[:, None, :]).to(target.dtype)
        sums = same @ sums.sum(-1, keepdim=True)
    count, total, squares = sums
    mean = total / count.clamp_min(1)
    scale = (squares / count.clamp_min(1) - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST_SCALE)
    return scale.expand(*target.shape[:-1], 1)


def nt_xent(
    first: Float[Tensor, "batch width"], second: Float[Tensor, "batch width"], temperature: float
) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross-entropy of two views (paper, equation 4; Chen et al., 2020).

    Row i of `first` and row i of `second` are the positive pair; all other 2 (batch - 1) rows are negatives.
    """
    both = functional.normalize(torch.cat([first, second]), dim=-1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(first)
    partner = torch.cat([torch.arange(count, 2 * count), torch.arange(count)]).to(first.device)
    return functional.cross_entropy(similarity, partner)


class Described(NamedTuple):
    """What summaries are to tell of tokens, and which of these numbers are known.

    Attributes:
        true: statistics, and what units do where networks were asked.
        known: those of real tokens, of networks that were asked.
    """

    true: Float[Tensor, "*views window statistics"]
    known: Bool[Tensor, "*views window statistics"]


def described(
    targets: Float[Tensor, "*views window width"],
    entries: Entries,
    present: Bool[Tensor, "*views window"],
    heard: Float[Tensor, "*views window numbers"] | None = None,
) -> Described:
    """What summaries are to tell of tokens: their statistics, and, of networks that were asked, what their units do."""
    true = token_statistics(targets, entries)
    known = present[..., None].expand_as(true)
    if heard is None:
        return Described(true, known)
    there = present[..., None] & ~heard.isnan()
    return Described(torch.cat([true, heard.nan_to_num()], dim=-1), torch.cat([known, there], dim=-1))


def spread_of(
    true: Float[Tensor, "*views window statistics"], known: Bool[Tensor, "*views window statistics"]
) -> Float[Tensor, "statistics"]:
    """The standard deviation of every statistic over the tokens of which it is known, and at least 0.02."""
    places = tuple(range(true.ndim - 1))
    count = known.sum(places).clamp_min(1)
    mean = (true * known).sum(places) / count
    variance = ((true - mean).square() * known).sum(places) / count
    return variance.sqrt().clamp_min(SMALLEST_SPREAD)


def statistics_loss(
    predicted: Float[Tensor, "batch window told"],
    true: Float[Tensor, "batch window statistics"],
    known: Bool[Tensor, "batch window statistics"],
    spread: Float[Tensor, "statistics"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error over what is known of tokens, every statistic divided by its spread: by default over them.

    What a model tells beyond `true` is left as it is.
    """
    told = predicted[..., : true.shape[-1]]
    error = (told - true) / (spread_of(true, known) if spread is None else spread)
    return (error.square() * known).sum() / known.sum().clamp_min(1)
