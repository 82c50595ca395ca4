"""From the latents of a network's tokens to one vector."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError

Aggregation = Literal["mean", "mean+spread", "readout", "sequence"]


class Aggregator:
    """Takes the latents of networks of one layout run by run, in order, and makes one vector of each.

    `mean` over tokens (paper, algorithm 2); `mean+spread`, mean and standard deviation over the tokens of each
    layer, side by side; `readout`, the same of the model's statistics head instead of its latents (ours; see
    `statistics`); and `sequence`, all latents in a row (paper, tables 10 to 12), the only one that is as long as
    the network. Sums are taken in float64.

    Raises:
        InputError: an unknown aggregation.
    """

    def __init__(self, sane: SANE, kind: str) -> None:
        if kind not in get_args(Aggregation):
            raise InputError(f"expected an aggregation among {', '.join(get_args(Aggregation))}, found '{kind}'")
        self._sane, self._kind = sane, kind
        self._sums: dict[int, Tensor] = {}
        self._runs: list[Tensor] = []

    def add(self, latents: Float[Tensor, "networks tokens latent"], layers: Int[Tensor, "tokens"]) -> None:
        """Take the next tokens of every network, and which layer each is of."""
        if self._kind == "sequence":
            self._runs.append(latents)
            return
        if self._kind == "readout":
            with torch.inference_mode():
                device = self._sane.statistics.weight.device
                latents = self._sane.statistics(latents.to(device)).cpu()
        layers = torch.zeros_like(layers) if self._kind == "mean" else layers
        for layer in layers.unique(sorted=True).tolist():
            own = latents[:, layers == layer].double()
            count = torch.full_like(own[:, 0], own.shape[1])
            sums = torch.stack([count, own.sum(1), own.square().sum(1)])
            self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums

    def result(self) -> Float[Tensor, "networks features"]:
        """One vector for every network."""
        if self._kind == "sequence":
            return torch.cat(self._runs, dim=1).flatten(1)
        columns = []
        for _, (count, total, squares) in sorted(self._sums.items()):
            mean = total / count
            spread = (squares / count - mean.square()).clamp_min(0).sqrt()
            columns += [mean] if self._kind == "mean" else [mean, spread]
        return torch.cat(columns, dim=1).float().clone()


def mean_and_spread(
    values: Float[Tensor, "networks tokens width"], layers: Int[Tensor, "tokens"]
) -> Float[Tensor, "networks features"]:
    """Mean and standard deviation over the tokens of each layer, side by side."""
    parts = [values[:, layers == layer].double() for layer in layers.unique(sorted=True).tolist()]
    return torch.cat([moment for own in parts for moment in (own.mean(1), own.std(1, correction=0))], dim=1).float()
