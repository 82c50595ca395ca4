"""The autoencoder's shape."""

from dataclasses import dataclass
from typing import Literal

from weightspace.errors import WIDEST, InputError, require_between

MOST_LAYERS = 1_000


@dataclass(frozen=True, kw_only=True)
class SANEConfig:
    """The shape of the autoencoder (paper, section 3.1 and table 8).

    Examples:
        >>> SANEConfig(latent_width=16).latent_width
        16
    """

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

    linear_path: bool = True
    """Latents hold the weights of short tokens as they are and a projection of long ones, never more numbers than their
    token has weights; transformers add to it. Embeddings are made of an output of their own (the paper: neither)."""

    responses: Literal["none", "seen", "predicted"] = "none"
    """What units do when networks are asked (see `responses`), beside the rows that make them: `seen`, so that
    embeddings tell it; `predicted` from weights alone, networks being asked in training only; or `none` (the paper).
    Latents, from which weights are decoded, are made of weights alone."""

    dropout: float = 0.0
    """Dropout in the transformer (the paper: 0)."""

    initial_std: float = 0.0
    """Standard deviation of initial matrices; 0 takes one over the root of their inputs (the published code: 0.02)."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("latent_width", "model_width", "heads", "projection_width"):
            require_between(name.replace("_", " "), getattr(self, name), 1, WIDEST)
        require_between("layers", self.layers, 1, MOST_LAYERS)
        require_between("dropout", self.dropout, 0, 0.99)
        require_between("initial std", self.initial_std, 0)
        if self.model_width % self.heads:
            raise InputError(f"expected heads that divide the model width {self.model_width}, found {self.heads}")
        if self.responses == "seen" and not self.linear_path:
            raise InputError("expected a linear path, beside which responses are seen, found none: use --linear-path")
        if self.positions == "learned" and (self.model_width % 2 or len(self.position_limits) != 4):
            found = f"{self.model_width} and {len(self.position_limits)}"
            raise InputError(f"expected an even model width and 4 position limits for learned positions, found {found}")
