"""Named tensors: their names in natural order, their shapes, and which of them are tied."""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from weightspace.errors import InputError

Weights: TypeAlias = dict[str, Tensor]
Shapes: TypeAlias = dict[str, tuple[int, ...]]


# So many numbers are hashed at once, by an odd factor of 64 bits: products wrap around.
HASHED, MIXING = 1 << 20, 0x1E3779B97F4A7C15
# What batch norms count as they go.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# So many different values make no weights; rows whose lengths vary by less than this share are computed.
DISTINCT, FEW_VALUES, EVEN = 4, 4_096, 1e-3


class Role(NamedTuple):
    """What the rows of a tensor are.

    Attributes:
        kind: layer kind, such as `linear`, `conv`, `norm`; statistics of unseen tensors are shared by kind.
        axis: which axis counts the output rows.
        bias: the tensor with one number per row that belongs to them, if any.
    """

    kind: str
    axis: int = 0
    bias: str | None = None


class WeightsMismatch(InputError):
    """Weights that do not have the expected names and shapes.

    Attributes:
        missing: names expected and not found.
        unexpected: names found and not expected.
        misshapen: `name -> (expected shape, found shape)`.
    """

    def __init__(
        self,
        missing: list[str],
        unexpected: list[str],
        misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = []
        if missing:
            parts.append(f"missing {some_of(missing)}")
        if unexpected:
            parts.append(f"unexpected {some_of(unexpected)}")
        if misshapen:
            shown = [f"{name} {found} instead of {expected}" for name, (expected, found) in misshapen.items()]
            parts.append(f"misshapen {some_of(shown)}")
        super().__init__("the weights do not fit the expected network: " + "; ".join(parts))


# The two halves of a recurrent layer, in torch's names: `weight_ih_l0`, `weight_hh_l0`, `weight_hh_l0_reverse`.
RECURRENT = re.compile(r"_([ih])h(_l\d+(?:_reverse)?)?$")


def natural_key(name: str) -> list[str | tuple[int, str]]:
    """A sort key under which `layer.10` comes after `layer.2`, and in recurrent layers what reads the input before
    what reads the hidden state, as in torch's own order.
    """
    name = RECURRENT.sub(lambda half: f"{half[2] or ''}_{'ih'.index(half[1])}", name)
    return [_size(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _size(digits: str) -> tuple[int, str]:
    """What orders numbers of any length, of which Python reads only those below some thousand digits."""
    number = digits.lstrip("0")
    return len(number), number


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """The shape of every tensor, in the order of `weights`."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def require_shapes(weights: Mapping[str, Tensor], expected: Shapes) -> None:
    """Raise `WeightsMismatch` unless `weights` has exactly the `expected` names and shapes (any order)."""
    found = shapes_of(weights)
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = {
        name: (shape, found[name]) for name, shape in expected.items() if name in found and found[name] != shape
    }
    if missing or unexpected or misshapen:
        raise WeightsMismatch(missing, unexpected, misshapen)


def is_mask(tensor: Tensor) -> bool:
    """Whether a tensor is one that others are masked with, by design: of zeros and ones, or of infinities of one sign
    beside one other number, as what attention must not see.
    """
    if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.element_size() == 1 or not tensor.numel():
        return False
    first = tensor.flatten()[0]
    if first.isfinite() and first not in (0, 1):  # most tensors are told by one number
        return False
    finite = tensor[tensor.isfinite()]
    low, high = tensor.aminmax()
    if low.isnan() or high.isnan() or (low.isinf() and high.isinf() and low != high):
        return False
    if len(finite) == tensor.numel():
        return bool(low == 0 and high == 1 and ((tensor == 0) | (tensor == 1)).all())
    return len(finite) > 0 and bool(finite.min() == finite.max())


def is_statistic(name: str) -> bool:
    """Whether a tensor is what a batch norm counts as it goes."""
    return name.rpartition(".")[2] in STATISTICS


def is_computed(tensor: Tensor) -> bool:
    """Whether a tensor looks as if a formula made it: hardly any different values, rows of one length as those of sines
    and cosines have, rows whose halves are alike, or a row that only rises or falls.
    """
    values = tensor.detach().double()
    if values.flatten()[:FEW_VALUES].unique().numel() <= DISTINCT and values.unique().numel() <= DISTINCT:
        return True
    if values.ndim == 1:
        steps = values.diff()
        return len(values) > DISTINCT and bool((steps > 0).all() or (steps < 0).all())
    lengths = values.flatten(0, -2).norm(dim=-1)
    even = len(lengths) > 1 and float(lengths.std()) < EVEN * float(lengths.mean())
    half = values.shape[-1] // 2
    return even or (half > 1 and torch.equal(values[..., :half], values[..., half : 2 * half]))


def sum_of_hashes(tensor: Tensor) -> int:
    """A sum over hashes of all numbers, which depends neither on their order nor on which tensor they are in."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if not tensor.numel():
        return 0
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    numbers = plain.contiguous().flatten().view(kinds[plain.element_size()])
    total = 0
    for part in numbers.split(HASHED):
        mixed = part.to(torch.int64) * MIXING
        mixed = (mixed ^ (mixed >> 29)) * MIXING
        total += int((mixed ^ (mixed >> 32)).sum())
    return total % 2**64


def infinite_masks(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The masks of infinities among weights: buffers by design, which nobody learns."""
    floats = [name for name, tensor in weights.items() if _has_infinities(tensor)]
    return tuple(name for name in floats if not weights[name].isfinite().all() and is_mask(weights[name]))


def _has_infinities(tensor: Tensor) -> bool:
    """Whether a tensor is of a type that has infinities, and has values at all."""
    return tensor.is_floating_point() and tensor.element_size() > 1 and not tensor.is_meta


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise `InputError` naming the first tensor with a NaN or an infinity, other than masks of infinities."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.element_size() == 1:  # 8-bit floats have no arithmetic of their own
            tensor = tensor.float()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all() and not is_mask(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            raise InputError(f"{what}: expected finite weights, found {count} NaN or infinite values in {name}")


def find_aliases(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Tied tensors: `alias -> first name` for every name that shares the memory of an earlier one."""
    first: dict[tuple[str | int, ...], str] = {}
    aliases = {}
    for name, tensor in weights.items():
        if tensor.numel() == 0:
            continue
        kind = f"{tensor.dtype} {tensor.is_conj()} {tensor.is_neg()}"
        # Without memory there are no places: only one object is one tensor.
        memory = id(tensor) if tensor.is_meta else tensor.data_ptr()
        place = (kind, memory, *tensor.shape, -1, *tensor.stride())
        if place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
    return aliases


def some_of(names: list[str], limit: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
