"""Embeddings of token positions (token, layer, row, chunk)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.errors import InputError

COMPONENTS = ("token", "layer", "row", "chunk")
FREQUENCIES = 16
LONGEST_PERIOD = 100_000.0


class SinusoidalPositions(nn.Module):
    """Sines and cosines of every component, mixed by one linear layer.

    Deviation from the paper, whose learned tables end where training ended: these reach any position.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        periods = torch.logspace(0, 1, FREQUENCIES, base=LONGEST_PERIOD)
        self.register_buffer("frequencies", 2 * torch.pi / (4 * periods), persistent=False)
        self.mix = nn.Linear(len(COMPONENTS) * 2 * FREQUENCIES, width, bias=False)

    def check(self, positions: Int[Tensor, "*batch 4"]) -> None:
        """Any position is embedded."""

    def forward(self, positions: Int[Tensor, "*batch 4"]) -> Float[Tensor, "*batch width"]:
        """Embed positions."""
        angles = positions[..., None] * self.frequencies
        return self.mix(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2))


class LearnedPositions(nn.Module):
    """The paper's tables, with one for the chunk: concat(token + layer, row + chunk), each half as wide."""

    def __init__(self, width: int, limits: tuple[int, ...]) -> None:
        super().__init__()
        self.limits = limits
        self.tables = nn.ModuleList(nn.Embedding(limit, width // 2) for limit in limits)

    def check(self, positions: Int[Tensor, "*batch 4"]) -> None:
        """Raise `InputError` naming the component that lies beyond its table."""
        for name, limit, largest in zip(COMPONENTS, self.limits, positions.flatten(0, -2).amax(0), strict=True):
            if largest >= limit:
                raise InputError(f"expected {name} positions below {limit} for learned tables, found {int(largest)}")

    def forward(self, positions: Int[Tensor, "*batch 4"]) -> Float[Tensor, "*batch width"]:
        """Embed positions; see `check`, which a compiled model leaves to its caller."""
        if not torch.compiler.is_compiling():
            self.check(positions)
        token, layer, row, chunk = (table(positions[..., i]) for i, table in enumerate(self.tables))
        return torch.cat([token + layer, row + chunk], dim=-1)
