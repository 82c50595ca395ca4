"""Representations from matrices: spectra, and four views through random probes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.representations.baselines import represent_stacks
from weightspace.randomness import derive_seed
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.zoo import Checkpoints, Zoo

SMALLEST = 1e-12
PROBES = 4


def spectra(zoo: Zoo) -> Embeddings:
    """Five numbers from the singular values of every matrix (as rows by the rest, convolutions likewise).

    Logarithms of the Frobenius norm, of the largest singular value, of the stable rank (their squared ratio) and of the
    entropy rank (exp of the entropy of the squared values' shares), and the exponent of a power law fitted to the
    upper half of the squared values by maximum likelihood (Hill's estimator; WeightWatcher's α also searches where
    the tail begins: `weightspace layers` reads it from there).

    Raises:
        InputError: no matrices, or networks with different numbers of them.
    """
    return represent_stacks(zoo, "spectra", lambda piece: torch.cat([_spectrum(m) for m in matrices(piece)], dim=1))


def matrix_views(zoo: Zoo) -> Embeddings:
    """Four views of every matrix X through random probes U: XU, XXᵀU, XᵀU and XᵀXU (MVProbe, 2026).

    Each view is standardised per network, as published, and the logarithm of the scale that this takes away stands
    beside it. Deviation: the published probes and what follows them are learned with labels; here four probes are
    drawn once, the same for all networks of a layer's shape, so that the views need no labels, like all
    representations.

    Raises:
        InputError: no matrices, or networks with different shapes.
    """
    return represent_stacks(zoo, "matrix views", lambda piece: torch.cat([_views(m) for m in matrices(piece)], dim=1))


def matrices(piece: Checkpoints) -> list[Float[Tensor, "networks rows columns"]]:
    """All floating-point tensors with two axes or more, as rows by the rest."""
    stack = piece.stack
    shapes = piece.architecture.shapes
    floats = [stack[name] for name in shapes if stack[name].is_floating_point() and len(shapes[name]) > 1]
    return [tensor.reshape(*tensor.shape[:2], -1).to(torch.float32) for tensor in floats if tensor[0].numel()]


def _spectrum(matrix: Float[Tensor, "networks rows columns"]) -> Float[Tensor, "networks 5"]:
    squares = torch.linalg.svdvals(matrix).square().clamp_min(SMALLEST)
    total, largest = squares.sum(1), squares[:, 0]
    share = squares / total[:, None]
    entropy = -(share * share.log()).sum(1)
    tail = max(1, math.ceil(squares.shape[1] / 2))
    excess = (squares[:, :tail] / squares[:, tail - 1 : tail]).log().sum(1)
    exponent = 1 + (tail / excess.clamp_min(0.1)).log()
    logarithms = [total.log() / 2, largest.log() / 2, (total / largest).log(), entropy, exponent]
    return torch.stack(logarithms, dim=1)


def _views(matrix: Float[Tensor, "networks rows columns"]) -> Float[Tensor, "networks features"]:
    rows, columns = matrix.shape[1:]
    generator = torch.Generator().manual_seed(derive_seed(0, "views", rows, columns))
    right = torch.randn(columns, PROBES, generator=generator)
    left = torch.randn(rows, PROBES, generator=generator)
    transposed = matrix.transpose(1, 2)
    sides = []
    for view in (matrix @ right, matrix @ (transposed @ left), transposed @ left, transposed @ (matrix @ right)):
        flat = view.flatten(1)
        mean, spread = flat.mean(1, keepdim=True), flat.std(1, keepdim=True).clamp_min(SMALLEST)
        sides += [(flat - mean) / spread, spread.log()]
    return torch.cat(sides, dim=1)
