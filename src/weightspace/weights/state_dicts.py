"""State dicts inside what training scripts wrap around them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params")
PREFIXES = ("module.", "_orig_mod.")
DEEPEST = 3

Plain = str | int | float | bool


class Unwrapped(NamedTuple):
    """A state dict and what lay around it.

    Attributes:
        tensors: the state dict.
        path: the keys that led to it, outermost first.
        beside: plain values beside it, such as an epoch.
        others: keys of other state dicts beside it, such as an average of the weights.
    """

    tensors: dict[str, Tensor]
    path: tuple[str, ...]
    beside: dict[str, Plain]
    others: tuple[str, ...] = ()


def unwrap(loaded: object) -> Unwrapped | None:
    """Find the state dict in a loaded file: itself, or under one of the usual keys; None if there is none."""
    path: tuple[str, ...] = ()
    beside: dict[str, Plain] = {}
    others: list[str] = []
    for _ in range(DEEPEST):
        if not isinstance(loaded, Mapping) or not loaded:
            return None
        if all(isinstance(value, Tensor) for value in loaded.values()):
            return Unwrapped(dict(loaded), path, beside, tuple(others))
        plain = {str(key): value.item() if isinstance(value, np.generic) else value for key, value in loaded.items()}
        beside |= {key: value for key, value in plain.items() if isinstance(value, str | int | float | bool)}
        key = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if key is None:
            return None
        others += [str(other) for other, value in loaded.items() if other != key and _is_state_dict(value)]
        loaded, path = loaded[key], (*path, key)
    return None


def _is_state_dict(value: object) -> bool:
    """Whether a value is a dict of tensors, apart from a counter or the like."""
    if not isinstance(value, Mapping):
        return False
    tensors = sum(isinstance(tensor, Tensor) and tensor.ndim > 0 for tensor in value.values())
    return tensors > 0 and all(isinstance(tensor, Tensor | int | float) for tensor in value.values())


def shared_prefix(names: Iterable[str]) -> str:
    """The prefixes, such as `module.` of data parallel training, that all names begin with."""
    names = list(names)
    prefix = ""
    while names:
        more = next((one for one in PREFIXES if all(name.startswith(prefix + one) for name in names)), "")
        if not more:
            break
        prefix += more
    return prefix
