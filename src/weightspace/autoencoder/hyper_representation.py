"""Hyper-representations: the whole-model autoencoders before SANE, as baselines.

Schürholt, Kostadinov and Borth (2021): a transformer reads all tokens of a network and compresses them into one
vector, trained to reconstruct them and, by contrast, to tell networks apart. Schürholt et al. (2022): every layer
counts alike in the reconstruction, however small its weights are.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.inference import Embeddings
from weightspace.autoencoder.positions import SinusoidalPositions
from weightspace.autoencoder.training.feeding import Feed
from weightspace.autoencoder.training.losses import masked_mse, nt_xent
from weightspace.autoencoder.transformer import Transformer
from weightspace.corpus.corpus import Corpus, build_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import Batch, WindowSource, whole_networks
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.randomness import derive_seed
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
    with TemporaryDirectory(prefix="weightspace-") as folder:
        corpus = build_corpus(zoo, preparation, Path(folder))
        length = _length(corpus)
        training = replace(training, window=length)
        model = HyperRepresentation(config, preparation.config.token_width, training.seed)
        optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps)
        source = WindowSource(corpus, window=length, batch_size=training.batch_size, balance=training.balance)
        with progress_bar(NAME, training.steps) as advance:
            for fed in Feed(source, training, 0, 1).steps(0, training.steps):
                loss = _loss(model, fed.batch, training)
                if not torch.isfinite(loss):
                    raise InputError(f"expected a finite loss, found {loss.item()}: lower the learning rate")
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), training.clip or torch.inf)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                advance()
    return model.eval()


def embed_whole(
    model: HyperRepresentation, zoo: Zoo, preparation: Preparation, trained_on: frozenset[str] = frozenset()
) -> Embeddings:
    """The latent of every checkpoint of a zoo."""
    rows, tables = [], []
    with TemporaryDirectory(prefix="weightspace-") as folder, torch.inference_mode():
        corpus = build_corpus(zoo, preparation, Path(folder))
        _length(corpus)
        for part in corpus.parts:
            for flat in part.chunks():
                tokens = whole_networks(part, flat)
                rows.append(model.encode(tokens, part.positions.expand(len(tokens), -1, -1)).numpy())
            tables.append(part.table)
    order = zoo.order_of(pd.concat(tables))
    return Embeddings(np.concatenate(rows)[order], zoo.table, NAME, trained_on)


def _loss(model: HyperRepresentation, batch: Batch, training: TrainConfig) -> Tensor:
    views, size = batch.inputs.shape[:2]
    positions = batch.positions.repeat(views, 1, 1)
    latents = model.encode(batch.inputs.flatten(0, 1), positions)
    decoded, targets = model.decode(latents, positions), batch.targets.flatten(0, 1)
    scale = _layer_scale(batch.mask, batch.positions[0, :, 1]).repeat(views, 1, 1)
    loss = masked_mse(decoded, targets, batch.mask.repeat(views, 1, 1), scale)
    if views == 1 or not training.contrastive_weight:
        return loss
    first, second = model.head(latents).view(views, size, -1)
    share = training.contrastive_weight
    return (1 - share) * loss + share * nt_xent(first, second, training.temperature)


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
