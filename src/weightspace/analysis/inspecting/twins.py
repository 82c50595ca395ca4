"""Networks of a folder that are another network of it with an adapter of it merged in."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.analysis.inspecting.checkpoints import Inspected, Inspection
from weightspace.analysis.inspecting.relating_folders import is_whole, opened
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.weights.adapters.changes import Adapter
from weightspace.weights.adapters.merging import base_names, merge_tensor, unstacked
from weightspace.weights.files import meta_of
from weightspace.weights.values import shapes_of

# So many networks of one architecture are tried as bases, each with all others, for every adapter.
MOST_NETWORKS = 20
# What a merged network may be off by, of the change: rounding to 16 bits in it, and of a change as small.
OFF = 0.1


class MergedTwin(NamedTuple):
    """A network that is a base with an adapter merged in.

    Attributes:
        network, base, adapter: their paths.
        off: what is between the network and the base with the adapter, over the change.
    """

    network: str
    base: str
    adapter: str
    off: float


def merged_twins(address: str | Path, inspection: Inspection, adapters: Mapping[str, Adapter]) -> list[MergedTwin]:
    """Every network that is another one of the folder with an adapter of it merged in; tensors are read one by one.

    Args:
        address: of the folder.
        inspection: of it.
        adapters: by their paths.
    """
    whole = [checkpoint for checkpoint in inspection.checkpoints if is_whole(checkpoint)]
    if not adapters or len(whole) < 2:
        return []
    kinds: dict[str, list[Inspected]] = {}
    for checkpoint in whole:
        kinds.setdefault(checkpoint.architecture, []).append(checkpoint)
    twins: list[MergedTwin] = []
    with progress_bar("looking for merged adapters", len(adapters)) as advance:
        for path, adapter in adapters.items():
            for alike in kinds.values():
                with opened(address, alike[:MOST_NETWORKS], inspection.key) as networks:
                    twins += _twins(path, adapter, networks)
            advance()
    return twins


def _twins(path: str, adapter: Adapter, networks: Mapping[str, Mapping[str, Tensor]]) -> Iterator[MergedTwin]:
    """Those of one architecture: by the smallest tensor that the adapter changes, then by all."""
    shapes = shapes_of(meta_of(next(iter(networks.values()))))
    try:
        adapter = unstacked(adapter, list(shapes))
        names = base_names(adapter, shapes)
    except InputError:
        return  # an adapter of another architecture
    names = {target: name for target, name in names.items() if name in shapes}
    smallest = sorted(dict.fromkeys(names.values()), key=lambda name: math.prod(shapes[name]))
    for base, before in networks.items():
        try:
            tried = (_merged(before, adapter, names, [name]) for name in smallest)
            # Of a tensor that does not change nothing can be told.
            expected = next((one for one in tried if any(not torch.equal(t, before[n]) for n, t in one.items())), None)
        except InputError:
            return  # what cannot be merged has no twin
        if expected is None:
            return
        for network, after in networks.items():
            near = network != base and _off(before, after, expected) <= OFF
            if near:
                off = _off(before, after, _merged(before, adapter, names, list(dict.fromkeys(names.values()))))
                if off <= OFF:
                    yield MergedTwin(network, base, path, off)


def _merged(
    base: Mapping[str, Tensor], adapter: Adapter, names: Mapping[str, str], tensors: Sequence[str]
) -> dict[str, Tensor]:
    """Some tensors of a base with an adapter."""
    shapes = shapes_of(meta_of(base))
    return {
        name: merge_tensor(
            base[name].float(), adapter, [t for t, of in names.items() if of == name], name, names, shapes
        )
        for name in tensors
    }


def _off(before: Mapping[str, Tensor], after: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """How far a network is from what is expected of it, over how far that is from the base."""
    wrong = sum(float((after[name].double() - tensor.double()).square().sum()) for name, tensor in expected.items())
    change = sum(float((tensor.double() - before[name].double()).square().sum()) for name, tensor in expected.items())
    return (wrong / change) ** 0.5 if change > 0 else float("inf")
