"""How the autoencoder is trained: pre-trained on weights, then distilled on what networks compute."""

from dataclasses import dataclass
from typing import Literal

from weightspace.errors import MOST, WIDEST, require_between


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the autoencoder is pre-trained (paper, section 3.2; values of the published code in brackets).

    Examples:
        >>> TrainConfig(steps=1_000, learning_rate=1e-3).steps
        1000
    """

    steps: int = 500
    """Optimiser steps."""

    window: int = 64
    """Tokens per window (32 to 256); shorter networks are padded and masked."""

    batch_size: int = 64
    """Windows per step over all processes, each of another member (32)."""

    balance: bool = True
    """Draw every zoo equally often, however many members it has; otherwise every member."""

    learning_rate: float = 4e-3
    """Peak of the one-cycle schedule (1e-4, for a model 16 times as wide), for a model of width 64."""

    rate_by_width: bool = True
    """Matrices inside a wider model take 64 / width of the learning rate, so that one rate suits every width."""

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
    """`auto` takes bf16 on a GPU that has it and, for a model of a million parameters, on a processor that is
    measured to be faster in it; fp32 elsewhere."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step; `auto` does so on a GPU, for a large model and many steps: it takes a minute."""

    save_every: int = 100
    """Steps between saved states, from which `--resume` continues."""

    log_every: int = 10
    """Steps between rows of the training history."""

    seed: int = 0
    """Decides the initial weights and every step's batch."""

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("steps", "save_every", "log_every"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        require_between("window", self.window, 1, MOST)
        require_between("batch size", self.batch_size, 2, WIDEST)
        for name in ("learning_rate", "temperature"):
            require_between(name.replace("_", " "), getattr(self, name), 1e-12, 1e6)
        require_between("erase", self.erase, 0, 0.99)
        for name in ("weight_decay", "clip", "noise", "statistics_weight", "rescale_second_view"):
            require_between(name.replace("_", " "), getattr(self, name), 0)
        require_between("contrastive weight", self.contrastive_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How a trained autoencoder learns that decoded networks should compute what encoded ones did.

    Examples:
        >>> DistillConfig(steps=200).steps
        200
    """

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

    distillation_weight: float = 1.0
    """Weight of the distillation loss, divided by its first value."""

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

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("steps", "queries", "windows", "save_every", "log_every"):
            require_between(name.replace("_", " "), getattr(self, name), 1)
        require_between("networks", self.networks, 2, WIDEST)
        require_between("mixed", self.mixed, 0, 1)
        require_between("learning rate", self.learning_rate, 1e-12, 1e6)
        for name in ("latent_noise", "reconstruction_weight", "distillation_weight", "clip"):
            require_between(name.replace("_", " "), getattr(self, name), 0)
        require_between("statistics weight", self.statistics_weight or 0.0, 0)
