"""Networks that are to be merged: opened by name, under one architecture's names, or refused with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from weightspace.errors import InputError
from weightspace.weights.values import Weights, require_shapes, shapes_of
from weightspace.zoo.addressing import Network, open_network
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights


class Parts(NamedTuple):
    """Networks by name, and their architecture where somebody tells it."""

    networks: dict[str, Weights]
    architecture: Architecture | None


def open_parts(names: Sequence[str], given: Architecture | None = None) -> Parts:
    """Networks by name (see `open_network`), all of one architecture.

    Raises:
        InputError: fewer than two, no such networks, or two architectures; it says how they differ.
    """
    if len(set(names)) < 2:
        raise InputError(f"expected two or more networks to merge, found {', '.join(set(names)) or 'none'}")
    networks = {name: open_network(name) for name in names}
    architecture = given or _one_architecture(networks)
    return Parts(_fitted(networks, architecture), architecture)


def _one_architecture(networks: Mapping[str, Network]) -> Architecture | None:
    """What all are, as far as zoos tell it."""
    told = {name: network.architecture for name, network in networks.items() if network.architecture is not None}
    (first, one), *rest = told.items() or [("", None)]
    for name, another in rest:
        if one is not None and another is not None and replace(another, id=one.id, note=one.note) != one:
            alike = one.shapes == another.shapes
            why = "equal numbers compute something else in each" if alike else "their units have no counterparts"
            raise InputError(
                f"expected networks of one architecture to average, found {one.id} ({first}) and {another.id} "
                f"({name}): {why}"
            )
    return one


def _fitted(networks: Mapping[str, Network], known: Architecture | None) -> dict[str, Weights]:
    """Weights under the names of their architecture, or of the first network."""
    first = next(iter(networks))
    parts = {}
    for name, network in networks.items():
        try:
            if known is not None:
                parts[name] = fit_weights(network.weights, known).weights
            else:
                require_shapes(network.weights, shapes_of(networks[first].weights))
                parts[name] = network.weights
        except InputError as refusal:
            one = known.id if known is not None else first
            raise InputError(
                f"expected networks of one architecture to average, found {name}, which is not that of {one}: {refusal}"
            ) from refusal
    return parts
