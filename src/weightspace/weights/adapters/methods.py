"""How each method's tensors make a change, by the rules of the libraries that write them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.adapters.changes import Change, Factors, Known, add_product


@dataclass(frozen=True)
class Leaf:
    """A stored part of a change, read when it is called."""

    read: Callable[[], Tensor]
    shape: tuple[int, ...]

    def __call__(self) -> Tensor:
        """The tensor."""
        return self.read()

    @property
    def row(self) -> "Leaf":
        """A vector as a matrix of one row."""
        return Leaf(lambda: self.read()[None], (1, *self.shape))

    @property
    def transposed(self) -> "Leaf":
        """The same matrix, its axes exchanged."""
        return Leaf(lambda: self.read().T, self.shape[::-1])


Leaves = Mapping[str, Leaf]
FAST_SVD = "its initial part was taken out of the base by a fast SVD whose random numbers nobody recorded"
# Methods whose change the file tells, but which are not computed here.
NOT_HERE = "it is known from the file, but not computed here"
Product = Callable[[], Factors]
# PEFT's types that are no product of factors in the file: what it takes to know their change, and why (PEFT 0.21).
OTHERS: dict[str, tuple[Known, str]] = {
    "BOFT": ("needs the base", "it multiplies the base by butterfly factors"),
    "HRA": ("needs the base", "it reflects the base's inputs"),
    "ROAD": ("needs the base", "it rotates the base's outputs"),
    "PSOFT": ("needs the base", "it rotates the base's principal part"),
    "GLORA": ("needs the base", "it scales the base"),
    "OSF": ("needs the base", "it changes the base's singular values"),
    "PEANUT": ("needs the base", "it is a function of the base"),
    "MISS": ("needs the base", "how many inputs a module has is not in the file"),
    "BONE": ("needs the base", "it multiplies blocks of the base"),
    "FOURIERFT": ("cannot be known", "the places of its coefficients are drawn from a seed"),
    "WAVEFT": ("cannot be known", "the places of its coefficients are drawn from a seed"),
    "TINYLORA": ("needs the base", "which vector is whose goes by the order of the base's modules"),
    "UNILORA": ("cannot be known", "where its numbers go is drawn from a seed"),
    "XLORA": ("cannot be known", "it mixes several adapters for every input"),
    "PROMPT_TUNING": ("cannot be known", "it changes inputs, no weights"),
    "PREFIX_TUNING": ("cannot be known", "it changes inputs, no weights"),
    "P_TUNING": ("cannot be known", "it changes inputs, no weights"),
    "MULTITASK_PROMPT_TUNING": ("cannot be known", "it changes inputs, no weights"),
    "ADAPTION_PROMPT": ("cannot be known", "it changes inputs, no weights"),
    "CPT": ("cannot be known", "it changes inputs, no weights"),
}


@dataclass(frozen=True)
class Scaling:
    """What a product is multiplied by, and what else a configuration says of one module.

    Attributes:
        alpha: None for the rank.
        rooted: alpha is divided by the root of the rank (rsLoRA).
        options: the configuration.
    """

    alpha: float | None = None
    rooted: bool = False
    options: Mapping[str, Any] | None = None

    def over(self, rank: int) -> float:
        """The factor for a rank."""
        alpha = rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(rank) if self.rooted else rank)

    def option(self, name: str) -> Any:
        """An entry of the configuration; None without one."""
        return (self.options or {}).get(name)


def low_rank(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """LoRA and what is stored as its factors: `scale * B @ A` (Hu et al., 2022), with its variants."""
    down, up = leaves["A"].shape, leaves["B"].shape
    if "E" in leaves:
        return _adaptive(leaves, scaling)
    rank, blocks = down[0], _blocks(scaling, module)
    if len(down) < 2 or len(up) < 2 or rank < 1:
        raise InputError(f"expected two factors of rank 1 or more in {module}, found {list(up)} and {list(down)}")
    if len(down) > 2 and up[1] != rank:
        groups = rank // up[1]
        return Change(
            _name(scaling),
            "cannot be known",
            f"its kernel spans {groups} groups of inputs: no weight of the layer is that",
            rank,
        )
    if len(down) > 2 and any(side > 1 for side in up[2:]):
        raise InputError(f"expected a second factor of 1 x 1 for the kernel of {module}, found {list(up)}")
    if not blocks and math.prod(up[1:]) != rank:
        raise InputError(f"expected factors of one rank in {module}, found {list(up)} and {list(down)}")

    def factors() -> Factors:
        first, second = leaves["A"](), leaves["B"]()
        if blocks:
            first, second = _unpacked(first, second, *blocks)
        # In 32 bits before it is scaled, as PEFT does.
        return Factors(scaling.over(rank) * _wide(second).flatten(1), _wide(first).flatten(1))

    shape = None if blocks else (up[0], math.prod(down[1:]))
    change = _kasa(factors, leaves["diag"], rank) if "diag" in leaves else _initialized(factors, scaling, rank)
    if "magnitude" in leaves and change.known != "cannot be known":
        change = with_lengths(change, factors, leaves["magnitude"], rank)
    return replace(change, inputs=() if blocks else down[1:], shape=shape)


def _adaptive(leaves: Leaves, scaling: Scaling) -> Change:
    """AdaLoRA: values between the factors, of which some modules keep fewer than they began with (Zhang et al., 2023).

    The scale stays that of the beginning, as PEFT has it.
    """
    rank = leaves["A"].shape[0]
    began = int(scaling.option("init_r") or rank)
    scale = (scaling.alpha if scaling.alpha and scaling.alpha > 0 else began) / (began + 1e-5)

    def factors() -> Factors:
        outer, values, inner = (_wide(leaves[part]()) for part in "BEA")
        return Factors(scale * outer, (values * inner).flatten(1))

    return Change("AdaLoRA", stored_rank=rank, factors=factors, shape=(leaves["B"].shape[0], leaves["A"].shape[1]))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _name(scaling: Scaling) -> str:
    return "rsLoRA" if scaling.rooted else "LoRA"


def _initialized(factors: Product, scaling: Scaling, rank: int) -> Change:
    """LoRA by what it began with, as some starts take a part out of the base; and by what else it is a variant of."""
    variants = {
        "alora_invocation_tokens": ("aLoRA", "it changes answers only after certain tokens"),
        "use_qalora": ("QALoRA", "it takes inputs in groups"),
    }
    for option, (method, why) in variants.items():
        if scaling.option(option):
            return Change(method, "cannot be known", why, rank)
    start = str(scaling.option("init_lora_weights") or "").lower()
    if start == "pissa":
        return Change(
            "PiSSA",
            "needs the base",
            "it replaces the base's principal part",
            rank,
            apply=lambda base: add_product(_without_principal(base, rank), factors()),
        )
    if start == "olora":
        scale = scaling.over(rank)
        return Change(
            "OLoRA",
            "needs the base",
            "it replaces a part of the base's QR decomposition",
            rank,
            apply=lambda base: add_product(_without_rows(base, rank, scale), factors()),
        )
    unknown = {
        "pissa_niter": ("PiSSA", FAST_SVD),
        "lora_ga": ("LoRA-GA", "its first step was taken out of a base that is in no file"),
        "loftq": ("LoftQ", "its base was quantized, and is in no file"),
        "corda": ("CorDA", "a part that depends on data was taken out of the base"),
    }
    for prefix, (method, why) in unknown.items():
        if start.startswith(prefix):
            return Change(method, "cannot be known", why, rank)
    return Change(_name(scaling), stored_rank=rank, factors=factors)


def _without_principal(base: Tensor, rank: int) -> Tensor:
    """The base without its largest singular components."""
    left, values, right = torch.linalg.svd(base, full_matrices=False)
    return base - left[:, :rank] * values[:rank] @ right[:rank]


def _without_rows(base: Tensor, rank: int, scale: float) -> Tensor:
    """The base without the first directions of its QR decomposition."""
    orthogonal, upper = torch.linalg.qr(base)
    return base - scale * orthogonal[:, :rank] @ upper[:rank]


def _kasa(factors: Product, diagonal: Leaf, rank: int) -> Change:
    """The base without its smallest singular components, and a product with a diagonal between (Wang et al., 2024)."""

    def apply(base: Tensor) -> Tensor:
        outer, inner = factors()
        left, values, right = torch.linalg.svd(base, full_matrices=False)
        kept = len(values) - rank
        return add_product(left[:, :kept] * values[:kept] @ right[:kept], Factors(outer * diagonal(), inner))

    return Change("KaSA", "needs the base", "it drops the base's smallest singular components", rank, apply=apply)


def with_lengths(change: Change, factors: Product, magnitude: Leaf, rank: int) -> Change:
    """Rows of base and product together, of lengths that are stored (Liu et al., 2024); of older LyCORIS columns."""

    def apply(base: Tensor) -> Tensor:
        added = change.apply(base) if change.apply is not None else add_product(base, factors())
        stored = magnitude().float()
        by_column = stored.ndim == 2 and stored.shape[0] == 1 and stored.shape[1] == base.shape[1]
        along = 1 if by_column else 0
        axes = [axis for axis in range(base.ndim) if axis != along]
        lengths = torch.linalg.vector_norm(added, dim=axes, keepdim=True)
        return added * stored.reshape(lengths.shape) / lengths

    return Change("DoRA", "needs the base", "rows of base and product together have stored lengths", rank, apply=apply)


def _blocks(scaling: Scaling, module: str) -> tuple[str, int] | None:
    """Which factor of a module is block-diagonal, and in how many blocks (BD-LoRA)."""
    options = scaling.option("use_bdlora")
    if not isinstance(options, Mapping):
        return None
    for side in "ab":
        if any(str(pattern) in module for pattern in options.get(f"target_modules_bd_{side}") or ()):
            return side, int(options.get("nblocks") or 1)
    return None


def _unpacked(down: Tensor, up: Tensor, side: str, blocks: int) -> tuple[Tensor, Tensor]:
    """Factors with the blocks of one of them, which are stored beside each other, on its diagonal."""
    if side == "a":
        return torch.block_diag(*down.chunk(blocks)), up
    return down, torch.block_diag(*up.chunk(blocks))


def experts(leaves: Leaves, scaling: Scaling, rank: int) -> list[Change]:
    """LoRA on stacked experts: one change for each, from factors that lie expert by expert in A, rank by rank in B.

    Of one expert it is that of a matrix which is no module's weight.
    """
    down, up = leaves["A"].shape, leaves["B"].shape
    if rank < 1 or down[0] % rank or up[1] != down[0]:
        raise InputError(f"expected factors of whole experts of rank {rank}, found {list(up)} and {list(down)}")
    count, scale = down[0] // rank, scaling.over(rank)

    def factors(place: int) -> Factors:
        first, second = _wide(leaves["A"]()), _wide(leaves["B"]())
        return Factors(scale * second[:, place::count], first[place * rank : (place + 1) * rank])

    shape = (up[0], down[1])
    return [
        Change(
            _name(scaling),
            stored_rank=rank,
            factors=partial(factors, place),
            index=place if count > 1 else None,
            shape=shape,
        )
        for place in range(count)
    ]


def bias(leaves: Leaves, scaling: Scaling, rank: int) -> Change:
    """The bias of LoRA's second factor, which is added to that of the layer."""

    def factors() -> Factors:
        values = _wide(leaves["values"]())
        return Factors(scaling.over(rank) * values[:, None], values.new_ones(1, 1))

    return Change(_name(scaling), stored_rank=1, factors=factors)


