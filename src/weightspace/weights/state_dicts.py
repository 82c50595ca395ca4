"""What a file holds: the state dict in what a training script wraps around it, and the plain names of its tensors.

Every command goes by this. Nothing is told by a file's name: an optimizer's state is one by its content.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.values import some_of

# The usual keys of a network in what a training script saves, and what an average of its weights is called.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params")
AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averaged?|shadow)([._]|$)")
# What data parallel training, compiling, sharding and checkpointing of activations add to names.
PREFIX = "module."
ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Entries of a state dict that are no weights: what a module keeps besides, and how many networks an average is of.
BESIDE = re.compile(r"(^|\.)_extra_state$|^n_averaged$")
DEEPEST = 4

Plain = str | int | float | bool
Path = tuple[str, ...]


class Unwrapped(NamedTuple):
    """A state dict and what lay around it.

    Attributes:
        tensors: the state dict, without gradients.
        path: the keys that led to it, outermost first.
        beside: plain values beside it, such as an epoch.
        others: keys of other networks in the file, such as an average of the weights.
        left_out: names of entries of the state dict that are no tensors of the network.
    """

    tensors: dict[str, Tensor]
    path: Path
    beside: dict[str, Plain]
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def unwrap(loaded: object, inside: Sequence[str] = ()) -> Unwrapped | None:
    """Find the network in a loaded file; None if there is none.

    Args:
        loaded: a dict of tensors, or dicts that hold such a dict.
        inside: the keys that lead to one of several networks, or a prefix of its names; the usual one if empty.

    Raises:
        InputError: several networks of which none is the usual one, or none under these keys; both are listed.
    """
    if not isinstance(loaded, Mapping):
        return None
    networks = find_state_dicts(loaded)
    if inside:
        return _under(loaded, networks, tuple(inside))
    if not networks:
        return None
    path = _usual(list(networks))
    others = ["/".join(other) for other in networks if other != path]
    chosen = networks[path]
    average = _average(chosen.tensors)
    if average:
        others.append(average)
    kept = {name: tensor for name, tensor in chosen.tensors.items() if not average or not _has(name, average)}
    return Unwrapped(kept, path, _plain_values(loaded, path), tuple(others), chosen.left_out)


class StateDict(NamedTuple):
    """The tensors of one mapping, and the names of its other entries."""

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def find_state_dicts(loaded: Mapping[object, object], path: Path = ()) -> dict[Path, StateDict]:
    """All networks in nested mappings, by the keys that lead to them."""
    if len(path) > DEEPEST or is_optimizer_state(loaded):
        return {}
    inner: dict[Path, StateDict] = {}
    for key, value in loaded.items():
        if isinstance(value, Mapping) and not BESIDE.search(str(key)):
            inner |= find_state_dicts(value, (*path, str(key)))
    tensors = {
        name: value.detach()
        for name, value in loaded.items()
        if isinstance(value, Tensor) and isinstance(name, str) and not BESIDE.search(name)
    }
    # A wrapper may hold a loss or a matrix of its own; the names of a network's tensors have a dot.
    if inner and not any("." in name for name in tensors):
        return inner
    alone = not path and tensors and len(tensors) == len(loaded)
    if not alone and not any(tensor.ndim > 0 and _has_fractions(tensor) for tensor in tensors.values()):
        return inner
    left_out = tuple(str(name) for name in loaded if str(name) not in tensors)
    return {path: StateDict(tensors, left_out)}


def is_optimizer_state(loaded: object) -> bool:
    """Whether a mapping is how an optimizer's training goes on, by what it holds."""
    if not isinstance(loaded, Mapping):
        return False
    return "param_groups" in loaded or ("state" in loaded and "base_lrs" in loaded)


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized


