"""What an adapter does to its base, tensor by tensor, and the canonical form of a change."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.remote import Place
from weightspace.weights.files import StoredWeights

# What it takes to know a change: the file alone, the base's tensor too, or what no file holds.
Known = Literal["from the file", "needs the base", "cannot be known"]
WORDS: dict[Known, str] = {
    "from the file": "known from the file",
    "needs the base": "needs the base",
    "cannot be known": "cannot be known",
}
# Changes that differ by less than this share are one change, in 16 bits too.
SAME = 1e-2
# Singular values below this share of the largest, times the longer side, are rounding.
ROUNDING = {torch.float64: 2e-15, torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


# What kohya's scripts, LyCORIS and diffusers put before a module's name.
_PREFIXES = re.compile(
    r"^((lora|lycoris)_(unet|te\d?|text_encoder(_\d)?|transformer|prior)_|(unet|text_encoder(_\d)?|transformer)\.)"
)


def flat_name(target: str) -> str:
    """A tensor's name whoever wrote it: without what stands for a part of a pipeline, and without dots, which some have
    lost.
    """
    return re.sub(r"^lycoris_", "", _PREFIXES.sub("", target)).replace(".", "_")


def same_change(cosine: float, scale: float) -> str:
    """Whether two changes are one up to a factor, in words; nothing if they are not.

    Args:
        cosine: of the angle between them; scale: length of the second over that of the first.
    """
    if 2 * (1 - cosine) > SAME**2:
        return ""
    return "the same change" + ("" if abs(scale - 1) <= SAME else f", the second {scale:.3g} times as large")


class Factors(NamedTuple):
    """A change as a product `left @ right`, its scale included; of a kernel all axes but the first are one."""

    left: Float[Tensor, "out rank"]
    right: Float[Tensor, "rank in"]

    @property
    def product(self) -> Float[Tensor, "out in"]:
        """The change itself."""
        return self.left @ self.right


class Canonical(NamedTuple):
    """The thin singular value decomposition of a change: `left * values @ right`.

    Which factors a change was stored as leaves no trace in it: neither their rank nor any basis of it. Signs are such
    that the largest entry of every left vector is positive. Where singular values are equal their vectors are not
    determined.

    Attributes:
        left, right: orthonormal columns and rows, in float64.
        values: the singular values, largest first; those that are rounding are left out.
    """

    left: Float[Tensor, "out rank"]
    values: Float[Tensor, "rank"]
    right: Float[Tensor, "rank in"]

    @property
    def rank(self) -> int:
        """Of the change, not of its factors."""
        return len(self.values)

    @property
    def norm(self) -> float:
        """Frobenius norm of the change."""
        return float(self.values.square().sum().sqrt())

    @property
    def pairs(self) -> Factors:
        """Scaled singular pairs: each side has the root of the singular value."""
        root = self.values.sqrt()
        return Factors(self.left * root, root[:, None] * self.right)


def canonical_form(factors: Factors) -> Canonical:
    """The canonical form of a product, which itself is never formed: by QR of the factors, in float64.

    Args:
        factors: of any rank; the precision they are in decides what counts as rounding.

    Examples:
        >>> left, right = torch.randn(6, 2), torch.randn(2, 5)
        >>> mixed = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
        >>> one = canonical_form(Factors(left, right))
        >>> other = canonical_form(Factors(left @ mixed, mixed.inverse() @ right))
        >>> torch.allclose(one.values, other.values) and torch.allclose(one.left, other.left, atol=1e-5)
        True
    """
    rounding = ROUNDING.get(factors.left.dtype, ROUNDING[torch.float32])
    outer, upper = torch.linalg.qr(factors.left.double())
    inner, lower = torch.linalg.qr(factors.right.double().T)
    left, values, right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    # What two factors that cancel leave is rounding of them, not of their small product.
    largest = float(upper.norm() * lower.norm())
    kept = values > rounding * max(largest, 0.0)
    left, right = outer @ left[:, kept], right[kept] @ inner.T
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign() if left.numel() else left[:1]
    return Canonical(left * signs, values[kept], right * signs.T)


@dataclass(frozen=True)
class Change:
    """What an adapter does to one tensor of its base.

    Attributes:
        method: such as `LoRA` or `DoRA`.
        known: see `Known`; why: what is missing, where it is not known from the file.
        stored_rank: of the factors in the file; 0 where it stores none.
        factors: the change as a product, of a change that the file alone tells.
        apply: the new tensor for a tensor of the base, where that is known.
        optional: of a tensor that not every base has, such as a bias.
        index: of a tensor that stacks the weights of experts, which of them.
        inputs: of a kernel, the shape of what one output has, where the file tells it; embedding: of an embedding.
        shape: outputs and inputs of the tensor, where the file tells them.
    """

    method: str
    known: Known = "from the file"
    why: str = ""
    stored_rank: int = 0
    factors: Callable[[], Factors] | None = None
    apply: Callable[[Tensor], Tensor] | None = None
    optional: bool = False
    index: int | None = None
    inputs: tuple[int, ...] = ()
    embedding: bool = False
    shape: tuple[int, int] | None = None

    def product(self) -> Factors:
        """The change as a product.

        Raises:
            InputError: a change that the file alone does not tell.
        """
        if self.factors is None:
            raise InputError(
                f"expected a change that its file tells, found {self.method}, which {self.known} ({self.why})"
            )
        try:
            return self.factors()
        except (RuntimeError, KeyError) as error:
            raise InputError(f"expected parts of {self.method} that fit each other, found others ({error})") from error

    def canonical(self) -> Canonical:
        """The canonical form of `product`."""
        return canonical_form(self.product())

    def applied(self, base: Tensor, *, transposed: bool = False) -> Tensor:
        """The tensor of the merged network, in the precision of the base.

        Args:
            base: the tensor of the base; it stays as it is.
            transposed: the base stores inputs first, as GPT-2's layers do, and it does not show in its shape.

        Raises:
            InputError: a change that is not known even with the base, or a tensor of another shape.
        """
        apply, shape = self.apply, self.shape
        if apply is None:
            if self.factors is None:
                raise InputError(f"expected a change that can be merged, found {self.method}: {self.why}")
            factors = self.product()
            apply, shape = partial(_plus, factors), (len(factors.left), factors.right.shape[1])
        turned = is_turned(tuple(base.shape), shape, square=transposed)
        wide = base.to(torch.promote_types(base.dtype, torch.float32))
        try:
            changed = apply(wide.T if turned else wide)
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"expected a base that {self.method} fits, found a tensor of shape {list(base.shape)} ({error})"
            ) from error
        return (changed.T if turned else changed).to(base.dtype).contiguous()


def is_turned(base: tuple[int, ...], shape: tuple[int, int] | None, *, square: bool = False) -> bool:
    """Whether a base stores inputs first, as GPT-2's layers do.

    Args:
        base: its shape; shape: outputs and inputs of the change, where they are known.
        square: the answer where shapes do not show it.
    """
    if len(base) != 2:
        return False
    if base[0] == base[1] or shape is None:
        return square
    return base == shape[::-1]


def add_product(base: Tensor, factors: Factors) -> Tensor:
    """The base plus a product, computed in float32 at least and rounded once.

    Raises:
        InputError: a product of another shape.
    """
    rows, columns = len(factors.left), factors.right.shape[1]
    if base.shape[0] != rows or base.numel() != rows * columns:
        raise InputError(
            f"expected a tensor of the base with {rows} rows and {rows * columns:,} numbers to add a change to, "
            f"found one of shape {list(base.shape)}"
        )
    wide = torch.promote_types(base.dtype, torch.float32)
    change = factors.left.to(wide) @ factors.right.to(wide)
    return (base.to(wide) + change.reshape(base.shape)).to(base.dtype)


def _plus(factors: Factors, base: Tensor) -> Tensor:
    return add_product(base, factors)


class Replaced(NamedTuple):
    """A tensor that an adapter holds whole: instead of the base's, or instead of some of its rows."""

    read: Callable[[], Tensor]
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """An adapter in a file or folder; tensors are read as they are asked for.

    Attributes:
        path: where it is.
        method: such as `LoRA`; several are named one after the other.
        changes: what it does, by the base's tensors as the adapter names them.
        replaced: what takes the place of the base's tensors, such as saved modules and rows of new tokens.
        told: tensors of the base that came along with it, which prove or refute a candidate base.
        config: its configuration; empty where there is none.
        base: how the configuration names its base, if it does.
        remarks: what else there is to say, in sentences.
        stored: every tensor of the file, by its name there.
        norms: lengths of the columns of tensors of the base, which prove or refute one too.
        vectors: so do singular vectors of tensors of the base, at outputs and at inputs, each times the root of its
            singular value.
    """

    path: Place
    method: str
    changes: Mapping[str, Change]
    replaced: Mapping[str, Replaced]
    told: Mapping[str, Callable[[], Tensor]]
    config: Mapping[str, Any]
    base: str | None
    remarks: tuple[str, ...]
    stored: StoredWeights = field(repr=False)
    norms: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    vectors: Mapping[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = field(default_factory=dict)

    @property
    def known(self) -> Known:
        """What it takes to know all of its changes."""
        order: tuple[Known, ...] = ("cannot be known", "needs the base", "from the file")
        return next(
            (known for known in order if any(change.known == known for change in self.changes.values())), order[-1]
        )

    @property
    def parameters(self) -> int:
        """Numbers in the file."""
        return sum(tensor.numel() for tensor in self.stored.meta().values())
