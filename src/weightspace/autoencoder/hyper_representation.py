"""Hyper-representations: the whole-model autoencoders before SANE, as baselines.

Schürholt, Kostadinov and Borth (2021): a transformer reads all tokens of a network and compresses them into one
vector, trained to reconstruct them and, by contrast, to tell networks apart. Schürholt et al. (2022): every layer
counts alike in the reconstruction, however small its weights are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import SinusoidalPositions, Transformer
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.devices import (
    make_accelerator,
    rows_of_all_processes,
    training_device,
    training_operations,
)
from weightspace.autoencoder.training.feeding import BatchQueue, StepBatch
from weightspace.autoencoder.training.loop import Loop, StepLosses
from weightspace.autoencoder.training.objective import masked_mse, nt_xent
from weightspace.corpus.corpus import Corpus, opened_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import Batch, WindowSource, whole_networks
from weightspace.errors import InputError
from weightspace.randomness import derive_seed
from weightspace.zoo.embeddings import Embeddings, Representation, rows_in_order
from weightspace.zoo.zoo import Zoo

NAME = "hyper-representation"


class HyperRepresentation(nn.Module):
    """A whole network in, one latent out, and back.

    Deviations: the positions and the transformer are SANE's; weights are standardised per tensor, which makes every
    layer's squared errors alike in size as the layer-wise normalised loss does, and layers are averaged.
    """

    def __init__(self, config: SANEConfig, token_width: int, seed: int = 0) -> None:
        super().__init__()
        width = config.model_width
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, NAME))
            self.token_in, self.token_out = nn.Linear(token_width, width), nn.Linear(width, token_width)
            self.latent_out, self.latent_in = (
                nn.Linear(width, config.latent_width),
                nn.Linear(config.latent_width, width),
            )
            self.summary = nn.Parameter(torch.randn(width) * width**-0.5)
            self.encoder = Transformer(width, config.layers, config.heads, config.dropout)
            self.decoder = Transformer(width, config.layers, config.heads, config.dropout)
            self.head = nn.Sequential(nn.Linear(config.latent_width, config.projection_width), nn.ReLU())
            self.positions = SinusoidalPositions(width)

    def encode(
        self, tokens: Float[Tensor, "batch tokens width"], positions: Int[Tensor, "batch tokens 4"]
    ) -> Float[Tensor, "batch latent"]:
        """One latent for each network: what the summary token has gathered."""
        x = self.token_in(tokens) + self.positions(positions)
        x = torch.cat([self.summary.expand(len(x), 1, -1), x], dim=1)
        return self.latent_out(self.encoder(x)[:, 0])

    def decode(
        self, latent: Float[Tensor, "batch latent"], positions: Int[Tensor, "batch tokens 4"]
    ) -> Float[Tensor, "batch tokens width"]:
        """All tokens from one latent."""
        return self.token_out(self.decoder(self.latent_in(latent)[:, None] + self.positions(positions)))


def fit_hyper_representation(
    zoo: Zoo, preparation: Preparation, config: SANEConfig, training: TrainConfig
) -> HyperRepresentation:
    """Train on the members of a zoo of one layout; the latent of `config` is that of a whole network.

    Raises:
        InputError: networks of several layouts, or a loss that is not finite.
    """
    with opened_corpus(zoo, preparation) as corpus:
        length = _length(corpus)
        training = replace(training, window=length, weight_decay=0.0)
        accelerator = make_accelerator(idle=not training.contrastive_weight)
        network = HyperRepresentation(config, preparation.config.token_width, training.seed)
        network.to(training_device(accelerator, training.device, training_operations(network, training)))
        source = WindowSource(corpus, window=length, batch_size=training.batch_size, balance=training.balance)
        queue = BatchQueue(source, training, accelerator.process_index, accelerator.num_processes)
        objective = accelerator.prepare_model(HyperObjective(network, training))
        Loop(Summarizing(network, objective, queue, accelerator, config.dropout), training, accelerator).run()
    return network.cpu().eval()


class HyperObjective(nn.Module):
    """Reconstruction in which every layer counts alike, and contrast between networks."""

    def __init__(self, network: HyperRepresentation, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch of whole networks."""
        views, size = batch.inputs.shape[:2]
        positions = batch.positions.repeat(views, 1, 1)
        latents = self.network.encode(batch.inputs.flatten(0, 1), positions)
        decoded, targets = self.network.decode(latents, positions), batch.targets.flatten(0, 1)
        scale = _layer_scale(batch.mask, batch.positions[0, :, 1]).repeat(views, 1, 1)
        loss = masked_mse(decoded, targets, batch.mask.repeat(views, 1, 1), scale)
        share = self.config.contrastive_weight
        if views == 1 or not share:
            return loss
        projected = self.network.head(latents).view(views, size, -1)
        first, second = (rows_of_all_processes(view) for view in projected)
        return (1 - share) * loss + share * nt_xent(first, second, self.config.temperature)


@dataclass(frozen=True)
class Summarizing:
    """The stage in which a hyper-representation learns to keep whole networks."""

    network: HyperRepresentation
    objective: nn.Module
    queue: BatchQueue
    accelerator: Accelerator
    dropout: float
    description: str = NAME

    @property
    def worst_useful_loss(self) -> None:
        """There is none: predicting the mean is nothing that this loss could be held against."""
        return

    def draw(self, step: int) -> StepBatch:
        """The batch of a step."""
        return self.queue.draw(step)

    def losses(self, drawn: StepBatch) -> StepLosses:
        """The loss of a step."""
        loss = self.objective(drawn.batch.map(lambda tensor: tensor.to(self.network.summary.device)))
        return StepLosses(loss, lambda: {"loss": float(loss.detach())}, drawn.weights)


def embed_whole(
    network: HyperRepresentation, zoo: Zoo, preparation: Preparation, trained_on: frozenset[str] = frozenset()
) -> Embeddings:
    """The latent of every checkpoint of a zoo."""

    def parts() -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        for part in corpus.parts:
            rows = []
            for flat in part.chunks():
                tokens = whole_networks(part, flat)
                rows.append(network.encode(tokens, part.positions.expand(len(tokens), -1, -1)).numpy())
            yield np.concatenate(rows), part.table

    with opened_corpus(zoo, preparation) as corpus, torch.no_grad():
        _length(corpus)
        return Embeddings(rows_in_order(zoo, parts(), NAME), zoo.table, Representation(NAME), trained_on)


def _layer_scale(
    mask: Bool[Tensor, "batch tokens width"], layers: Int[Tensor, "tokens"]
) -> Float[Tensor, "batch tokens 1"]:
    """What errors are divided by so that every layer counts alike in their mean over all weights."""
    entries = mask[0].sum(-1).float()
    sizes = torch.zeros(int(layers.max()) + 1).index_add(0, layers, entries)
    share = sizes[layers] * (sizes > 0).sum() / entries.sum()
    return share.sqrt()[None, :, None].expand(len(mask), -1, 1)


def _length(corpus: Corpus) -> int:
    lengths = {len(part.frame.layout) for part in corpus.parts}
    if len(lengths) > 1:
        raise InputError(f"expected networks of one layout for a {NAME}, found lengths {sorted(lengths)}")
    return lengths.pop()