def _usual(paths: Sequence[Path]) -> Path:
    """The network that a file is about.

    Raises:
        InputError: nobody can tell.
    """
    shared = 0
    while len(paths) > 1:
        steps = list(dict.fromkeys(path[shared] for path in paths if len(path) > shared))
        chosen = next((step for step in WRAPPERS if step in steps), None)
        trained = [step for step in steps if not AVERAGE.search(step.lower())]
        if chosen is None and len(trained) == 1:
            chosen = trained[0]
        if chosen is None:
            names = ["/".join(path) for path in paths]
            raise InputError(f"expected one network, found several: {some_of(names, 8)}; --key {names[0]} takes one")
        paths = [path for path in paths if len(path) > shared and path[shared] == chosen]
        shared += 1
    return paths[0]


def _under(loaded: Mapping[object, object], networks: Mapping[Path, StateDict], inside: Path) -> Unwrapped:
    """The network under some keys, or of names with a prefix.

    Raises:
        InputError: there is none.
    """
    keys = tuple(step for key in inside for step in key.split("/") if step)
    for path, network in networks.items():
        if path == keys or (path[: len(keys)] == keys and len([1 for p in networks if p[: len(keys)] == keys]) == 1):
            return Unwrapped(network.tensors, path, _plain_values(loaded, path), (), network.left_out)
    for path, network in networks.items():
        prefix = ".".join(keys[len(path) :]) if keys[: len(path)] == path else ".".join(keys)
        named = {name: tensor for name, tensor in network.tensors.items() if _has(name, prefix)}
        if prefix and named:
            cut = {name.removeprefix(f"{prefix}."): tensor for name, tensor in named.items()}
            return Unwrapped(cut, (*path, prefix), _plain_values(loaded, path))
    names = ["/".join(path) or "the file itself" for path in networks]
    raise InputError(f"expected a network under {'/'.join(keys)}, found {some_of(names, 8) or 'none at all'}")


def _plain_values(loaded: Mapping[object, object], path: Path) -> dict[str, Plain]:
    """Numbers and texts beside a network, on the way to it; inner ones count more."""
    values: dict[str, Plain] = {}
    level: object = loaded
    for step in (*path, ""):
        if not isinstance(level, Mapping):
            break
        for key, value in level.items():
            number = value.item() if isinstance(value, np.generic) else value
            if isinstance(number, str | int | float | bool):
                values[str(key)] = number
        level = next((value for key, value in level.items() if str(key) == step), None)
    return values


def _has(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")


def _average(tensors: Mapping[str, Tensor]) -> str:
    """The first part of the names of an average that lies beside the weights; "" if there is none."""
    parts: dict[str, list[tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim > 0:
            parts.setdefault(name.partition(".")[0], []).append(tuple(tensor.shape))
    for part, shapes in parts.items():
        rest = [shape for other, each in parts.items() if other != part for shape in each]
        if AVERAGE.search(part.lower()) and len(shapes) * 2 >= len(rest) and set(shapes) <= set(rest):
            return part
    return ""


class PlainNames(NamedTuple):
    """What tensors are called without what wrappers of a module add.

    Attributes:
        names: plain name -> name as stored.
        dropped: what was dropped, such as `module.`.
    """

    names: dict[str, str]
    dropped: str


def plain_names(stored: Iterable[str]) -> PlainNames:
    """Names without `module.` before all of them, and without what compiling and sharding add anywhere."""
    stored = list(stored)
    plain = list(stored)
    dropped: list[str] = []
    for part in ANYWHERE:
        if any(part in name for name in plain):
            plain, dropped = [name.replace(part, "") for name in plain], [*dropped, part]
    while plain and all(name.startswith(PREFIX) for name in plain):
        plain, dropped = [name.removeprefix(PREFIX) for name in plain], [*dropped, PREFIX]
    if len(set(plain)) < len(plain):
        return PlainNames(dict(zip(stored, stored, strict=True)), "")
    # In the order in which a name has them; what only others have comes last.
    order = {part: stored[0].find(part) if part in stored[0] else len(stored[0]) for part in dropped}
    return PlainNames(dict(zip(plain, stored, strict=True)), "".join(sorted(order, key=lambda part: order[part])))
