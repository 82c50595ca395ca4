"""The autoencoder's shape and how it is trained."""

from dataclasses import dataclass
from typing import Literal

from weightspace.errors import InputError, require_between


@dataclass(frozen=True, kw_only=True)
class SANEConfig:
    """The shape of the autoencoder (paper, section 3.1 and table 8)."""

    latent_width: int = 32
    """Numbers per token in the latent (the paper: 128)."""

    model_width: int = 64
    """Width of the transformer (the paper: 1,024 for CNNs, 2,048 for ResNets)."""

    layers: int = 2
    """Transformer blocks in the encoder, and as many in the decoder (the paper: 4 and 8)."""

    heads: int = 4
    """Attention heads (the paper: 4 or 8)."""

    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """`sinusoidal` reaches beyond any network seen in training; `learned` are the paper's tables."""

    position_limits: tuple[int, ...] = (1024, 64, 512, 64)
    """Sizes of the learned tables: token, layer, row, chunk; positions beyond them are refused."""

    projection: Literal["mean", "flatten"] = "mean"
    """What the contrastive loss sees of a window: its mean latent, or all latents in a row (the paper)."""

    projection_width: int = 30
    """Width of the projection head (the published code: 30)."""

    linear_path: bool = False
    """Latents also hold an orthogonal projection of their token, from which it is decoded; transformers add the rest.
    Reconstructs better after few steps, for writing networks (ours; the paper has no such path)."""

    dropout: float = 0.0
    """Dropout in the transformer (the paper: 0)."""

    initial_std: float = 0.0
    """Standard deviation of initial matrices; 0 takes one over the root of their inputs (the published code: 0.02)."""

    def check(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("latent_width", "model_width", "layers", "heads", "projection_width"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        require_between("dropout", self.dropout, 0, 0.99)
        require_between("initial std", self.initial_std, 0)
        if self.model_width % self.heads:
            raise InputError(f"expected heads that divide the model width {self.model_width}, found {self.heads}")
        if self.positions == "learned" and (self.model_width % 2 or len(self.position_limits) != 4):
            found = f"{self.model_width} and {len(self.position_limits)}"
            raise InputError(f"expected an even model width and 4 position limits for learned positions, found {found}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the autoencoder is pre-trained (paper, section 3.2; values of the published code in brackets)."""

    steps: int = 500
    """Optimiser steps."""

    window: int = 64
    """Tokens per window (32 to 256); shorter networks are padded and masked."""

    batch_size: int = 64
    """Windows per step over all processes, each of another member (32)."""

    balance: bool = True
    """Draw every zoo equally often, however many members it has; otherwise every member."""

    learning_rate: float = 4e-3
    """Peak of the one-cycle schedule (1e-4, for a model 16 times as wide)."""

    weight_decay: float = 3e-9
    """AdamW weight decay of the matrices (3e-9)."""

    clip: float = 1.0
    """Gradients are clipped to this norm; 0 does not clip (the published code's default)."""

    contrastive_weight: float = 0.05
    """γ: the loss is (1 - γ) reconstruction + γ contrastive (0.05)."""

    statistics_weight: float = 0.3
    """Weight of predicting each token's statistics from its latent by a linear map (ours; the paper: 0)."""

    temperature: float = 0.1
    """τ of the contrastive loss (0.1)."""

    loss_scale: Literal["none", "batch", "token", "layer"] = "none"
    """Divide squared errors by the variance of the true weights in the whole batch, in their token or in their layer
    of the window, or leave them (the paper); for weights that are not standardised (MultiZoo-SANE)."""

    noise: float = 0.05
    """Standard deviation of Gaussian noise on the standardised inputs (0.1, multiplicative)."""

    noise_kind: Literal["additive", "multiplicative"] = "additive"
    """Noise is added to weights, or weights are multiplied by 1 + noise (the paper)."""

    denoise: bool = True
    """Targets stay clean; otherwise the noisy inputs are what is reconstructed (the paper)."""

    erase: float = 0.0
    """Share of a window's tokens whose inputs are set to 0 (0)."""

    permute_second_view: bool = True
    """The second view is a randomly permuted network, the first the canonical one (the paper)."""

    rescale_second_view: float = 0.0
    """Spread (of the logarithm) of random scales in the second view, where the preparation made scales canonical; signs
    that it made canonical are drawn too. 0: none (the paper)."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 on a GPU that has it, and fp32 elsewhere."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step; `auto` does so on a GPU only."""

    save_every: int = 100
    """Steps between saved states, from which `--resume` continues."""

    log_every: int = 10
    """Steps between rows of the training history."""

    seed: int = 0
    """Decides the initial weights and every step's batch."""

    def check(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("steps", "window", "save_every", "log_every"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        require_between("batch size", self.batch_size, 2)
        for name in ("learning_rate", "temperature"):
            require_between(name.replace("_", " "), getattr(self, name), 1e-12, 1e6)
        require_between("erase", self.erase, 0, 0.99)
        for name in ("weight_decay", "clip", "noise", "statistics_weight", "rescale_second_view"):
            require_between(name.replace("_", " "), getattr(self, name), 0)
        require_between("contrastive weight", self.contrastive_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class BehaviourConfig:
    """How a trained autoencoder is taught that decoded networks should compute what encoded ones did."""

    steps: int = 1_000
    """Optimiser steps."""

    networks: int = 16
    """Networks per step, all of one architecture."""

    queries: int = 32
    """Inputs per step that all its networks answer."""

    query_source: Literal["data", "noise"] = "data"
    """Queries are training images (their labels are not used), or Gaussian noise of their shape."""

    mixed: float = 0.0
    """Share of the networks that are decoded from a mixture of two networks' latents; they should answer with the same
    mixture of the two networks' answers."""

    latent_noise: float = 0.1
    """Standard deviation of Gaussian noise on the latents, as a share of their spread over the step's networks."""

    reconstruction_weight: float = 1.0
    """Weight of the reconstruction loss, divided by its first value."""

    behaviour_weight: float = 1.0
    """Weight of the behavioural loss, divided by its first value."""

    statistics_weight: float | None = None
    """Weight of predicting each token's statistics from its latent, divided by its first value; as in pre-training if
    it is not given."""

    windows: int = 4
    """Windows of a long network through which the gradient goes; the others are decoded without."""

    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""

    clip: float = 1.0
    """Gradients are clipped to this norm; 0 does not clip."""

    save_every: int = 100
    """Steps between saved states, from which `--resume` continues."""

    log_every: int = 10
    """Steps between rows of the training history."""

    seed: int = 0
    """Decides every step's networks, queries, mixtures and noise."""

    def check(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("steps", "queries", "windows", "save_every", "log_every"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        require_between("networks", self.networks, 2)
        require_between("mixed", self.mixed, 0, 1)
        require_between("learning rate", self.learning_rate, 1e-12, 1e6)
        for name in ("latent_noise", "reconstruction_weight", "behaviour_weight", "clip"):
            require_between(name.replace("_", " "), getattr(self, name), 0)
        require_between("statistics weight", self.statistics_weight or 0.0, 0)
