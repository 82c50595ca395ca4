"""One network, named on a command line: a file or folder of weights, or a member of a zoo."""

from pathlib import Path
from typing import NamedTuple

from weightspace.errors import InputError
from weightspace.weights import Weights, read_weights, require_finite
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo


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


def _member(name: str) -> Network:
    folder, _, member = name.rpartition(":")
    if not folder or not Path(folder).is_dir():
        raise InputError(f"expected a file of weights or ZOO:MEMBER, found '{name}', which is neither")
    own = Zoo.open(folder).where(member=member).last()
    if len(own) == 0:
        raise InputError(f"expected a member of {folder}, found '{member}'")
    return Network(own.weights(0), own.architectures[str(own.table["architecture"].iloc[0])])
