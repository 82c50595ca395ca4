"""Scales and signs of units: the other symmetry of networks, in a canonical form and at random.

A unit between positively homogeneous operations (ReLU, pooling) may be scaled by any s > 0 if what reads it is
scaled by 1 / s; one between odd operations (tanh, average pooling) may change its sign. `homogeneity` derives
where that holds. Not in the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.symmetry.axes import Axis, axis_from_json, axis_to_json, groups_of
from weightspace.weights.values import Weights

Kind = Literal["scale", "sign"]
Factors: TypeAlias = dict[str, Float[Tensor, "networks _"]]

SWEEPS = 100
TOLERANCE = 1e-6


class Place(NamedTuple):
    """One axis of a tensor that a rescaling multiplies: by its groups' factors (1), or their reciprocals (-1)."""

    tensor: str
    number: int
    axis: Axis
    exponent: int


@dataclass(frozen=True)
class Rescaling:
    """The scales, or the signs, that the units of one architecture may change.

    Attributes:
        kind: `scale` (factors above 0) or `sign` (1 and -1).
        groups: `name -> size`; in the order of the computation.
        places: what they multiply.
        frozen: why other units stand still: `reason -> tensors`.
    """

    kind: Kind
    groups: dict[str, int]
    places: tuple[Place, ...]
    frozen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `Rescaling.from_json` turns back into an equal rescaling."""
        return {
            "kind": self.kind,
            "groups": self.groups,
            "places": [[own.tensor, own.number, axis_to_json(own.axis), own.exponent] for own in self.places],
            "frozen": {reason: list(names) for reason, names in self.frozen.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Rescaling":
        """The inverse of `to_json`."""
        return cls(
            kind=value["kind"],
            groups=dict(value["groups"]),
            places=tuple(Place(tensor, number, axis_from_json(axis), e) for tensor, number, axis, e in value["places"]),
            frozen={reason: tuple(names) for reason, names in value["frozen"].items()},
        )


def rescale(weights: Mapping[str, Tensor], rescaling: Rescaling, factors: Factors) -> Weights:
    """Multiply stacked networks, `[networks, *shape]`; their functions do not change."""
    changed = dict(weights)
    for place in rescaling.places:
        changed[place.tensor] = _multiply(changed[place.tensor], place, factors)
    return changed


def random_factors(rescaling: Rescaling, networks: int, generator: torch.Generator, *, spread: float = 0.5) -> Factors:
    """Random signs, or log-normal scales whose logarithm has the standard deviation `spread`."""
    drawn = {
        group: torch.randn(networks, size, generator=generator, dtype=torch.float64)
        for group, size in rescaling.groups.items()
    }
    if rescaling.kind == "sign":
        return {group: torch.where(normal < 0, -1.0, 1.0).double() for group, normal in drawn.items()}
    return {group: (spread * normal).exp() for group, normal in drawn.items()}


def canonical_factors(weights: Mapping[str, Tensor], rescaling: Rescaling) -> Factors:
    """The factors that bring stacked networks into canonical form.

    Scale: the numbers that make a unit (its row with its bias, all of them on a residual stream) have length 1, and
    the magnitude moves on to what reads it. Sign: their sum is not negative. Units whose numbers are all 0 stay.
    Groups are visited in the order of the computation, again and again until nothing changes, since on a residual
    stream a unit's writers read other units of the same stream.
    """
    networks = len(next(iter(weights.values()))) if weights else 0
    total = {group: torch.ones(networks, size, dtype=torch.float64) for group, size in rescaling.groups.items()}
    written = {place.tensor for place in rescaling.places}
    current = {name: weights[name].double() for name in written}
    for _ in range(SWEEPS):
        largest = 0.0
        for group in rescaling.groups:
            step = _step(group, current, rescaling)
            largest = max(
                largest, float(step.log().abs().max()) if rescaling.kind == "scale" else float((step - 1).abs().max())
            )
            ones = {group: torch.ones_like(factor) for group, factor in total.items()}
            current = rescale(current, rescaling, {**ones, group: step})
            total[group] = total[group] * step
        if largest < TOLERANCE:
            break
    return total


def _step(group: str, weights: Mapping[str, Tensor], rescaling: Rescaling) -> Float[Tensor, "networks size"]:
    """The factor that sets one group right, all others as they are."""
    networks, power = len(next(iter(weights.values()))), 2 if rescaling.kind == "scale" else 1
    sums = torch.zeros(networks, rescaling.groups[group], dtype=torch.float64)
    for place in rescaling.places:
        if place.exponent == 1 and group in groups_of((place.axis,)):
            rows = weights[place.tensor].movedim(place.number + 1, 1).pow(power)
            unit = _units(place.axis, group)
            sums.index_add_(1, unit[unit >= 0], rows.reshape(networks, len(unit), -1).sum(2)[:, unit >= 0])
    if rescaling.kind == "sign":
        return torch.where(sums < 0, -1.0, 1.0).double()
    return torch.where(sums > 0, sums.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 1.0)


def _units(axis: Axis, group: str) -> Int[Tensor, "size"]:
    """Which unit of a group every entry of an axis is; -1 for none."""
    units = torch.full((1,), -1)
    for factor in axis:
        if factor.parts:
            own = torch.cat([_units(part, group) for part in factor.parts])
        else:
            own = torch.arange(factor.size) if factor.group == group else torch.full((factor.size,), -1)
        units = torch.maximum(units[:, None], own[None, :]).flatten()
    return units


def _multiply(stack: Tensor, place: Place, factors: Factors) -> Tensor:
    factor = _axis_factors(place.axis, factors)
    factor = factor if place.exponent == 1 else 1 / factor
    shape = [len(factor), *[1] * (stack.ndim - 1)]
    shape[place.number + 1] = factor.shape[1]
    return (stack * factor.view(shape)).to(stack.dtype)


def _axis_factors(axis: Axis, factors: Factors) -> Float[Tensor, "networks size"]:
    networks = len(next(iter(factors.values())))
    product = torch.ones(networks, 1, dtype=torch.float64)
    for factor in axis:
        if factor.parts:
            own = torch.cat([_axis_factors(part, factors) for part in factor.parts], dim=1)
        elif factor.group is not None:
            own = factors[factor.group]
        else:
            own = torch.ones(networks, factor.size, dtype=torch.float64)
        product = (product[:, :, None] * own[:, None, :]).flatten(1)
    return product
