"""Seeds derived from names, so that every member and every step has randomness of its own."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every name, and on nothing else.

    Two different lists of names give unrelated seeds, so members and steps can be drawn in any order, on any
    machine, and come out the same.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(seed, *names)`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def derive_share(seed: int, *names: str | int) -> float:
    """A number in [0, 1) that depends on `seed` and `names` only; used to split by name."""
    return derive_seed(seed, *names) / 2**63


@contextlib.contextmanager
def own_randomness(seed: int | None, device: torch.device) -> Iterator[None]:
    """Let what draws from a global state, of torch, numpy or Python, as dropout does, draw from `seed`; None if nothing
    draws. The states are as they were afterwards.
    """
    if seed is None:
        yield
        return
    # A module draws from the global state of numpy, if from any: a generator of our own would not reach it.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
