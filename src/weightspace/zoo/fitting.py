"""Weights as an architecture has them, from whatever file they come: other names, fewer of them, other precision."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.files import StoredWeights, meta_of
from weightspace.weights.reparametrizing import find_reparametrized, folded, renamed, unfolded
from weightspace.weights.values import Weights, shapes_of, some_of
from weightspace.zoo.architecture import OUR_FACTORIES, Architecture

COUNTER = "num_batches_tracked"
# What peft puts into names while an adapter is on: of the base, of modules that are trained whole, and of the adapter.
BASE, SAVED = re.compile(r"\.base_layer\b"), re.compile(r"\.modules_to_save\.[^.]+\b")
ADAPTER = re.compile(r"\.(lora_[A-Za-z_]+|ia3_l|hada_w\w+|lokr_w\w+|oft_\w+|original_module)(\.|$)")


class Fitted(NamedTuple):
    """Weights under an architecture's names, in its order and types, and what was done to them, in words."""

    weights: Weights
    notes: tuple[str, ...] = ()


def fit_weights(weights: Mapping[str, Tensor], architecture: Architecture) -> Fitted:
    """The weights as the architecture's module would load them strictly.

    What files of the same network do otherwise is undone: a prefix before all of the module's names (`model.` of a
    training wrapper), old and new names of weight norm, spectral norm and pruning (or none, where they were folded),
    names that an adapter adds to its base, counters of batch norms that old versions of torch did not keep, second
    names of tied tensors that were saved once, another precision; buffers of whole numbers and single numbers that the
    module does not have are left aside.

    Args:
        weights: also on the device `meta`, where only names, shapes and types are compared.
        architecture: whose names they get.

    Raises:
        InputError: another network; the sentence says what is missing, what is too much and what has another shape.

    Examples:
        >>> network = zoo.architectures[zoo.table["architecture"].iloc[0]]
        >>> wrapped = {f"model.{name}": tensor for name, tensor in zoo.weights(0).items()}
        >>> fit_weights(wrapped, network).notes
        ("the prefix 'model.' was dropped from all names",)
    """
    notes: list[str] = []
    unwrapped = _without_wrappers(_without_adapter(weights, architecture, notes), architecture)
    prefix = _prefix(unwrapped, architecture)
    named = {name.removeprefix(prefix): tensor for name, tensor in unwrapped.items() if name.startswith(prefix)}
    if prefix:
        notes.append(f"the prefix '{prefix}' was dropped from all names")
    named = _as_parametrized(named, architecture, notes)
    tied = {name: first for name, first in architecture.aliases.items() if name not in named and first in named}
    tied |= {first: name for name, first in architecture.aliases.items() if first not in named and name in named}
    counters = [name for name in architecture.shapes if name.endswith(COUNTER) and name not in named]
    whole = {**named, **{name: named[first] for name, first in tied.items()}}
    whole |= {name: torch.zeros(architecture.shapes[name], dtype=torch.int64) for name in counters}
    beside = [name for name, tensor in unwrapped.items() if not name.startswith(prefix) and not _is_aside(name, tensor)]
    aside = [name for name, tensor in whole.items() if name not in architecture.shapes and _is_aside(name, tensor)]
    whole = {name: tensor for name, tensor in whole.items() if name not in aside}
    _require(whole, architecture, beside, len(counters))
    if aside:
        notes.append(f"{some_of(aside)} were left aside: {architecture.id} has no such buffers or single numbers")
    if tied:
        notes.append("a tensor that is tied to another was saved once")
    if counters:
        notes.append("counters of batch norms, which old versions of torch did not keep, are 0")
    cast = {name: _cast(name, whole[name], architecture.dtypes.get(name, "float32")) for name in architecture.shapes}
    if any(tensor.element_size() < cast[name].element_size() for name, tensor in whole.items()):
        notes.append("half precision was read as the architecture's own")
    if any(tensor.element_size() > cast[name].element_size() for name, tensor in whole.items()):
        notes.append("numbers were rounded to the architecture's precision")
    return Fitted(cast, tuple(notes))


def fit_stored(weights: Mapping[str, Tensor], given: Sequence[Architecture]) -> Mapping[str, Tensor]:
    """Weights in a file as the first of some architectures that they fit has them; as they are if they fit none.

    They are read only where something has to be done to them.
    """
    meta = meta_of(weights)
    for architecture in given:
        if not fits(meta, architecture):
            continue
        exact = shapes_of(meta) == architecture.shapes and not fit_weights(meta, architecture).notes
        whole = weights.read() if isinstance(weights, StoredWeights) and not exact else weights
        return weights if exact else fit_weights(whole, architecture).weights
    return weights


