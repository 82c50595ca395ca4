"""Statistics of the training members' weights, and standardising with them.

Paper, section 3.1: weights are standardised per layer. Deviations: weights and biases have statistics of
their own; the standard deviation is pooled over all training checkpoints (the published code takes the
root mean square of the deviations within each model); a tensor that never varies keeps its scale; statistics
come from the training members only and travel with the model (the published code computes them per split).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.tokens.layout import TokenLayout

SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation per tensor, in the order of the layout's names.

    Attributes:
        mean, std: one number per tensor.
        counts: how many weights each was computed from; 0 where it was taken from the layer kind.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: tuple[int, ...]

    def apply(self, flat: Float[Tensor, "*batch size"], layout: TokenLayout) -> Float[Tensor, "*batch size"]:
        """Standardise flat vectors of whole networks."""
        return (flat - self._along("mean", layout, flat.device)) / self._along("std", layout, flat.device)

    def undo(self, flat: Float[Tensor, "*batch size"], layout: TokenLayout) -> Float[Tensor, "*batch size"]:
        """The inverse of `apply`."""
        return flat * self._along("std", layout, flat.device) + self._along("mean", layout, flat.device)

    def _along(self, which: Literal["mean", "std"], layout: TokenLayout, device: torch.device) -> Float[Tensor, "size"]:
        each = self._table(getattr(self, which))[: len(layout.names)]
        return torch.repeat_interleave(each, layout.sizes).to(device)

    def entries(self, which: Literal["mean", "std"], tensor: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens"]:
        """The mean or standard deviation of entries of these tensors."""
        return self._table(getattr(self, which))[tensor]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Statistics.from_json` turns back into equal statistics."""
        return {"mean": self.mean, "std": self.std, "counts": self.counts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Statistics":
        """The inverse of `to_json`."""
        return cls(tuple(value["mean"]), tuple(value["std"]), tuple(value["counts"]))

    @staticmethod
    def _table(values: tuple[float, ...]) -> Float[Tensor, "tensors"]:
        return torch.tensor(values or (0.0,), dtype=torch.float32)


def tensor_statistics(chunks: Iterable[Float[Tensor, "checkpoints size"]], layout: TokenLayout) -> Statistics:
    """Statistics of every tensor over all checkpoints, from chunks of flat vectors, in float64."""
    names = layout.names
    sums = torch.zeros(3, len(names), dtype=torch.float64)
    for chunk in chunks:
        for number, name in enumerate(names):
            start = layout.offsets[name]
            part = chunk[:, start : start + torch.Size(layout.shapes[name]).numel()].double()
            sums[:, number] += torch.stack([torch.tensor(float(part.numel())), part.sum(), part.square().sum()])
    return _from_sums(sums)


def pool_by_kind(parts: Iterable[tuple[Statistics, TokenLayout]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every layer kind, over all tensors of that kind."""
    sums: dict[str, Tensor] = {}
    for statistics, layout in parts:
        for name, mean, std, count in zip(
            layout.names, statistics.mean, statistics.std, statistics.counts, strict=True
        ):
            kind = layout.kinds[name]
            sums[kind] = sums.get(kind, torch.zeros(3, dtype=torch.float64)) + count * torch.tensor(
                [1.0, mean, std**2 + mean**2], dtype=torch.float64
            )
    pooled = {kind: _from_sums(value[:, None]) for kind, value in sums.items() if value[0] > 0}
    return {kind: (statistics.mean[0], statistics.std[0]) for kind, statistics in pooled.items()}


def statistics_by_kind(layout: TokenLayout, kinds: Mapping[str, tuple[float, float]]) -> Statistics:
    """Statistics for tensors that were never seen: those of their layer kind, else those of all weights."""
    everything = (0.0, max((std for _, std in kinds.values()), default=1.0))
    chosen = [kinds.get(layout.kinds[name], everything) for name in layout.names]
    return Statistics(tuple(mean for mean, _ in chosen), tuple(std for _, std in chosen), tuple(0 for _ in chosen))


def no_statistics(layout: TokenLayout) -> Statistics:
    """Statistics that change nothing."""
    count = len(layout.names)
    return Statistics((0.0,) * count, (1.0,) * count, (0,) * count)


def _from_sums(sums: Float[Tensor, "3 tensors"]) -> Statistics:
    counts = sums[0].clamp_min(1)
    mean = sums[1] / counts
    std = (sums[2] / counts - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > SMALLEST_STD * mean.abs().clamp_min(1), std, torch.ones_like(std))
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), tuple(int(count) for count in sums[0]))
