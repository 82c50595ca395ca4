"""How weights are prepared for an autoencoder."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """How weights become tokens."""

    token_width: int = 0
    """Numbers per token; 0 takes the longest row of the zoo's layers, but at most 288 (the paper's width)."""

    token_style: Literal["rows", "packed"] = "rows"
    """`rows` puts one output row (or a chunk of one) in a token, as the paper does; `packed` several short ones."""

    standardize: Literal["tensor", "kind", "none"] = "tensor"
    """Subtract the mean and divide by the standard deviation of each tensor, of each layer kind, or not at all."""

    align: bool = True
    """Permute every member to match the reference network."""

    reference: str = "best"
    """The member that others are aligned to: `best` by validation accuracy on its last epoch, or a name."""