def fits(weights: Mapping[str, Tensor], architecture: Architecture) -> bool:
    """Whether `fit_weights` has an answer."""
    try:
        fit_weights(weights, architecture)
    except InputError:
        return False
    return True


def which_architecture(
    weights: Mapping[str, Tensor], given: Sequence[Architecture], known: Sequence[Architecture]
) -> Architecture:
    """The architecture that a network is run as: one that the caller names, else the only known one that it fits.

    Names and shapes do not say what a network computes: activations leave no trace in them.

    Args:
        weights: also on the device `meta`.
        given: architectures that the caller names; known: others.

    Raises:
        InputError: none fits, or several that compute differently.
    """
    fitting = [named for named in given if fits(weights, named)] or [named for named in known if fits(weights, named)]
    if not fitting:
        fit_weights(weights, [*given, *known][0])  # whose refusal says why
    differing = {json.dumps([named.factory, named.arguments], sort_keys=True): named.id for named in fitting}
    if len(differing) > 1:
        raise InputError(
            f"expected to know what a network computes to ask it, found {len(differing)} architectures with its names "
            f"and shapes ({', '.join(differing.values())}): --architecture says which it is"
        )
    return fitting[0]


def known_as(architectures: Mapping[str, Architecture], given: Sequence[Architecture]) -> dict[str, Architecture]:
    """Architectures of a zoo that nobody knew how to build, as those that the caller names; others as they are, since
    networks of the same names and shapes may have other activations.

    Raises:
        InputError: none of them is one of these, or only under other names than the zoo has.
    """
    known = {id: _known_as(architecture, given) for id, architecture in architectures.items()}
    if given and not any(entry.trusted or entry.factory in OUR_FACTORIES for entry in known.values()):
        refusals = [_refusal(entry, named) for entry in architectures.values() for named in given]
        names = ", ".join(named.id for named in given)
        why = next(iter(refusals), "there are none")
        raise InputError(f"0 of {len(architectures)} architectures are {names}: {why}")
    return known


def _known_as(architecture: Architecture, given: Sequence[Architecture]) -> Architecture:
    for named in given if architecture.factory not in OUR_FACTORIES else ():
        if set(named.shapes) == set(architecture.shapes) and fits(architecture.meta_weights(), named):
            kept = {field: getattr(architecture, field) for field in ("id", "shapes", "dtypes", "masks", "order")}
            return replace(named, **kept)
    return architecture


def _refusal(architecture: Architecture, named: Architecture) -> str:
    try:
        fit_weights(architecture.meta_weights(), named)
    except InputError as refusal:
        return str(refusal)
    return f"{architecture.id} has other names for the same tensors: import it again with --architecture"


def _without_adapter(
    weights: Mapping[str, Tensor], architecture: Architecture, notes: list[str]
) -> Mapping[str, Tensor]:
    """A base that was saved while an adapter was on, without the adapter; anything else as it is."""
    adapted = any(BASE.search(name) or SAVED.search(name) for name in weights)
    if not adapted or any(BASE.search(name) or SAVED.search(name) for name in architecture.shapes):
        return weights
    adapter = [name for name in weights if ADAPTER.search(name)]
    if adapter:
        notes.append(
            "an adapter was on when its base was saved: this is the base without it, and without its "
            f"{len(adapter)} tensors"
        )
    kept = {name: tensor for name, tensor in weights.items() if name not in adapter}
    return {SAVED.sub("", BASE.sub("", name)): tensor for name, tensor in kept.items()}


def _without_wrappers(weights: Mapping[str, Tensor], architecture: Architecture) -> Mapping[str, Tensor]:
    """Names without the `module.` of parts that were trained in parallel each by itself; others as they are."""
    plain = {re.sub(r"\.module\.", ".", name): name for name in weights}
    there = [sum(name in names for name in architecture.shapes) for names in (weights, plain)]
    if len(plain) < len(weights) or there[1] <= there[0]:
        return weights
    return {name: weights[stored] for name, stored in plain.items()}


