"""SANE itself: tokens to latents and back, saved with everything it needs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.positions import LearnedPositions, SinusoidalPositions
from weightspace.autoencoder.token_statistics import STATISTICS, token_statistics
from weightspace.autoencoder.transformer import Transformer
from weightspace.corpus.preparation import Preparation
from weightspace.errors import InputError
from weightspace.outputs import write_json
from weightspace.randomness import derive_seed
from weightspace.tokens.patterns import Entries
from weightspace.zoo.zoo import Zoo

if TYPE_CHECKING:
    from weightspace.autoencoder.inference import Embeddings

CONFIG_FILE, MODEL_FILE, PREPARATION_FOLDER = "config.json", "model.safetensors", "preparation"
FORMAT = 2


class SANE(nn.Module):
    """The sequential autoencoder for neural embeddings (paper, section 3.1).

    Encoder and decoder: a linear map into the transformer's width, positions added, transformer blocks, a
    linear map out. The same position embedding serves both.

    Attributes:
        preparation: how raw weights become tokens; saved with the model.
        members: names of the members it was trained on, so that overlap with test members can be counted.
        about: what else is recorded of its training.
    """

    def __init__(self, config: SANEConfig, preparation: Preparation, *, window: int, seed: int = 0) -> None:
        super().__init__()
        self.config, self.preparation, self.window = config, preparation, window
        self.members: list[str] = []
        self.about: dict[str, Any] = {}
        token_width, width = preparation.config.token_width, config.model_width
        self.token_in = nn.Linear(token_width + len(STATISTICS), width)
        self.latent_out = nn.Linear(width, config.latent_width)
        self.latent_in = nn.Linear(config.latent_width, width)
        self.token_out = nn.Linear(width, token_width)
        self.encoder = Transformer(width, config.layers, config.heads, config.dropout)
        self.decoder = Transformer(width, config.layers, config.heads, config.dropout)
        learned = config.positions == "learned"
        self.positions = LearnedPositions(width, config.position_limits) if learned else SinusoidalPositions(width)
        self.head = _projection_head(config, window)
        self.statistics = nn.Linear(config.latent_width, len(STATISTICS))
        if config.linear_path:
            self.token_to_latent = nn.Linear(token_width, config.latent_width, bias=False)
            self.latent_to_token = nn.Linear(config.latent_width, token_width, bias=False)
        self._initialize(derive_seed(seed, "sane"))

    def encode(
        self,
        tokens: Float[Tensor, "batch window width"],
        positions: Int[Tensor, "batch window 4"],
        entries: Entries,
        present: Bool[Tensor, "batch window"] | None = None,
    ) -> Float[Tensor, "batch window latent"]:
        """Latents of windows of tokens.

        Deviation: beside each token the encoder sees its statistics (see `statistics`), which a linear map of its
        entries cannot tell it.
        """
        seen = torch.cat([tokens, token_statistics(tokens, entries)], dim=-1)
        x = self.token_in(seen) + self.positions(positions)
        latents = self.latent_out(self.encoder(x, present))
        return latents + self.token_to_latent(tokens) if self.config.linear_path else latents

    def decode(
        self,
        latents: Float[Tensor, "batch window latent"],
        positions: Int[Tensor, "batch window 4"],
        present: Bool[Tensor, "batch window"] | None = None,
    ) -> Float[Tensor, "batch window width"]:
        """Tokens of windows of latents."""
        x = self.latent_in(latents) + self.positions(positions)
        tokens = self.token_out(self.decoder(x, present))
        return tokens + self.latent_to_token(latents) if self.config.linear_path else tokens

    def project(
        self, latents: Float[Tensor, "batch window latent"], present: Bool[Tensor, "batch window"]
    ) -> Float[Tensor, "batch projection"]:
        """What the contrastive loss compares.

        Deviation: `mean` pools over the present tokens and so takes windows of any length; `flatten` is the
        paper's. The published head ends in a ReLU, which leaves no negative cosines; ours does not.
        """
        kept = latents * present[..., None]
        if self.config.projection == "flatten":
            return self.head(kept.flatten(1))
        return self.head(kept.sum(1) / present.sum(1, keepdim=True).clamp_min(1))

    def embed(self, zoo: Zoo, aggregation: str = "mean") -> "Embeddings":
        """One vector per checkpoint of a zoo; see `weightspace.embed`."""
        from weightspace.autoencoder.inference import embed

        return embed(self, zoo, aggregation)

    def trained_on(self, zoo: Zoo) -> frozenset[str]:
        """Those members of a zoo that it was trained on.

        Of several zoos with members of the same names, it knows members as `FOLDER/member` (see `concatenate`).
        """
        known, folder = set(self.members), zoo.folder.absolute()
        return frozenset(own for own in zoo.members if known & {own, f"{folder.name}/{own}", f"{folder}/{own}"})

    @property
    def latents_per_weight(self) -> float:
        """Latent numbers for every real weight of the networks it was trained on."""
        layouts = [frame.layout for frame in self.preparation.frames.values()]
        tokens, weights = sum(len(layout) for layout in layouts), sum(layout.size for layout in layouts)
        return tokens * self.config.latent_width / max(1, weights)

    def save(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors` and `preparation/` into an existing folder."""
        write_json(
            folder / CONFIG_FILE,
            {
                "format": FORMAT,
                "sane": asdict(self.config),
                "window": self.window,
                "members": self.members,
                "about": self.about,
            },
        )
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()},
            folder / MODEL_FILE,
        )
        self.preparation.save(folder / PREPARATION_FOLDER)

    @classmethod
    def open(cls, folder: str | Path) -> "SANE":
        """Open a trained model in evaluation mode; nothing else has to be passed.

        Raises:
            InputError: no model there, or a damaged one.
        """
        folder = Path(folder)
        try:
            value = json.loads((folder / CONFIG_FILE).read_text())
            require_format(value["format"], folder)
            sane = value["sane"]
            config = SANEConfig(**{**sane, "position_limits": tuple(sane["position_limits"])})
            model = cls(config, Preparation.open(folder / PREPARATION_FOLDER), window=value["window"])
            model.load_state_dict(load_file(folder / MODEL_FILE))
            model.members, model.about = list(value["members"]), dict(value["about"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"expected a trained SANE ({CONFIG_FILE}, {MODEL_FILE}) in {folder}, found none"
            ) from error
        return model.eval()

    def _initialize(self, seed: int) -> None:
        """Normal with variance 1 / inputs; the blocks' outputs are smaller with depth, as published.

        Deviation: the published standard deviation of 0.02 suits widths of 1,024 and more. At width 64 it
        costs half of what 200 steps can learn (LOG.md, "Initial scale").
        """
        generator = torch.Generator().manual_seed(seed)
        shrink = (2 * self.config.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                std = (self.config.initial_std or parameter.shape[1] ** -0.5) * (shrink if residual else 1)
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.config.linear_path:
            nn.init.orthogonal_(self.token_to_latent.weight, generator=generator)
            self.latent_to_token.weight.data = self.token_to_latent.weight.data.T.clone()
            for last in (self.latent_out, self.token_out):
                nn.init.zeros_(last.weight)


def require_format(found: object, folder: Path) -> None:
    """Raise `InputError` for a folder that another version of the package wrote."""
    if found != FORMAT:
        raise InputError(f"expected a SANE of format {FORMAT} in {folder}, found format {found}: pre-train it again")


def _projection_head(config: SANEConfig, window: int) -> nn.Sequential:
    inputs = config.latent_width * (window if config.projection == "flatten" else 1)
    return nn.Sequential(
        nn.Linear(inputs, config.projection_width, bias=False),
        nn.LayerNorm(config.projection_width),
        nn.ReLU(),
        nn.Linear(config.projection_width, config.projection_width, bias=False),
    )
