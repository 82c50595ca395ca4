"""Networks that are to be merged: opened by name, under one architecture's names, or refused with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from weightspace.errors import InputError
from weightspace.weights.values import Weights, require_finite, require_shapes, shapes_of, some_of
from weightspace.zoo.addressing import Network, is_file, open_file, open_network, path_of, short_names
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import COUNTER, fit_weights


class Parts(NamedTuple):
    """Networks by short names, their architecture where somebody tells it, and what there is to say of reading them."""

    networks: dict[str, Weights]
    architecture: Architecture | None
    notes: tuple[str, ...] = ()


def open_parts(names: Sequence[str], given: Architecture | None = None) -> Parts:
    """Networks by name (see `open_network`), all of one architecture.

    Raises:
        InputError: fewer than two, one that is named twice, no such networks, or two architectures; it says how they
            differ.
    """
    places = [(path_of(name).resolve(), name.rpartition(":")[2] if ":" in name else "") for name in names]
    twice = next((name for name, place in zip(names, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise InputError(f"expected different networks to merge, found {twice} twice")
    if len(names) < 2:
        raise InputError(f"expected two or more networks to merge, found {len(names)}")
    notes: list[str] = []
    networks = {name: _opened(name, notes) for name in names}
    architecture = given or _one_architecture(networks)
    fitted = _fitted(networks, architecture, notes)
    notes += _beside_the_mean(list(fitted.values()))
    return Parts({short: fitted[name] for name, short in short_names(fitted).items()}, architecture, tuple(notes))


def _opened(name: str, notes: list[str]) -> Network:
    if not is_file(name):
        return open_network(name)
    stored = open_file(name)
    notes += [f"{name}: {remark}" for remark in stored.remarks]
    weights = stored.read()
    require_finite(weights, name)
    return Network(weights, None)


def _one_architecture(networks: Mapping[str, Network]) -> Architecture | None:
    """What all are, as far as zoos tell it."""
    told = {name: network.architecture for name, network in networks.items() if network.architecture is not None}
    (first, one), *rest = told.items() or [("", None)]
    for name, another in rest:
        if one is not None and another is not None and replace(another, id=one.id, note=one.note) != one:
            raise InputError(
                f"expected networks of one architecture to average, found {one.id} ({first}) and {another.id} "
                f"({name}): {_how_they_differ(one, another)}"
            )
    return one


def _how_they_differ(one: Architecture, another: Architecture) -> str:
    if one.shapes != another.shapes:
        return "their units have no counterparts"
    if one.factory is None or another.factory is None:
        return "nobody knows whether equal numbers compute the same in both, for which --architecture would vouch"
    return "equal numbers compute something else in each"


def _fitted(networks: Mapping[str, Network], known: Architecture | None, notes: list[str]) -> dict[str, Weights]:
    """Weights under the names of their architecture, or of the first network."""
    first = next(iter(networks))
    parts = {}
    for name, network in networks.items():
        try:
            if known is not None:
                fitted = fit_weights(network.weights, known)
                parts[name] = fitted.weights
                notes += [f"{name}: {note}" for note in fitted.notes]
            else:
                require_shapes(network.weights, shapes_of(networks[first].weights))
                parts[name] = network.weights
        except InputError as refusal:
            one = known.id if known is not None else first
            raise InputError(
                f"expected networks of one architecture to average, found {name}, which is not that of {one}: {refusal}"
            ) from refusal
    return parts


def _beside_the_mean(networks: Sequence[Weights]) -> list[str]:
    """What an average does not say by itself: whose whole numbers it has, and in which precision it is."""
    first, *rest = networks
    numbers = [name for name, tensor in first.items() if tensor.is_floating_point() or tensor.is_complex()]
    whole = [name for name in first if name not in numbers and not name.endswith(COUNTER)]
    differing = [name for name in whole if any(not torch.equal(own[name], first[name]) for own in rest)]
    notes = [f"whole numbers are the first network's where they differ: {some_of(differing)}"] if differing else []
    if any(own[name].dtype != first[name].dtype for own in rest for name in numbers):
        kinds = sorted({str(first[name].dtype).removeprefix("torch.") for name in numbers})
        notes.append(f"the average is in the precision of the first network: {', '.join(kinds)}")
    return notes
