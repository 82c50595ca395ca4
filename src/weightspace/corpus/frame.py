"""A frame: what networks with the same ordered shapes and the same symmetry share, and the way into it and back."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.standardizing import Statistics, no_statistics
from weightspace.errors import InputError
from weightspace.inputs import read_object
from weightspace.symmetry.axes import (
    Axis,
    Permutations,
    Symmetry,
    identity_permutations,
    leaves,
    permute,
    shape_of,
)
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.matching import match_weights
from weightspace.symmetry.proving import SymmetryDisproved
from weightspace.symmetry.rescaling import Rescaling, canonical_factors, rescale
from weightspace.symmetry.tracing import trace, trace_symmetry
from weightspace.tokens.layout import TokenLayout, plan_layout
from weightspace.tokens.tokenizing import flatten_weights, unflatten_weights
from weightspace.user_code import split_arguments
from weightspace.weights.values import Weights, WeightsMismatch, find_aliases
from weightspace.zoo.architecture import Architecture, build_module
from weightspace.zoo.example_inputs import Inputs, find_example


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """What all architectures with the same ordered shapes and the same symmetry share.

    An architecture's own names stand beside the frame's in order: `to_frame` and `to_own` are the way in and out.

    Attributes:
        layout, symmetry, statistics: in terms of the names of the first such architecture.
        names: those names, in order (tokenised, carried and tied ones).
        rescalings: of units that are brought to a canonical scale or sign.
        reference: the flat vector others are matched to, or None.
        note: what could not be done, if anything.
    """

    layout: TokenLayout
    symmetry: Symmetry | None
    statistics: Statistics
    names: tuple[str, ...]
    reference: Float[Tensor, "size"] | None = None
    note: str = ""
    rescalings: tuple[Rescaling, ...] = ()

    @property
    def aligned(self) -> bool:
        """Whether networks are permuted to match a reference."""
        return self.symmetry is not None and self.reference is not None

    def own_names(self, architecture: Architecture) -> dict[str, str]:
        """The frame's name of a tensor -> the architecture's own."""
        return dict(zip(self.names, architecture.shapes, strict=True))

    def to_frame(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """Weights of an architecture under this frame's names.

        Raises:
            WeightsMismatch: other names than the architecture's.
        """
        missing = [name for name in architecture.shapes if name not in weights]
        unexpected = [name for name in weights if name not in architecture.shapes]
        if missing or unexpected:
            raise WeightsMismatch(missing, unexpected, {})
        return {name: weights[own] for name, own in self.own_names(architecture).items()}

    def to_own(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """The inverse of `to_frame`: weights under the architecture's names."""
        return {own: weights[name] for name, own in self.own_names(architecture).items()}

    def flat(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Float[Tensor, "size"]:
        """An architecture's weights as one standardised vector; not permuted."""
        return self.statistics.apply(flatten_weights(self.to_frame(weights, architecture), self.layout), self.layout)

    def network(
        self, flat: Float[Tensor, "size"], architecture: Architecture, carried: Mapping[str, Tensor]
    ) -> Weights:
        """The inverse of `flat`; what is not tokenised is `carried`, under the frame's names."""
        raw = self.statistics.undo(flat, self.layout)
        return self.to_own(unflatten_weights(raw, self.layout, carried), architecture)

    def carried_of(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """What of a network is not tokenised, under the frame's names."""
        renamed = self.to_frame(weights, architecture)
        return {name: renamed[name] for name in self.layout.carried}

    def canonicalize(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """Weights, under the architecture's names, matched to the reference."""
        stack = {name: tensor[None] for name, tensor in self.to_frame(weights, architecture).items()}
        renamed = {name: tensor[0] for name, tensor in self.rescale(stack).items()}
        permutations = self.find_permutations(renamed)
        if permutations is not None and self.symmetry is not None:
            renamed = permute(renamed, self.symmetry, permutations)
        return self.to_own(renamed, architecture)

    def rescale(self, stack: Weights) -> Weights:
        """Stacked networks (under this frame's names) with the canonical scales and signs."""
        for rescaling in self.rescalings:
            stack = rescale(stack, rescaling, canonical_factors(stack, rescaling))
        return stack

    def find_permutations(self, weights: Mapping[str, Tensor]) -> Permutations | None:
        """The permutations that match weights (under this frame's names) to the reference."""
        if self.symmetry is None or self.reference is None:
            return None
        return match_weights(weights, self.reference_weights(), self.symmetry)

    def reference_weights(self) -> Weights:
        """The reference's tokenised tensors by name."""
        if self.reference is None:
            raise ValueError("this frame has no reference")
        return unflatten_weights(self.reference, self.layout, {})

    def to_json(self) -> dict[str, Any]:
        """A JSON value with all but the reference."""
        return {
            "layout": self.layout.to_json(),
            "symmetry": self.symmetry.to_json() if self.symmetry is not None else None,
            "statistics": self.statistics.to_json(),
            "names": self.names,
            "note": self.note,
            "rescalings": [rescaling.to_json() for rescaling in self.rescalings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], reference: Tensor | None) -> "Frame":
        """The inverse of `to_json`, with the reference."""
        return cls(
            layout=TokenLayout.from_json(value["layout"]),
            symmetry=Symmetry.from_json(value["symmetry"]) if value["symmetry"] is not None else None,
            statistics=Statistics.from_json(value["statistics"]),
            names=tuple(value["names"]),
            reference=reference,
            note=value["note"],
            rescalings=tuple(Rescaling.from_json(entry) for entry in value["rescalings"]),
        )


def plan_frame(architecture: Architecture, config: PreparationConfig, allow: Collection[str] = ()) -> Frame:
    """The frame of an architecture before any weights are seen: traced if it can be built."""
    symmetry, note, roles, aliases = None, "", None, {}
    rescalings: tuple[Rescaling, ...] = ()
    try:
        module = architecture.build(allow)
        aliases = find_aliases(module.state_dict())
        inputs = architecture.inputs(allow)
        traced = trace(module, *inputs.positional, **inputs.named)
        symmetry = traced.symmetry
        roles = traced.uses
        rescalings = tuple(
            trace_rescaling(module, kind, *inputs.positional, **inputs.named) for kind in config.rescalings
        )
    except (InputError, SymmetryDisproved) as refusal:
        symmetry = _recorded_symmetry(architecture)
        note = f"no alignment: {refusal}" if symmetry is None else f"symmetry as recorded in the zoo: {refusal}"
    layout = plan_layout(
        architecture.meta_weights(),
        config.token_width,
        style=config.token_style,
        roles=roles,
        order=list(architecture.shapes),
        aliases=aliases,
    )
    if layout.size == 0:
        raise InputError(f"expected 16- or 32-bit floating-point weights in {architecture.id}, found none")
    require_mostly_tokens(layout, architecture)
    return Frame(
        layout=layout,
        symmetry=symmetry,
        statistics=no_statistics(layout),
        names=tuple(architecture.shapes),
        note=note,
        rescalings=tuple(rescaling for rescaling in rescalings if rescaling.groups),
    )


def require_mostly_tokens(layout: TokenLayout, architecture: Architecture) -> None:
    """Refuse a network most of whose numbers would be left out, such as a quantised one: its scales alone say little.

    Raises:
        InputError: more numbers are carried beside the tokens than are in them.
    """
    beside = {name: math.prod(architecture.shapes.get(name, (0,))) for name in layout.carried}
    left_out = sum(count for name, count in beside.items() if name not in architecture.masks)
    if layout.size and left_out > layout.size:
        largest = max(beside, key=lambda name: beside[name])
        raise InputError(
            f"expected most of a network's numbers to be 16- or 32-bit floats, found {left_out:,} of "
            f"{left_out + layout.size:,} that are not ({largest}: {architecture.dtypes.get(largest, 'float32')}), as "
            "in quantised checkpoints: dequantise them first"
        )


def _recorded_symmetry(architecture: Architecture) -> Symmetry | None:
    """The symmetry that was proved when the architecture was described, if it fits the shapes."""
    if architecture.symmetry is None:
        return None
    try:
        symmetry = Symmetry.from_json(architecture.symmetry)
        shapes = {name: shape_of(axes) for name, axes in symmetry.axes.items()}
        moving = (leaf for axes in symmetry.axes.values() for axis in axes for leaf in leaves(axis) if leaf.group)
        fits = all(symmetry.groups.get(str(leaf.group)) == leaf.size for leaf in moving)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"expected a symmetry in the entry of {architecture.id}, found something else") from error
    if shapes != architecture.shapes or not fits:
        raise InputError(f"expected a symmetry that fits the shapes of {architecture.id}, found another")
    return symmetry


class NamedModule(NamedTuple):
    """A module that the user names, its inputs, and how both are described."""

    module: nn.Module
    inputs: Inputs
    architecture: Architecture


def build_named(factory: str, examples: str | Sequence[str], integers: int | Sequence[int] = ()) -> NamedModule:
    """Import and call a factory, and find the inputs that its module takes.

    Args:
        factory: `module:callable` or `folder/file.py:callable`, with arguments as in `my_nets:Net?width=8`.
        examples: shape of an input, such as `2,3,32,32`, one for each input; or the `module:callable` that makes them.
        integers: inputs are whole numbers below this one; 0 for real numbers; one for all inputs or one for each.

    Raises:
        InputError: no example, inputs that the module does not take, or a refusal of `build_module`.
    """
    address, arguments = split_arguments(factory)
    module = build_module(address, arguments)
    texts = [examples] if isinstance(examples, str) else list(examples)
    numbers = [integers] if isinstance(integers, int) else list(integers)
    example = find_example(module, [text for text in texts if text], numbers)
    inputs, alone = example.make(), len(example.shapes) == 1
    described = Architecture.of_module(
        module,
        id=architecture_name(factory),
        factory=address,
        arguments=arguments,
        example_shape=example.shapes[0] if alone else None,
        integers=example.integers[0] if alone else 0,
    )
    several = () if alone else tuple(zip(example.shapes, example.integers, strict=True))
    described = replace(described, several_inputs=several, inputs_from=example.function, trusted=True)
    return NamedModule(module, inputs, described)


def architecture_name(factory: str) -> str:
    """`my_nets.Net-width8` for `folder/my_nets.py:Net?width=8`."""
    address, arguments = split_arguments(factory)
    module, _, name = address.rpartition(":")
    module = Path(module).stem if module.endswith(".py") else module
    settings = [f"{key}{value}" for key, value in arguments.items()]
    return "-".join([f"{module}.{name}", *(re.sub(r"[^A-Za-z0-9_.]+", "", setting) for setting in settings)])


def describe_module(factory: str, examples: str | Sequence[str], integers: int | Sequence[int] = ()) -> Architecture:
    """The architecture of a module that the user names (see `build_named`), with its symmetry if one can be derived."""
    module, inputs, described = build_named(factory, examples, integers)
    try:
        return replace(described, symmetry=trace_symmetry(module, *inputs.positional, **inputs.named).to_json())
    except (InputError, SymmetryDisproved) as refusal:
        return replace(described, note=f"no symmetry: {refusal}")


def symmetry_of(
    known: Architecture | None, file: Path | None = None, weights: Mapping[str, Tensor] | None = None
) -> Symmetry:
    """A symmetry by hand, or that of the architecture, derived and proved where it may be built.

    Raises:
        InputError: none can be read or derived, or one by hand that is not of these weights.
    """
    if file is not None:
        symmetry = _read_symmetry(file)
        try:
            if weights is not None:
                permute(weights, symmetry, identity_permutations(symmetry))
        except WeightsMismatch as refusal:
            raise InputError(f"expected a symmetry of these networks in {file}, found another: {refusal}") from refusal
        return symmetry
    if known is None:
        raise InputError(
            "expected --architecture my_nets:Net --example SHAPE, --symmetry FILE, or ZOO:MEMBER, found files alone, "
            "which do not say how the network is built"
        )
    if known.symmetry is None:
        inputs = known.inputs()
        return trace_symmetry(known.build(), *inputs.positional, **inputs.named)
    return Symmetry.from_json(known.symmetry)


def _read_symmetry(path: Path) -> Symmetry:
    try:
        return Symmetry.from_json(read_object(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected a symmetry as `weightspace symmetry --json` prints it in {path}, found none ({error})"
        ) from error


def frame_key(architecture: Architecture, frame: Frame | None) -> str:
    """A short key, equal for architectures with the same ordered shapes, types and symmetries, whatever the names.

    Shapes alone would not do: a network with a skip connection may have the shapes of one without.
    """
    text = architecture.signature
    if frame is not None and frame.symmetry is not None:
        order = _numbers(frame.symmetry.groups)
        axes = [frame.symmetry.axes[name] for name in architecture.shapes]
        text += json.dumps([[_numbered(axis, order) for axis in own] for own in axes])
    for rescaling in frame.rescalings if frame is not None else ():
        order, tensors = _numbers(rescaling.groups), list(architecture.shapes)
        places = [
            [tensors.index(own.tensor), own.number, own.exponent, _numbered(own.axis, order)]
            for own in rescaling.places
        ]
        text += json.dumps([rescaling.kind, places])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _numbers(groups: Mapping[str, int]) -> dict[str | None, int]:
    return {None: -1, **{group: number for number, group in enumerate(groups, start=1)}}


def _numbered(axis: Axis, order: Mapping[str | None, int]) -> list[list[Any]]:
    """An axis with numbers for the names of its groups."""
    return [
        [
            order[factor.group],
            factor.size,
            *([[_numbered(part, order) for part in factor.parts]] if factor.parts else []),
        ]
        for factor in axis
    ]