def hadamard(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """LoHa: the elementwise product of two products (Hyeon-Woo et al., 2022), itself one of rank r²."""
    rank = leaves["w1_b"].shape[0]
    kernel = leaves["t1"].shape[2:] if "t1" in leaves else ()

    def factors() -> Factors:
        first, second = _side(leaves, "1"), _side(leaves, "2")
        left = torch.einsum("or,os->ors", first.left, second.left).flatten(1)
        right = torch.einsum("ri,si->rsi", first.right, second.right).flatten(0, 1)
        return Factors(scaling.over(rank) * left, right)

    return Change("LoHa", stored_rank=rank, factors=factors, inputs=_inputs(leaves["w1_b"].shape[1], kernel))


def kronecker(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """LoKr: a Kronecker product of two matrices, each of which may be a product (Edalati et al., 2022; LyCORIS)."""
    ranks = [leaves[name].shape[0] for name in ("w1_b", "w2_b") if name in leaves]
    whole = not ranks
    rank = ranks[0] if ranks else int(scaling.option("r") or 0)
    # LyCORIS scales whole factors by 1, PEFT by alpha / r all the same.
    scale = 1.0 if whole and (scaling.option("peft_type") is None or not rank) else scaling.over(rank)

    def factors() -> Factors:
        small, large = _side(leaves, "1"), _side(leaves, "2")
        # kron(a b, c d) = kron(a, c) kron(b, d)
        return Factors(scale * _kron(small.left, large.left), _kron(small.right, large.right))

    small, large = (leaves[name if name in leaves else f"{name}_b"].shape for name in ("w1", "w2"))
    kernel = leaves["t2"].shape[2:] if "t2" in leaves else large[2:]
    return Change("LoKr", stored_rank=rank, factors=factors, inputs=_inputs(small[1] * large[1], kernel))


def _kron(first: Tensor, second: Tensor) -> Tensor:
    """`torch.kron`, which refuses what is not contiguous (2.13)."""
    return torch.einsum("ij,kl->ikjl", first, second).flatten(2).flatten(0, 1)


def _inputs(count: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """What one output of a kernel has; nothing where the file does not tell that it is one."""
    return (count, *kernel) if kernel else ()


def _side(leaves: Leaves, number: str) -> Factors:
    """One of the two matrices, as a product: with the identity on its shorter side, where it is stored whole; of a
    kernel's Tucker decomposition the core belongs to the second factor.
    """
    if f"w{number}" not in leaves:
        outer, inner = _wide(leaves[f"w{number}_a"]()), _wide(leaves[f"w{number}_b"]())
        if f"t{number}" not in leaves:
            return Factors(outer, inner.flatten(1))
        core = torch.einsum("ijkl,jr->irkl", _wide(leaves[f"t{number}"]()), inner)
        return Factors(outer.T, core.flatten(1))
    whole = _wide(leaves[f"w{number}"]()).flatten(1)
    eye = torch.eye(min(whole.shape), dtype=whole.dtype)
    return Factors(eye, whole) if len(whole) <= whole.shape[1] else Factors(whole, eye)


def vectors(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """VeRA: two vectors between random matrices that all modules share (Kopiczko et al., 2024)."""
    if "shared_A" not in leaves:
        return Change("VeRA", "cannot be known", "its shared matrices are drawn from a seed and were not saved")

    def factors() -> Factors:
        over_rank, over_outputs = _wide(leaves["lambda_d"]()), _wide(leaves["lambda_b"]())
        left = over_outputs[:, None] * _wide(leaves["shared_B"]())[: len(over_outputs)]
        return Factors(left, over_rank[:, None] * _wide(leaves["shared_A"]()))

    def apply(base: Tensor) -> Tensor:
        left, right = factors()
        return add_product(base, Factors(left, right[:, : base.flatten(1).shape[1]]))

    why = "as wide as the widest module: how many inputs this one has is not in the file"
    return Change("VeRA", why=why, stored_rank=leaves["lambda_d"].shape[0], factors=factors, apply=apply)


def bounded(leaves: Leaves, scaling: Scaling, module: str) -> Change:
    """DeLoRA: factors whose pairs have one length, in the units of the base's columns (Bini et al., 2025)."""
    rank = leaves["A"].shape[0]

    def factors() -> Factors:
        down, up = _wide(leaves["A"]()), _wide(leaves["B"]())
        lengths = down.norm(dim=1).clamp_min(1e-4) * up.norm(dim=0).clamp_min(1e-4)
        return Factors(up * (leaves["lambda"]() / rank / lengths), down * leaves["w_norm"]())

    return Change("DeLoRA", stored_rank=rank, factors=factors)
