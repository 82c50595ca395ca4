"""Methods that multiply their base: by vectors, by one plus a product, by rotations."""

import math

import torch
from torch import Tensor

from weightspace.weights.adapters.changes import Change, Factors
from weightspace.weights.adapters.methods import Leaves, Scaling


def scaled(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """IA3: rows or columns of the base, multiplied (Liu et al., 2022)."""

    def apply(base: Tensor) -> Tensor:
        vector = leaves["l"]().float()  # a column over outputs, or a row over inputs; of kernels a row in both cases
        along = int(inner or (vector.ndim == 2 and vector.shape[0] == 1))
        return base * vector.reshape([-1 if axis == along else 1 for axis in range(base.ndim)])

    listed = scaling.option("feedforward_modules") or ()
    inner = any(f".{module}".endswith(f".{one}") for one in ([listed] if isinstance(listed, str) else listed))
    return Change("IA3", "needs the base", "it multiplies the base", apply=apply)


def hadamard_with_base(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """HiRA: the base times one plus a product, entry by entry (Huang et al., 2025)."""

    def apply(base: Tensor) -> Tensor:
        product = Factors(leaves["B"]().flatten(1), leaves["A"]().flatten(1)).product
        return base * (1 + product.float().reshape(base.shape))

    shape = (leaves["B"].shape[0], math.prod(leaves["A"].shape[1:]))
    return Change("HiRA", "needs the base", "it multiplies the base", leaves["A"].shape[0], apply=apply, shape=shape)


def rotated(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """OFT: inputs turned block by block (Qiu et al., 2023); by default by a series that is nearly a rotation."""
    terms = (
        int(scaling.option("num_cayley_neumann_terms") or 5) if scaling.option("use_cayley_neumann") is not False else 0
    )
    if scaling.option("coft") or scaling.option("block_share"):
        return Change("OFT", "needs the base", "it turns the base's inputs, in a variant that is not computed here")

    def apply(base: Tensor) -> Tensor:
        turn = torch.block_diag(*cayley(leaves["R"]().float(), terms))
        return (base.flatten(1) @ turn.T).reshape(base.shape)

    return Change("OFT", "needs the base", "it turns the base's inputs", apply=apply)


def cayley(entries: Tensor, terms: int) -> Tensor:
    """Rotations `(I + Q)⁻¹ (I - Q)` of skew-symmetric matrices from the entries above their diagonals; of so many terms
    of its series, if any, the last of them once and those before it twice, and three as four, as PEFT has them.
    """
    size = round((1 + math.sqrt(1 + 8 * entries.shape[1])) / 2)
    skew = entries.new_zeros(len(entries), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    skew[:, rows, columns] = entries
    skew = skew - skew.transpose(1, 2)
    eye = torch.eye(size).expand_as(skew)
    if not terms:
        return torch.linalg.solve(eye + skew, eye - skew, left=False)
    total, power = eye.clone(), eye
    last = 3 if terms == 3 else terms - 1
    for number in range(1, last + 1):
        power = power @ skew
        total += power if number == last and number > 1 else 2 * power
    return total
