"""Networks, named on a command line: files or folders of weights, or members of zoos."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights import (
    INDEX_FILES,
    SINGLE_FILES,
    Weights,
    natural_key,
    open_weights,
    read_weights,
    require_finite,
)
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class Network(NamedTuple):
    """Weights, and their architecture where a zoo tells it."""

    weights: Weights
    architecture: Architecture | None


def open_network(name: str) -> Network:
    """Read `model.safetensors`, `model.pt`, a sharded folder, or the last epoch of `ZOO:MEMBER`.

    Raises:
        InputError: there is no such network, or it has NaN or infinite weights.
    """
    network = Network(read_weights(name), None) if Path(name).exists() else _member(name)
    require_finite(network.weights, name)
    return network


def open_networks(names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Weights by name: of files, read as they are needed, of all files of folders, and of `ZOO:MEMBER`.

    Raises:
        InputError: there is no such network.
    """
    for name in names:
        if Path(name).exists():
            for file in network_files(Path(name)):
                yield str(file), open_weights(file)
        else:
            yield name, _member(name).weights


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Refusals say which network they are about."""
    try:
        yield
    except InputError as refusal:
        raise InputError(f"{name}: {refusal}") from refusal


def network_files(path: Path) -> list[Path]:
    """One network, or all weight files of a folder that is not a model by itself, in natural order.

    Raises:
        InputError: a folder without any.
    """
    if not path.is_dir() or any((path / name).is_file() for name in (*INDEX_FILES, *SINGLE_FILES)):
        return [path]
    files = [file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file()]
    if not files:
        raise InputError(f"expected weight files ({', '.join(WEIGHT_SUFFIXES)}) in {path}, found none")
    return sorted(files, key=lambda file: natural_key(file.name))


def _member(name: str) -> Network:
    folder, _, member = name.rpartition(":")
    if not folder or not Path(folder).is_dir():
        raise InputError(f"expected a file of weights or ZOO:MEMBER, found '{name}', which is neither")
    own = Zoo.open(folder).where(member=member).last()
    if len(own) == 0:
        raise InputError(f"expected a member of {folder}, found '{member}'")
    return Network(own.weights(0), own.architectures[str(own.table["architecture"].iloc[0])])
