"""Weight norm, spectral norm and pruning: one tensor that is computed from several, under torch's old and new names."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.weights.values import Weights

NEW = re.compile(r"^(.*?)parametrizations\.([^.]+)\.original0?$")
FEWEST = 1e-12


class Reparametrized(NamedTuple):
    """A tensor that a module computes.

    Attributes:
        name: what it is called where it is not computed, such as `0.weight`.
        kind: `weight norm`, `spectral norm` or `pruning`.
        parts: the names of what it is computed from, in the order in which `folded` takes them.
    """

    name: str
    kind: str
    parts: tuple[str, ...]


def find_reparametrized(names: Collection[str]) -> dict[str, Reparametrized]:
    """The computed tensors of a state dict by name, told by the names of their parts."""
    present, found = set(names), {}
    for name in names:
        for tensor in _spellings(name):
            if set(tensor.parts) <= present:
                found[tensor.name] = tensor
    return found


def _spellings(first: str) -> list[Reparametrized]:
    """What a tensor may be the first part of."""
    new = NEW.match(first)
    if new:
        stem, name = first.rstrip("0").removesuffix(".original"), new[1] + new[2]
        return [
            Reparametrized(name, "weight norm", (f"{stem}.original0", f"{stem}.original1")),
            Reparametrized(name, "spectral norm", (f"{stem}.original", f"{stem}.0._u", f"{stem}.0._v")),
        ]
    if first.endswith("_g"):
        return [Reparametrized(first[:-2], "weight norm", (first, f"{first[:-2]}_v"))]
    name = first.removesuffix("_orig")
    if name == first:
        return []
    return [
        Reparametrized(name, "spectral norm", (first, f"{name}_u", f"{name}_v")),
        Reparametrized(name, "pruning", (first, f"{name}_mask")),
    ]


def folded(tensor: Reparametrized, weights: Mapping[str, Tensor]) -> Tensor:
    """The tensor that a module in evaluation mode computes from its parts."""
    parts = [weights[name] for name in tensor.parts]
    if tensor.kind == "pruning":
        return parts[0] * parts[1]
    if tensor.kind == "weight norm":
        size, direction = parts
        return direction * (size / _norm(direction, size).clamp_min(FEWEST))
    original, left, right = parts
    fitting = [axis for axis in range(min(2, original.ndim)) if original.shape[axis] == len(left)]
    matrices = [original.movedim(axis, 0).flatten(1) for axis in fitting or (0,)]
    if original.is_meta:
        return original
    # Transposed convolutions are normed along their second axis: the vectors tell, as they are singular ones.
    matrix = min(matrices, key=lambda matrix: _distance(matrix, left, right))
    return original / torch.dot(left, matrix @ right)


def _distance(matrix: Tensor, left: Tensor, right: Tensor) -> float:
    """How far vectors are from being a pair of singular vectors of a matrix, relative to its size."""
    image = matrix @ right
    return float((image - torch.dot(left, image) * left).norm() / image.norm().clamp_min(FEWEST))


def unfolded(tensor: Reparametrized, weight: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> Weights | None:
    """Parts that compute a given tensor; None for spectral norm, whose vectors nobody knows."""
    if tensor.kind == "pruning":
        return {tensor.parts[0]: weight, tensor.parts[1]: torch.ones_like(weight)}
    if tensor.kind == "weight norm":
        size = torch.empty(shapes[tensor.parts[0]], device="meta")
        return {tensor.parts[0]: _norm(weight, size), tensor.parts[1]: weight}
    return None


def _norm(direction: Tensor, size: Tensor) -> Tensor:
    """Norms over all axes along which there is one size."""
    if size.ndim == 0:
        return torch.linalg.vector_norm(direction)
    alone = [axis for axis, count in enumerate(size.shape) if count == 1]
    return torch.linalg.vector_norm(direction, dim=alone, keepdim=True) if alone else direction.abs()


def renamed(tensor: Reparametrized, wanted: Reparametrized, weights: Mapping[str, Tensor]) -> Weights:
    """The same parts under the names of another spelling."""
    return {new: weights[name] for name, new in zip(tensor.parts, wanted.parts, strict=True)}
