"""Weights as an architecture has them, from whatever file they come: another prefix, fewer names, half precision."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.values import Weights, some_of
from weightspace.zoo.architecture import Architecture

COUNTER = "num_batches_tracked"


class Fitted(NamedTuple):
    """Weights under an architecture's names, in its order and types, and what was done to them, in words."""

    weights: Weights
    notes: tuple[str, ...] = ()


def fit_weights(weights: Mapping[str, Tensor], architecture: Architecture) -> Fitted:
    """The weights as the architecture's module would load them strictly.

    What files of the same network do otherwise is undone: a prefix before all of the module's names (`model.` of a
    training wrapper), counters of batch norms that old versions of torch did not keep, second names of tied tensors
    that were saved once, half precision.

    Raises:
        InputError: another network; the sentence says what is missing, what is too much and what has another shape.

    Examples:
        >>> network = zoo.architectures[zoo.table["architecture"].iloc[0]]
        >>> wrapped = {f"model.{name}": tensor for name, tensor in zoo.weights(0).items()}
        >>> fit_weights(wrapped, network).notes
        ("the prefix 'model.' was dropped from all names",)
    """
    prefix = _prefix(weights, architecture)
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    notes = [f"the prefix '{prefix}' was dropped from all names"] if prefix else []
    tied = {name: first for name, first in architecture.aliases.items() if name not in named and first in named}
    tied |= {first: name for name, first in architecture.aliases.items() if first not in named and name in named}
    counters = [name for name in architecture.shapes if name.endswith(COUNTER) and name not in named]
    whole = {**named, **{name: named[first] for name, first in tied.items()}}
    whole |= {name: torch.zeros(architecture.shapes[name], dtype=torch.int64) for name in counters}
    _require(whole, architecture, [name for name in weights if not name.startswith(prefix)])
    if tied:
        notes.append("a tensor that is tied to another was saved once")
    if counters:
        notes.append("counters of batch norms, which old versions of torch did not keep, are 0")
    cast = {name: _cast(whole[name], architecture.dtypes.get(name, "float32")) for name in architecture.shapes}
    halves = any(tensor.element_size() < cast[name].element_size() for name, tensor in whole.items())
    if halves:
        notes.append("half precision was read as the architecture's own")
    return Fitted(cast, tuple(notes))


def _prefix(weights: Mapping[str, Tensor], architecture: Architecture) -> str:
    """What stands before all of the architecture's names, up to a dot; nothing if they are there as they are."""
    if any(name in weights for name in architecture.shapes):
        return ""
    first = next((name for name in architecture.shapes if not name.endswith(COUNTER)), "")
    ends = [name for name in weights if first and name.endswith(f".{first}")]
    candidates = [name.removesuffix(first) for name in ends]
    fit = {prefix: sum(prefix + name in weights for name in architecture.shapes) for prefix in candidates}
    return max(fit, key=lambda prefix: fit[prefix], default="")


def _require(weights: Mapping[str, Tensor], architecture: Architecture, beside: list[str]) -> None:
    """Raise `InputError` unless names, shapes and kinds of numbers are the architecture's."""
    missing = [name for name in architecture.shapes if name not in weights]
    extra = [name for name in weights if name not in architecture.shapes] + beside
    shaped = {name: tuple(tensor.shape) for name, tensor in weights.items() if name in architecture.shapes}
    misshapen = [name for name, shape in shaped.items() if shape != tuple(architecture.shapes[name])]
    wanted = {name: getattr(torch, architecture.dtypes.get(name, "float32")) for name in shaped}
    kinds = [name for name in shaped if weights[name].is_floating_point() != wanted[name].is_floating_point]
    parts = [f"no {some_of(missing)}"] if missing else []
    parts += [f"{some_of(extra)} too"] if extra else []
    parts += [f"{name} of shape {list(shaped[name])}, not {list(architecture.shapes[name])}" for name in misshapen[:1]]
    parts += [f"another kind of numbers in {some_of(kinds)}"] if kinds and not misshapen else []
    if parts:
        raise InputError(f"expected a network of {architecture.id}, found {'; '.join(parts)}")


def _cast(tensor: Tensor, kind: str) -> Tensor:
    wanted = getattr(torch, kind)
    return tensor.to(wanted) if tensor.dtype != wanted else tensor
