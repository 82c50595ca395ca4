"""Seeds derived from names, so that every member and every step has randomness of its own."""

import hashlib

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