def _as_parametrized(named: Weights, architecture: Architecture, notes: list[str]) -> Weights:
    """Tensors that a module computes, as the architecture keeps them: under its names, or computed."""
    there, wanted = find_reparametrized(named), find_reparametrized(architecture.shapes)
    changed: set[str] = set()
    for name, tensor in there.items():
        if name in wanted and wanted[name].kind == tensor.kind:
            parts = renamed(tensor, wanted[name], named)
        elif name in architecture.shapes:
            parts = {name: folded(tensor, named)}
        else:
            continue
        if parts.keys() != set(tensor.parts):
            named = {**{key: value for key, value in named.items() if key not in tensor.parts}, **parts}
            changed.add(tensor.kind)
    for name, tensor in wanted.items():
        unknown = name not in named or name in there
        made = None if unknown else unfolded(tensor, named[name], architecture.shapes)
        if made is not None:
            named = {**{key: value for key, value in named.items() if key != name}, **made}
            changed.add(tensor.kind)
    notes += [f"what {kind} computes was written as the architecture keeps it" for kind in sorted(changed)]
    return named


def _prefix(weights: Mapping[str, Tensor], architecture: Architecture) -> str:
    """What stands before all of the architecture's names, up to a dot; nothing if they are there as they are."""
    if any(name in weights for name in architecture.shapes):
        return ""
    names = [*architecture.shapes, *find_reparametrized(architecture.shapes)]
    first = next((name for name in architecture.shapes if not name.endswith(COUNTER)), "")
    spelled = {
        part: tensor.name for tensor in find_reparametrized(architecture.shapes).values() for part in tensor.parts
    }
    first = spelled.get(first, first)
    present = [*weights, *find_reparametrized(weights)]
    candidates = [name.removesuffix(first) for name in present if first and name.endswith(f".{first}")]
    fit = {prefix: sum(prefix + name in present for name in names) for prefix in candidates}
    return max(fit, key=lambda prefix: fit[prefix], default="")


def _require(weights: Mapping[str, Tensor], architecture: Architecture, beside: list[str], counters: int) -> None:
    """Raise `InputError` unless names, shapes, kinds of numbers and ties are the architecture's."""
    missing = [name for name in architecture.shapes if name not in weights]
    extra = [name for name in weights if name not in architecture.shapes] + beside
    shaped = {name: tuple(tensor.shape) for name, tensor in weights.items() if name in architecture.shapes}
    misshapen = [name for name, shape in shaped.items() if shape != tuple(architecture.shapes[name])]
    wanted = {name: getattr(torch, architecture.dtypes.get(name, "float32")) for name in shaped}
    kinds = [
        name
        for name in shaped
        if weights[name].is_floating_point() != wanted[name].is_floating_point and not name.endswith(COUNTER)
    ]
    small = [name for name in shaped if _is_small(weights[name]) and weights[name].dtype != wanted[name]]
    parts = [f"no {some_of(missing)}"] if missing else []
    parts += [f"{some_of(extra)} too"] if extra else []
    parts += [f"{name} of shape {list(shaped[name])}, not {list(architecture.shapes[name])}" for name in misshapen[:1]]
    parts += [f"another kind of numbers in {some_of(kinds)}"] if kinds and not misshapen else []
    parts += [f"8-bit floats in {some_of(small)}, whose scale the architecture does not have"] if small else []
    parts += [] if parts else _untied(weights, architecture)
    if parts:
        fine = f"; {counters} counters that it lacks would be fine" if counters else ""
        raise InputError(f"expected a network of {architecture.id}, found {'; '.join(parts)}{fine}")


def _is_aside(name: str, tensor: Tensor) -> bool:
    """Whether a tensor that a module lacks may be left aside: whole numbers, such as positions that newer versions do
    not save, and single numbers at the top, such as the scale of a loss. Those of a layer are a part of it.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return tensor.numel() == 1 and "." not in name and name not in ("weight", "bias")


def _untied(weights: Mapping[str, Tensor], architecture: Architecture) -> list[str]:
    """Tensors that the architecture ties and the weights do not."""
    for alias, name in architecture.aliases.items():
        one, other = weights[alias], weights[name]
        if not one.is_meta and one is not other and not torch.equal(one, other):
            return [f"other numbers in {alias} than in {name}, which are one tensor there"]
    return []


def _is_small(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() == 1


def _cast(name: str, tensor: Tensor, kind: str) -> Tensor:
    """A tensor in the architecture's precision.

    Raises:
        InputError: numbers that are too large for it.
    """
    wanted = getattr(torch, kind)
    if tensor.dtype == wanted:
        return tensor
    cast = tensor.to(wanted)
    smaller = tensor.is_floating_point() and cast.element_size() < tensor.element_size()
    if smaller and not tensor.is_meta and not torch.equal(cast.isfinite(), tensor.isfinite()):
        raise InputError(f"expected numbers that {kind} can hold in {name}, found some up to {tensor.abs().max():.3g}")
    return cast
