"""Several numbers in a byte or a word, as libraries pack them: floats of four bits, whole numbers of two to eight.

Which tensors belong together is told by their names, types and shapes, all of which have to fit: what does not is left
as it lies. The numbers are those that the library computes with, in float32.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.weights.safetensors_files import PAIRS
from weightspace.weights.sources import Source
from weightspace.weights.values import Weights

# Numbers of four bits by their code (E2M1: OCP Microscaling Formats 1.0, 5.3.3); the lower half of a byte is the first
# of two.
SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*SIZES, *(-size for size in SIZES))
# Scales that are powers of two, stored as exponents.
POWERS = (torch.float8_e8m0fnu, torch.uint8)
MATRIX, STACK, BYTE, WORD = 2, 3, 8, 32
# Where the outputs lie in a word of AWQ, and what lies in words there.
EVEN_FIRST, WORDS = [0, 4, 1, 5, 2, 6, 3, 7], ("codes", "zero")


class Scheme(NamedTuple):
    """One quantized tensor: its parts by their role, and what makes numbers of them."""

    parts: dict[str, str]
    shape: tuple[int, ...]
    read: Callable[[Weights], Tensor]
    writer: str


Schemes = list[tuple[str, Scheme]]


class _Blocks(NamedTuple):
    """How a library keeps floats of four bits: how names end, and so many numbers in a row that share a scale.

    Attributes:
        whole: the ending of a scale of all scales; none, if empty.
        kinds: the types that codes have.
    """

    codes: str
    scale: str
    whole: str
    size: int
    kinds: tuple[torch.dtype, ...] = (torch.uint8, PAIRS)


# ModelOpt's NVFP4 and that of compressed-tensors, its MXFP4, that of GPT-OSS, and pairs as torch has them.
BLOCKS = (
    _Blocks("", "_scale", "_scale_2", 16),
    _Blocks("_packed", "_scale", "_global_scale", 16),
    _Blocks("_packed", "_scale", "", 32),
    _Blocks("_blocks", "_scales", "", 32),
    _Blocks("", "_scale", "", 32, (PAIRS,)),
)
MULTIPLIED, APART = "_scale_2", "_blocks"


def floats_in_blocks(sources: Mapping[str, Source], scale: str) -> Schemes:
    """Floats of 4 bits, two a byte, times a scale of every 16 in a row (NVFP4) or 32 (MXFP4).

    Raises:
        InputError: torch's pairs beside scales that do not fit: read alone they would be other numbers.
    """
    for layout in BLOCKS:
        stem = scale.removesuffix(layout.scale)
        if stem != scale and (scheme := _in_blocks(sources, stem, layout)) is not None:
            return [(stem, scheme)]
    stem = scale.removesuffix("_scale")
    if stem != scale and stem in sources and sources[stem].meta(stem).dtype == PAIRS:
        found = list(sources[scale].meta(scale).shape)
        raise InputError(f"expected scales of every 16 or 32 numbers of {stem}, found {found}")
    return []


def _in_blocks(sources: Mapping[str, Source], stem: str, layout: _Blocks) -> Scheme | None:
    """The scheme of a tensor that is kept so, if it is.

    GPT-OSS keeps blocks apart, and stacks of experts with their last two axes the other way round than its model.
    """
    parts = {"codes": stem + layout.codes, "scale": stem + layout.scale}
    parts |= {"whole": stem + layout.whole} if layout.whole else {}
    taken = (layout.codes and stem in sources) or f"{stem}_zero_point" in sources
    if taken or not all(part in sources for part in parts.values()):
        return None
    codes, scales = (sources[parts[role]].meta(parts[role]) for role in ("codes", "scale"))
    apart, length = layout.codes == APART, layout.size * (scales.shape or (0,))[-1]
    shape = (*scales.shape[:-1], length)
    lying = (*scales.shape, layout.size // 2) if apart else (*scales.shape[:-1], length // 2)
    kinds = (torch.float8_e4m3fn,) if layout.whole else POWERS
    fits = codes.dtype in layout.kinds and scales.dtype in kinds and scales.ndim > 1 and codes.numel() > 0
    if not fits or codes.shape != lying or not _is_whole(sources, parts.get("whole"), shape[0]):
        return None
    turned = apart and len(shape) == STACK

    def read(held: Weights) -> Tensor:
        factors = factors_of(held["scale"])
        if layout.whole:
            whole = held["whole"].float().reshape(-1, *[1] * (factors.ndim - 1))
            factors = factors * whole if layout.whole == MULTIPLIED else factors / whole
        values = (_unpacked(held["codes"]).reshape(*factors.shape, -1) * factors[..., None]).reshape(shape)
        return values.mT.contiguous() if turned else values

    seen = (shape[0], shape[2], shape[1]) if turned else shape
    return Scheme(parts, seen, read, "NVFP4" if layout.whole else "MXFP4")


def _is_whole(sources: Mapping[str, Source], name: str | None, stacked: int) -> bool:
    """Whether there is no scale of scales, or one, or one for each network of a stack."""
    return name is None or (_is_scale(sources, name) and sources[name].meta(name).numel() in (1, stacked))


def _is_scale(sources: Mapping[str, Source], name: str) -> bool:
    kind = sources[name].meta(name).dtype
    return kind.is_floating_point and kind != PAIRS


def factors_of(scales: Tensor) -> Tensor:
    """Scales as numbers; bytes are exponents (E8M0)."""
    return scales.view(torch.float8_e8m0fnu).float() if scales.dtype in POWERS else scales.float()


def _unpacked(codes: Tensor) -> Tensor:
    """Two numbers a byte, one after the other along the last axis: looked up by bytes, which takes half the memory."""
    both = torch.tensor([[E2M1[byte & 15], E2M1[byte >> 4]] for byte in range(256)])
    return both[torch.atleast_1d(codes).view(torch.uint8).int()].flatten(-2)


def pairs_alone(name: str, codes: Tensor) -> tuple[str, Scheme]:
    """Floats of 4 bits that stand for themselves."""
    shape = (*codes.shape[:-1], 2 * (codes.shape or (1,))[-1])
    return name, Scheme({"codes": name}, shape, lambda held: _unpacked(held["codes"]), "rounding to 4 bits")


def integers_in_words(sources: Mapping[str, Source], scale: str) -> Schemes:
    """Whole numbers of 2, 4 or 8 bits of compressed-tensors (W4A16), row by row in words of 32 bits.

    Each is less a zero point, if there is one, and times a scale of its group of columns.
    """
    stem = scale.removesuffix("_scale")
    roles = {"codes": "packed", "shape": "shape", "scale": "scale", "zero": "zero_point", "group": "g_idx"}
    parts = {role: f"{stem}_{part}" for role, part in roles.items() if f"{stem}_{part}" in sources}
    kinds = {role: _kind(sources[name].meta(name)) for role, name in parts.items()}
    if not {"codes", "shape", "scale"} <= set(parts) or stem in sources or kinds["shape"] not in _indices(MATRIX):
        return []
    rows, columns = sources[parts["shape"]].read(parts["shape"]).tolist()
    groups = (kinds["scale"][1] or (0,))[-1]
    # Words that are filled: elsewhere the number of bits cannot be told.
    fitting = [bits for bits in (2, 4, 8) if kinds["codes"] == (torch.int32, (rows, columns * bits // WORD))]
    fitting = [bits for bits in fitting if columns > 0 and columns * bits % WORD == 0]
    scaled = _is_scale(sources, scale) and kinds["scale"][1] == (rows, groups) and groups > 0 and columns % groups == 0
    if len(fitting) != 1 or not scaled:
        return []
    (bits,) = fitting
    zeros = ((torch.int8, (rows, groups)), (torch.int32, (-(-rows * bits // WORD), groups)))
    if kinds.get("zero", zeros[0]) not in zeros or kinds.get("group", _indices(columns)[0]) not in _indices(columns):
        return []

    def read(held: Weights) -> Tensor:
        if bits == BYTE and not (held["codes"] >> (WORD - 4) & 15).any():
            raise InputError(f"expected whole numbers of 8 bits in {parts['codes']}, found words filled as with 7")
        numbers, group = _words(held["codes"], bits) - 2 ** (bits - 1), torch.arange(columns) // (columns // groups)
        if "group" in held and int(held["group"].min()) >= 0:
            group = held["group"].long()
        if int(group.max()) >= groups:
            raise InputError(f"expected groups below {groups} in {parts['group']}, found {int(group.max())}")
        if "zero" in held:
            numbers = numbers - _zeros(held["zero"], bits, rows)[:, group]
        return numbers * held["scale"].float()[:, group]

    return [(stem, Scheme(parts, (rows, columns), read, f"compressed-tensors ({bits} bits)"))]


def _zeros(stored: Tensor, bits: int, rows: int) -> Tensor:
    """Zero points of rows and groups, which newer versions pack too, down the rows."""
    return stored.int() if stored.dtype == torch.int8 else _words(stored.mT, bits)[:, :rows].mT - 2 ** (bits - 1)


def _indices(count: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """The kinds of so many whole numbers."""
    return [(torch.int32, (count,)), (torch.int64, (count,))]


def _kind(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)


def awq(sources: Mapping[str, Source], codes: str) -> Schemes:
    """AWQ (Lin et al., 2023), in 4 bits: a word holds eight outputs, the even ones first."""
    module = codes.removesuffix("qweight")
    parts = {"codes": codes, "zero": f"{module}qzeros", "scale": f"{module}scales"}
    if not all(part in sources for part in parts.values()) or f"{module}weight" in sources:
        return []
    words, zeros, scales = (_kind(sources[part].meta(part)) for part in parts.values())
    inputs, groups, outputs = (words[1] or (0,))[0], (scales[1] or (0,))[0], (scales[1] or (0,))[-1]
    expected = ((torch.int32, (inputs, outputs // 8)), (torch.int32, (groups, outputs // 8)), (groups, outputs))
    fits = (words, zeros, scales[1]) == expected and outputs % 8 == 0 and _is_scale(sources, parts["scale"])
    if not fits or not outputs or not groups or inputs % groups:
        return []  # of GPTQ it is inputs that share a word

    def read(held: Weights) -> Tensor:
        numbers, points = (_words(held[role], 4).unflatten(-1, (-1, 8))[..., EVEN_FIRST].flatten(-2) for role in WORDS)
        group = torch.arange(inputs) // (inputs // groups)
        return ((numbers - points[group]) * held["scale"].float()[group]).mT.contiguous()

    return [(f"{module}weight", Scheme(parts, (outputs, inputs), read, "AWQ"))]


def _words(packed: Tensor, bits: int) -> Tensor:
    """The whole numbers in words of 32 bits, lowest bits first, along the last axis."""
    return ((packed[..., None] >> torch.arange(0, WORD, bits)) & (2**bits - 1)).flatten(-2)
