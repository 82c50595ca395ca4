"""Tensors that were quantized, as the numbers they stand for; what is packed in other ways is named.

A quantized tensor lies in a file as whole numbers with scales beside it, under names that its library chose. Where the
numbers that these stand for are one product in float32, they are read as that; the scales are no tensors of a network.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.weights.packed import (
    Scheme,
    Schemes,
    awq,
    factors_of,
    floats_in_blocks,
    integers_in_words,
    pairs_alone,
)
from weightspace.weights.safetensors_files import PAIRS
from weightspace.weights.sources import Source
from weightspace.weights.values import Weights, some_of

# What bitsandbytes divides whole numbers of eight bits by, and its names for codes of four.
INT8, FOUR_BITS = 127.0, ("nf4", "fp4")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
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


class _Product(Source):
    """Tensors that are made of several stored ones."""

    def __init__(self, sources: Mapping[str, Source], schemes: Mapping[str, Scheme]) -> None:
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


def _by(schemes: Mapping[str, Scheme]) -> list[tuple[str, list[str]]]:
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


def _schemes(sources: Mapping[str, Source]) -> Schemes:
    schemes: Schemes = []
    for name in sources:
        if name.endswith(".SCB"):
            schemes += _eight_bits(sources, name)
        elif ".quant_state.bitsandbytes__" in name:
            schemes += _four_bits(sources, name)
        elif name.endswith(("_scale_inv", "_scale")):
            schemes += floats_in_blocks(sources, name) or integers_in_words(sources, name) or _float8(sources, name)
        elif name.endswith("_scales"):
            schemes += floats_in_blocks(sources, name)
        elif name.endswith(".qweight"):
            schemes += awq(sources, name)
    scaled = {part for _, scheme in schemes for part in scheme.parts.values()}
    alone = [name for name in sources if name not in scaled and sources[name].meta(name).dtype == PAIRS]
    return schemes + [pairs_alone(name, sources[name].meta(name)) for name in alone]


def _eight_bits(sources: Mapping[str, Source], scale: str) -> Schemes:
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
    return [(name, Scheme({"codes": name, "scale": scale}, shape, read, "bitsandbytes (8 bits)"))]


def _four_bits(sources: Mapping[str, Source], state: str) -> Schemes:
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

    return [(name, Scheme(parts, shape, read, f"bitsandbytes (4 bits, {kind})"))]


def _blocked(values: Tensor, scales: Tensor, block: int) -> Tensor:
    """Values times the scale of the block that each is in."""
    return values.float() * scales.float().repeat_interleave(block)[: len(values)]


def _float8(sources: Mapping[str, Source], scale: str) -> Schemes:
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
        scales = factors_of(parts["scale"])
        scales = scales.reshape(math.prod(of_scale), *[1] * (len(shape) - 1)) if len(of_scale) < len(shape) else scales
        for axis, size in enumerate(sizes):
            scales = scales.repeat_interleave(size, dim=axis).narrow(axis, 0, shape[axis])
        return (parts["codes"].float() * scales).reshape(shape)

    return [(name, Scheme({"codes": name, "scale": scale}, shape, read, "scales of 8-bit numbers"))]


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
