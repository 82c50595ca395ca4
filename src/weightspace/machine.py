"""What this machine offers to the package, for whoever asks what would be used."""

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from weightspace.outputs import installed_versions
from weightspace.spreading import count_cpus

# Extra -> what it installs, and what it is for.
EXTRAS = {
    "ray": ("ray", "growing and importing on a cluster"),
    "weightwatcher": ("weightwatcher", "WeightWatcher's values in `layers`"),
    "index": ("usearch", "an index in `similar`, for very many networks"),
}


class Machine(NamedTuple):
    """Versions, processors and extras.

    Attributes:
        versions: of Python and the packages that decide the numbers.
        processors: that this process may use; threads: how many torch uses of them.
        device: what models are trained and embed on: the name of an accelerator, or `cpu`.
        half_precision: whether training takes bf16 there.
        extras: extra -> its version, or None where it is not installed.
    """

    versions: dict[str, str]
    processors: int
    threads: int
    device: str
    half_precision: bool
    extras: dict[str, str | None]


def describe_machine() -> Machine:
    """Look around; starts nothing on a device but asks for its name."""
    import torch

    cuda = torch.cuda.is_available()
    accelerator = torch.accelerator.current_accelerator()
    return Machine(
        versions={"weightspace": _version("weightspace") or "not installed", **installed_versions()},
        processors=count_cpus(),
        threads=int(os.environ.get("WEIGHTSPACE_THREADS", "1")),
        device=torch.cuda.get_device_name() if cuda else accelerator.type if accelerator else "cpu",
        half_precision=cuda and torch.cuda.is_bf16_supported(),
        extras={extra: _version(package) for extra, (package, _) in EXTRAS.items()},
    )


def _version(package: str) -> str | None:
    """Of an installed package; the import name says whether it is, as a name on an index may differ."""
    try:
        return version(package) if importlib.util.find_spec(package) else None
    except PackageNotFoundError:
        return None
