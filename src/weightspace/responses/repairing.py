"""Give units of an averaged network back the variance that averaging took.

Averages of networks have units that vary less than those they are made of, layer by layer less, until nothing of the
input is left. REPAIR (Jordan et al., 2023) sets mean and standard deviation of every unit to what they are, on average,
in the parts. Deviations: units are observed as they are written, whatever follows; outputs are left alone; without
images, on noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.responses.asking import Asker
from weightspace.responses.observing import Place
from weightspace.weights.values import Weights

# Units that vary by less than this share of what they should are dead, and stay so.
DEAD = 1e-3
# Operations whose units are scaled by the rows of their weight, or by its entries.
WITH_ROWS = ("linear", "conv1d", "conv2d", "conv3d")
NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")


class Moments(NamedTuple):
    """Mean and standard deviation of every unit of a place, over inputs and positions."""

    mean: Float[Tensor, "units"]
    spread: Float[Tensor, "units"]


class Repaired(NamedTuple):
    """A repaired network, and at how many of the places it could be."""

    weights: Weights
    places: int


def repair(asker: Asker, weights: Mapping[str, Tensor], parts: Sequence[Mapping[str, Tensor]]) -> Repaired:
    """A network whose units have, on average over inputs, mean and variance that those of its parts have.

    Units are set in the order in which they are computed, in one run. What writes them has to scale each of them by a
    weight of its own, as linear layers, convolutions and norms do: other operations, and weights that are used twice,
    are left as they are. Without a bias the spread alone is set.

    Args:
        asker: of their architecture; observed are as many inputs as it asks at once (`Asker.at_once` of each kind).
        weights: an average.
        parts: what it is an average of, with their units in the same order.
    """
    moments = [unit_moments(asker, part) for part in parts]
    wanted = {
        name: Moments(*(torch.stack(values).mean(0) for values in zip(*(part[name] for part in moments), strict=True)))
        for name in (moments[0] if moments else {})
    }
    changed, repaired = dict(weights), 0
    outputs = {place for places in asker.answering for place in places}

    def set_units(place: Place, value: Any, count: int) -> Any:
        nonlocal repaired
        weight, bias = asker.written_by(place)
        if place in outputs or weight is None or not _scales(place, changed[weight]):
            return value
        scale, shift = _correction(_moments(place, value, count), wanted[place.name], shifts=bias is not None)
        repaired += 1
        changed[weight] = _along(changed[weight], scale, 0)
        if bias is not None:
            changed[bias] = (changed[bias] * scale.to(changed[bias]) + shift.to(changed[bias])).detach()
        first, *rest = value if isinstance(value, tuple | list) else (value,)
        moved = _along(first, scale, place.axis) + _spread_out(shift, first, place.axis)
        return (moved, *rest) if isinstance(value, tuple | list) else moved

    for _ in asker.run(weights, set_units, 1):
        pass
    return Repaired(changed, repaired)


def unit_moments(asker: Asker, weights: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Mean and standard deviation of every unit of every place, over the inputs that are asked first."""
    moments: dict[str, Moments] = {}

    def note(place: Place, value: Any, count: int) -> Any:
        moments[place.name] = _moments(place, value, count)
        return value

    for _ in asker.run(weights, note, 1):
        pass
    return moments


def _scales(place: Place, weight: Tensor) -> bool:
    """Whether every unit is scaled by a row, or an entry, of the weight."""
    rows = place.operation in WITH_ROWS or (place.operation in NORMS and weight.ndim == 1)
    return rows and weight.shape[0] == place.units


def _moments(place: Place, value: Any, count: int) -> Moments:
    """Over the inputs as they are; the other half is perturbed."""
    units = place.units_of(value, count)[: count // 2].double()
    spread, mean = torch.std_mean(units, (0, 2), correction=0)
    return Moments(mean, spread)


def _correction(now: Moments, wanted: Moments, *, shifts: bool) -> tuple[Tensor, Tensor]:
    """What to multiply units with, and what to add then."""
    alive = (now.spread > DEAD * wanted.spread) & (wanted.spread > 0)
    scale = torch.where(alive, wanted.spread / now.spread.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
    shift = torch.where(alive, wanted.mean - scale * now.mean, 0.0)
    return scale, shift if shifts else torch.zeros_like(shift)


def _along(tensor: Tensor, factors: Tensor, axis: int) -> Tensor:
    return (tensor * _spread_out(factors, tensor, axis)).detach()


def _spread_out(values: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """A number for each unit, along an axis of a tensor."""
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return values.to(tensor).view(shape)
