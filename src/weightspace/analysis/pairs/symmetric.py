"""Bring one network as near to another as the symmetry of their architecture lets it, its function unchanged."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.symmetry.axes import Symmetry, permute
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.rescaling import Rescaling, canonical_factors, rescale
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture

# Units that were scaled there and back differ by rounding.
ROUNDING = 1e-5


class Brought(NamedTuple):
    """Two networks brought near each other.

    Attributes:
        first, second: their weights; each computes what it did.
        how: what was done, in words.
        rounding: what relative difference the doing alone may leave.
    """

    first: Weights
    second: Weights
    how: str
    rounding: float


def bring_together(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], symmetry: Symmetry, architecture: Architecture | None
) -> Iterator[Brought]:
    """The second network with its units in the order of the first; then both with their scales and signs settled, too.

    Args:
        first, second: weights of one architecture.
        symmetry: of it: which units may change places.
        architecture: that may be built, so that it is known where units may be scaled or change their sign.
    """
    one, two = dict(first), dict(second)
    if symmetry.groups:
        yield Brought(one, match(two, one, symmetry), "its units put in the other's order", 0.0)
    rescalings = rescalings_of(architecture) if architecture is not None else []
    if rescalings:
        one, two = settle(one, rescalings), settle(two, rescalings)
        two = match(two, one, symmetry) if symmetry.groups else two
        kinds = " and ".join(f"{rescaling.kind}s" for rescaling in rescalings)
        kept = max(torch.finfo(own.dtype).eps for own in (*first.values(), *second.values()) if own.is_floating_point())
        yield Brought(one, two, f"the {kinds} of units settled, and their order", max(ROUNDING, kept))


def match(weights: Weights, reference: Weights, symmetry: Symmetry) -> Weights:
    """Weights permuted to match others; small ones from several starts."""
    return permute(weights, symmetry, match_weights(weights, reference, symmetry, restarts=None))


def rescalings_of(architecture: Architecture) -> list[Rescaling]:
    """Where units of an architecture may be scaled, and where their signs may change; none if it cannot be built."""
    try:
        module, inputs = architecture.build(), architecture.inputs()
        both = [trace_rescaling(module, kind, *inputs.positional, **inputs.named) for kind in ("scale", "sign")]
    except InputError:
        return []
    return [rescaling for rescaling in both if rescaling.groups]


def settle(weights: Weights, rescalings: list[Rescaling]) -> Weights:
    """Weights with the scales, and the signs, that their units have in canonical form."""
    for rescaling in rescalings:
        stack = {name: tensor[None] for name, tensor in weights.items()}
        scaled = rescale(stack, rescaling, canonical_factors(stack, rescaling))
        weights = {**weights, **{name: tensor[0] for name, tensor in scaled.items()}}
    return weights
