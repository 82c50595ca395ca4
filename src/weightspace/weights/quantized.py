"""Tensors that were quantized, as the numbers they stand for; what is packed in other ways is named.

A quantized tensor lies in a file as whole numbers with scales beside it, under names that its library chose. Where the
numbers that these stand for are one product in float32, they are read as that; the scales are no tensors of a network.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.weights.safetensors_files import PAIRS
from weightspace.weights.sources import Source
from weightspace.weights.values import Weights, some_of

# What bitsandbytes divides whole numbers of eight bits by, and its names for codes of four.
INT8, FOUR_BITS = 127.0, ("nf4", "fp4")
# Scales that are powers of two, stored as exponents.
POWERS = (torch.float8_e8m0fnu, torch.uint8)
MATRIX, STACK, BYTE, WORD = 2, 3, 8, 32
# Where the outputs lie in a word of AWQ, and what lies in words there.
EVEN_FIRST, WORDS = [0, 4, 1, 5, 2, 6, 3, 7], ("codes", "zero")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
# Numbers of four bits by their code (E2M1: OCP Microscaling Formats 1.0, 5.3.3); the lower half of a byte is the first
# of two.
SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = (*SIZES, *(-size for size in SIZES))
# Parts of modules that pack several numbers in one, by the library that unpacks them.
PACKED = {
    "GPTQ": (".qweight", ".qzeros", ".scales"),
    "compressed-tensors": (".weight_packed", ".weight_scale"),
}


class Unquantized(NamedTuple):
    """Where tensors come from, which of them are others under a second name, and what was understood of those that were
    quantized, in sentences.
    """

    sources: dict[str, Source]
    aliases: dict[str, str]
    remarks: tuple[str, ...] = ()


class _Scheme(NamedTuple):
    """One quantized tensor: its parts by their role, and what makes numbers of them."""

    parts: dict[str, str]
    shape: tuple[int, ...]
    read: Callable[[Weights], Tensor]
    writer: str


class _Product(Source):
    """Tensors that are made of several stored ones."""

    def __init__(self, sources: Mapping[str, Source], schemes: Mapping[str, _Scheme]) -> None:
        self.sources, self.schemes = dict(sources), dict(schemes)

    def read(self, name: str) -> Tensor:
        """A whole tensor, in float32."""
        scheme = self.schemes[name]
        return scheme.read({role: self.sources[part].read(part) for role, part in scheme.parts.items()})

    def meta(self, name: str) -> Tensor:
        """Its type and shape, on the `meta` device."""
        return torch.empty(self.schemes[name].shape, device="meta")


class _SecondNames(Source):
    """Tensors that are stored under another name."""

    def __init__(self, sources: Mapping[str, Source], aliases: Mapping[str, str]) -> None:
        self.sources, self.aliases = sources, aliases

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.sources[self.aliases[name]].read(self.aliases[name])

    def meta(self, name: str) -> Tensor:
        """Its type and shape, on the `meta` device."""
        return self.sources[self.aliases[name]].meta(self.aliases[name])


def unquantized(sources: Mapping[str, Source], aliases: Mapping[str, str]) -> Unquantized:
    """Tensors as the numbers they stand for: of bitsandbytes in 8 bits and 4 (NF4, FP4, nested), floats of 8 bits with
    scales by tensor, row or block, floats of 4 bits, as they are and with scales by block (NVFP4, MXFP4), and whole
    numbers of compressed-tensors and AWQ.

    Args:
        sources: by the names that tensors are stored under.
        aliases: second names of tied tensors -> first ones; where all parts of a tensor are tied, so are the numbers.

    Raises:
        InputError: parts of a quantized tensor that do not belong together.
    """
    second = _SecondNames(sources, aliases)
    known = {**sources, **{alias: second for alias in aliases if alias not in sources}}
    schemes = dict(_schemes(known))
    parts = {part for scheme in schemes.values() for part in scheme.parts.values()}
    parts |= {f"{name.removesuffix('weight')}weight_format" for name in schemes}
    product, meant = _Product(known, schemes), {scheme.parts["codes"]: name for name, scheme in schemes.items()}
    kept: dict[str, Source] = {}
    for name, source in sources.items():
        if name in meant:
            kept[meant[name]] = product
        elif name not in parts:
            kept[name] = source
    tied = {alias: name for alias, name in aliases.items() if alias not in parts and name not in parts}
    firsts: dict[frozenset[tuple[str, str]], str] = {}
    for name, scheme in schemes.items():
        same = frozenset((role, aliases.get(part, part)) for role, part in scheme.parts.items())
        if firsts.setdefault(same, name) != name:
            tied[name] = firsts[same]
        else:
            kept.setdefault(name, product)
    remarks = [f"{len(names)} tensors quantized by {library} were read as float32" for library, names in _by(schemes)]
    return Unquantized(kept, tied, (*remarks, *_packed(kept)))


def _by(schemes: Mapping[str, _Scheme]) -> list[tuple[str, list[str]]]:
    writers = dict.fromkeys(scheme.writer for scheme in schemes.values())
    return [(writer, [name for name, scheme in schemes.items() if scheme.writer == writer]) for writer in writers]


def _packed(sources: Mapping[str, Source]) -> list[str]:
    """What is packed in ways that are not unpacked here."""
    for library, parts in PACKED.items():
        modules = [name.removesuffix(parts[0]) for name in sources if name.endswith(parts[0])]
        whole = [module for module in modules if all(module + part in sources for part in parts)]
        if whole:
            return [
                f"{len(whole)} modules are packed by {library} ({some_of(whole)}): whole numbers that stand for "
                f"others, which are read as they lie; {library} unpacks them"
            ]
    return []


def _schemes(sources: Mapping[str, Source]) -> "list[tuple[str, _Scheme]]":
    schemes: list[tuple[str, _Scheme]] = []
    for name in sources:
        if name.endswith(".SCB"):
            schemes += _eight_bits(sources, name)
        elif ".quant_state.bitsandbytes__" in name:
            schemes += _four_bits(sources, name)
        elif name.endswith(("_scale_inv", "_scale")):
            schemes += _float4(sources, name) or _integers(sources, name) or _float8(sources, name)
        elif name.endswith("_scales"):
            schemes += _float4(sources, name)
        elif name.endswith(".qweight"):
            schemes += _awq(sources, name)
    scaled = {part for _, scheme in schemes for part in scheme.parts.values()}
    alone = [name for name in sources if name not in scaled and sources[name].meta(name).dtype == PAIRS]
    return schemes + [_pairs(name, sources[name].meta(name)) for name in alone]


def _eight_bits(sources: Mapping[str, Source], scale: str) -> list[tuple[str, _Scheme]]:
    """LLM.int8() (Dettmers et al., 2022): every row is whole numbers times its largest entry over 127."""
    name = f"{scale.removesuffix('SCB')}weight"
    if name not in sources or sources[name].meta(name).dtype != torch.int8:
        return []
    order = f"{scale.removesuffix('SCB')}weight_format"
    if order in sources and int(sources[order].read(order)):
        return []  # rows are interleaved for a kind of GPU

    def read(parts: Weights) -> Tensor:
        return parts["codes"].float() * (parts["scale"].float() / INT8)[:, None]

    shape = tuple(sources[name].meta(name).shape)
    return [(name, _Scheme({"codes": name, "scale": scale}, shape, read, "bitsandbytes (8 bits)"))]


def _four_bits(sources: Mapping[str, Source], state: str) -> list[tuple[str, _Scheme]]:
    """NF4 and FP4 (QLoRA, Dettmers et al., 2023): codes of 4 bits into a table, times the largest entry of a block."""
    name, _, kind = state.partition(".quant_state.bitsandbytes__")
    parts = {"codes": name, "absmax": f"{name}.absmax", "table": f"{name}.quant_map", "state": state}
    stored = sources[state].read(state)
    about = parse_json(bytes(stored.tolist()) if stored.dtype == torch.uint8 else b"", state)
    try:
        shape, block = tuple(int(size) for size in about["shape"]), int(about["blocksize"])
        if "nested_blocksize" in about:
            float(about["nested_offset"]), int(about["nested_blocksize"])
            parts |= {"outer": f"{name}.nested_absmax", "outer table": f"{name}.nested_quant_map"}
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"expected a shape and a size of blocks in {state}, found neither") from error
    missing = [part for part in parts.values() if part not in sources]
    if missing or kind not in FOUR_BITS:
        raise InputError(f"expected all parts of the quantized {name}, found no {some_of(missing) or kind}")

    def read(held: Weights) -> Tensor:
        packed = held["codes"].flatten().view(torch.uint8)  # which may be stored as another type
        codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
        scales = held["absmax"]
        if "outer" in held:
            scales = _blocked(held["outer table"][scales.long()], held["outer"], int(about["nested_blocksize"]))
            scales = scales + float(about["nested_offset"])
        values = _blocked(held["table"][codes[: math.prod(shape)].long()], scales, block)
        return values.reshape(shape)

    return [(name, _Scheme(parts, shape, read, f"bitsandbytes (4 bits, {kind})"))]


def _blocked(values: Tensor, scales: Tensor, block: int) -> Tensor:
    """Values times the scale of the block that each is in."""
    return values.float() * scales.float().repeat_interleave(block)[: len(values)]


def _float4(sources: Mapping[str, Source], scale: str) -> list[tuple[str, _Scheme]]:
    """Numbers of 4 bits, two a byte, times a scale of every 16 in a row (NVFP4) or 32 (MXFP4).

    GPT-OSS keeps blocks apart, and stacks of experts with their last two axes the other way round than its model.
    """
    stem = scale.removesuffix("s").removesuffix("_scale")
    apart = scale.endswith("_scales")
    codes = f"{stem}_blocks" if apart else next((n for n in (f"{stem}_packed", stem) if n in sources), "")
    if codes not in sources or (stem in sources and codes != stem) or f"{stem}_zero_point" in sources:
        return []
    packed, scales = sources[codes].meta(codes), sources[scale].meta(scale)
    outer = next((name for name in (f"{stem}_scale_2", f"{stem}_global_scale") if name in sources), "")
    powers = scales.dtype in POWERS
    shape = (*scales.shape[:-1], (scales.shape or (0,))[-1] * (32 if powers else 16))
    lying = (*scales.shape, 16) if apart else (*shape[:-1], shape[-1] // 2)
    fits = tuple(packed.shape) == lying and packed.numel() > 0 and scales.ndim > 1 and powers != bool(outer)
    fits = fits and (powers or scales.dtype == torch.float8_e4m3fn) and _one_scale(sources, outer, shape)
    # Bytes beside bytes of their name are not yet numbers of 4 bits beside exponents.
    fits = fits and (packed.dtype == PAIRS or (packed.dtype == torch.uint8 and (codes != stem or bool(outer))))
    if not fits:
        if packed.dtype == PAIRS:
            raise InputError(f"expected scales of every 16 or 32 numbers of {stem}, found {list(scales.shape)}")
        return []
    parts = {"codes": codes, "scale": scale} | ({"by" if outer.endswith("_2") else "over": outer} if outer else {})
    turned = apart and len(shape) == STACK

    def read(parts: Weights) -> Tensor:
        values = _in_blocks(parts).reshape(shape)
        return values.mT.contiguous() if turned else values

    seen = (shape[0], shape[2], shape[1]) if turned else shape
    return [(stem, _Scheme(parts, seen, read, "MXFP4" if powers else "NVFP4"))]


def _one_scale(sources: Mapping[str, Source], name: str, shape: tuple[int, ...]) -> bool:
    """Whether there is none, or one for all, or one for each network of a stack."""
    return not name or (_is_scale(sources, name) and sources[name].meta(name).numel() in (1, shape[0]))


def _is_scale(sources: Mapping[str, Source], name: str) -> bool:
    kind = sources[name].meta(name).dtype
    return kind.is_floating_point and kind != PAIRS


def _in_blocks(parts: Weights) -> Tensor:
    """Numbers times the scales of their blocks; those of NVFP4 have one of their own, by which ModelOpt multiplies and
    compressed-tensors divides.
    """
    scales = _factors(parts["scale"])
    outer = parts.get("by", parts.get("over"))
    if outer is not None:
        whole = outer.float().reshape(-1, *[1] * (scales.ndim - 1))
        scales = scales * whole if "by" in parts else scales / whole
    return _unpacked(parts["codes"]).reshape(*scales.shape, -1) * scales[..., None]


def _factors(scales: Tensor) -> Tensor:
    """Scales as numbers; bytes are exponents (E8M0)."""
    return scales.view(torch.float8_e8m0fnu).float() if scales.dtype in POWERS else scales.float()


def _unpacked(codes: Tensor) -> Tensor:
    """Two numbers a byte, one after the other along the last axis: looked up by bytes, which takes half the memory."""
    both = torch.tensor([[E2M1[byte & 15], E2M1[byte >> 4]] for byte in range(256)])
    return both[torch.atleast_1d(codes).view(torch.uint8).int()].flatten(-2)


def _pairs(name: str, codes: Tensor) -> tuple[str, _Scheme]:
    """Numbers of 4 bits that stand for themselves."""
    shape = (*codes.shape[:-1], 2 * (codes.shape or (1,))[-1])
    return name, _Scheme({"codes": name}, shape, lambda parts: _unpacked(parts["codes"]), "rounding to 4 bits")


def _integers(sources: Mapping[str, Source], scale: str) -> list[tuple[str, _Scheme]]:
    """Whole numbers of 2, 4 or 8 bits of compressed-tensors (W4A16), row by row in words of 32 bits.

    Each is less a zero point, if there is one, and times a scale of its group of columns.
    """
    stem = scale.removesuffix("_scale")
    roles = {"codes": "packed", "shape": "shape", "scale": "scale", "zero": "zero_point", "group": "g_idx"}
    parts = {role: f"{stem}_{part}" for role, part in roles.items() if f"{stem}_{part}" in sources}
    held = {role: sources[name].meta(name) for role, name in parts.items()}
    if not {"codes", "shape", "scale"} <= set(parts) or stem in sources or held["shape"].shape != (MATRIX,):
        return []
    rows, columns = map(int, sources[parts["shape"]].read(parts["shape"]).nan_to_num().tolist())
    groups = (held["scale"].shape or (0,))[-1]
    # Words that are filled: elsewhere the number of bits cannot be told.
    fitting = [bits for bits in (2, 4, 8) if held["codes"].shape == (rows, columns * bits // WORD)]
    fitting = [bits for bits in fitting if columns > 0 and columns * bits % WORD == 0]
    fits = len(fitting) == 1 and held["codes"].dtype == torch.int32 and _is_scale(sources, scale)
    if not fits or held["scale"].shape != (rows, groups) or not groups or columns % groups:
        return []
    (bits,) = fitting
    packed_zeros = (torch.int32, (-(-rows * bits // WORD), groups))
    if "zero" in held and _kind(held["zero"]) not in (packed_zeros, (torch.int8, (rows, groups))):
        return []
    if "group" in held and _kind(held["group"]) not in ((torch.int32, (columns,)), (torch.int64, (columns,))):
        return []

    def read(held: Weights) -> Tensor:
        if bits == BYTE and not (held["codes"] >> (WORD - 4) & 15).any():
            raise InputError(f"expected whole numbers of 8 bits in {parts['codes']}, found words filled as with 7")
        group = torch.arange(columns) // (columns // groups)
        if "group" in held and int(held["group"].min()) >= 0:
            group = held["group"].long()
        if int(group.max()) >= groups:
            raise InputError(f"expected groups below {groups} in {parts['group']}, found {int(group.max())}")
        numbers = _words(held["codes"], bits) - 2 ** (bits - 1)
        if "zero" in held:
            zeros = held["zero"].int()
            zeros = zeros if held["zero"].dtype == torch.int8 else _words(zeros.mT, bits)[:, :rows].mT - 2 ** (bits - 1)
            numbers = numbers - zeros[:, group]
        return numbers * held["scale"].float()[:, group]

    return [(stem, _Scheme(parts, (rows, columns), read, f"compressed-tensors ({bits} bits)"))]


def _kind(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)


def _awq(sources: Mapping[str, Source], codes: str) -> list[tuple[str, _Scheme]]:
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

    return [(f"{module}weight", _Scheme(parts, (outputs, inputs), read, "AWQ"))]


def _words(packed: Tensor, bits: int) -> Tensor:
    """The whole numbers in words of 32 bits, lowest bits first, along the last axis."""
    return ((packed[..., None] >> torch.arange(0, WORD, bits)) & (2**bits - 1)).flatten(-2)


def _float8(sources: Mapping[str, Source], scale: str) -> list[tuple[str, _Scheme]]:
    """Numbers of 8 bits times a scale of the tensor, of a row, or of a block of both axes."""
    name = scale.removesuffix("_inv").removesuffix("_scale")
    kind = sources[name].meta(name).dtype if name in sources else None
    whole = kind == torch.int8 and name.endswith("weight") and f"{name}_zero_point" not in sources
    factors = sources[scale].meta(scale)
    if (kind not in FLOAT8 and not whole) or not factors.numel() or factors.dtype == PAIRS:
        return []
    shape, of_scale = tuple(sources[name].meta(name).shape), tuple(factors.shape)
    sizes = _block_sizes(shape, of_scale)
    if sizes is None:
        raise InputError(f"expected scales that divide {list(shape)} of {name}, found {list(of_scale)}")

    def read(parts: Weights) -> Tensor:
        scales = _factors(parts["scale"])
        scales = scales.reshape(math.prod(of_scale), *[1] * (len(shape) - 1)) if len(of_scale) < len(shape) else scales
        for axis, size in enumerate(sizes):
            scales = scales.repeat_interleave(size, dim=axis).narrow(axis, 0, shape[axis])
        return (parts["codes"].float() * scales).reshape(shape)

    return [(name, _Scheme({"codes": name, "scale": scale}, shape, read, "scales of 8-bit numbers"))]


def _block_sizes(shape: tuple[int, ...], of_scale: tuple[int, ...]) -> list[int] | None:
    """How many entries along each axis share a scale; None where they do not divide the axes."""
    if math.prod(of_scale) == 1:
        return list(shape)
    if len(of_scale) == 1 and len(shape) == 2 and of_scale[0] == shape[0]:
        of_scale = (*of_scale, 1)
    if len(of_scale) != len(shape):
        return None
    # Blocks are of a power of two, as libraries have them; the last may be shorter.
    sizes = [
        next((size for size in _sizes(length) if math.ceil(length / size) == count), 0)
        for length, count in zip(shape, of_scale, strict=True)
    ]
    return sizes if all(sizes) else None


def _sizes(length: int) -> list[int]:
    return [length, 1, *(2**power for power in range(1, 20))]
