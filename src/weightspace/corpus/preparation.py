"""Everything that turns raw weights into an autoencoder's tokens, and back.

A `Preparation` is saved with the trained model, so raw checkpoints go in and raw checkpoints come out.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.standardizing import Statistics, no_statistics, statistics_by_kind
from weightspace.errors import InputError
from weightspace.outputs import write_json
from weightspace.symmetry.axes import Axis, Permutations, Symmetry, leaves, permute, shape_of
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.matching import match
from weightspace.symmetry.proving import SymmetryDisproved
from weightspace.symmetry.rescaling import Rescaling, canonical_factors, rescale
from weightspace.symmetry.tracing import trace
from weightspace.tokens.layout import Role, TokenLayout, plan_layout
from weightspace.tokens.tokenizing import flatten_weights, gather_tokens, scatter_tokens, unflatten_weights
from weightspace.weights.values import Weights, WeightsMismatch, find_aliases, natural_key, require_finite
from weightspace.zoo.architecture import Architecture

PREPARATION_FILE, REFERENCES_FILE = "preparation.json", "references.safetensors"
PAPER_WIDTH = 288
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """What all architectures with the same ordered shapes and the same symmetry share.

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

    def rename(self, weights: Mapping[str, Tensor], own: Collection[str]) -> Weights:
        """Weights under this frame's names, matched by order with an architecture's `own` names."""
        missing = [name for name in own if name not in weights]
        unexpected = [name for name in weights if name not in own]
        if missing or unexpected:
            raise WeightsMismatch(missing, unexpected, {})
        return {name: weights[other] for name, other in zip(self.names, own, strict=True)}

    def canonicalize(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """Weights, under the architecture's names, matched to the reference."""
        renamed = self.rename(weights, architecture.shapes)
        renamed = {name: own[0] for name, own in self.rescale({key: own[None] for key, own in renamed.items()}).items()}
        permutations = self.find_permutations(renamed)
        if permutations is not None and self.symmetry is not None:
            renamed = permute(renamed, self.symmetry, permutations)
        return {own: renamed[name] for name, own in zip(self.names, architecture.shapes, strict=True)}

    def carried_of(self, weights: Mapping[str, Tensor], names: Collection[str]) -> Weights:
        """What of a network, with these names in the frame's order, is not tokenised; under the frame's names."""
        renamed = self.rename(weights, names)
        return {name: renamed[name] for name in self.layout.carried}

    def rescale(self, stack: Weights) -> Weights:
        """Stacked networks (under this frame's names) with the canonical scales and signs."""
        for rescaling in self.rescalings:
            stack = rescale(stack, rescaling, canonical_factors(stack, rescaling))
        return stack

    def find_permutations(self, weights: Mapping[str, Tensor]) -> Permutations | None:
        """The permutations that match weights (under this frame's names) to the reference."""
        if self.symmetry is None or self.reference is None:
            return None
        return match(weights, self.reference_weights(), self.symmetry)

    def reference_weights(self) -> Weights:
        """The reference's tokenised tensors by name."""
        if self.reference is None:
            raise ValueError("this frame has no reference")
        return unflatten_weights(self.reference, self.layout, {})


class Prepared(NamedTuple):
    """One network's tokens, standardised, and what is needed to come back.

    Attributes:
        tokens: 0 in the padding.
        carried: tensors that are not tokenised, under the frame's names.
    """

    frame: Frame
    tokens: Float[Tensor, "tokens width"]
    carried: Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """Weights to tokens and back, for every architecture it knows and, by layer kind, for any other.

    Attributes:
        config: `token_width` is resolved (never 0).
        architectures: `id -> Architecture`; keys: `id ->` which of the `frames` it has.
        kinds: layer kind -> (mean, standard deviation), for tensors never seen.
    """

    config: PreparationConfig
    architectures: dict[str, Architecture] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    frames: dict[str, Frame] = field(default_factory=dict)
    kinds: dict[str, tuple[float, float]] = field(default_factory=dict)

    def frame_of(self, architecture: Architecture) -> Frame:
        """The frame of an architecture; planned from its shapes if it is new (see `with_architecture`)."""
        key = self.key_of(architecture)
        return self.frames[key] if key in self.frames else self.with_architecture(architecture).frames[key]

    def key_of(self, architecture: Architecture) -> str:
        """The key of an architecture's frame, whether it is known or not."""
        known = self.architectures.get(architecture.id)
        if known is not None and known.signature() == architecture.signature():
            return self.keys[architecture.id]
        return frame_key(architecture, None)

    def architecture_for(self, weights: Mapping[str, Tensor]) -> Architecture:
        """The known architecture with these names and shapes, else one with the same shapes in natural order of
        the names (under the weights' own names), else a new one.
        """
        names = sorted(weights, key=natural_key)
        kinds = {name: str(weights[name].dtype).removeprefix("torch.") for name in names}
        found = Architecture(
            id=UNKNOWN,
            shapes={name: tuple(weights[name].shape) for name in names},
            dtypes={name: kind for name, kind in kinds.items() if kind != "float32"},
            note="an architecture the model was not trained on",
        )
        for architecture in self.architectures.values():
            if (architecture.shapes, architecture.dtypes) == (found.shapes, found.dtypes):
                return architecture
        for architecture in self.architectures.values():
            if architecture.reordered(sorted(architecture.shapes, key=natural_key)).signature() == found.signature():
                return architecture.renamed(names)
        return found

    def with_architecture(self, architecture: Architecture) -> "Preparation":
        """A copy that also knows `architecture`: layout from its shapes, statistics by layer kind, no alignment."""
        key = self.key_of(architecture)
        frames = self.frames
        if key not in frames:
            config = self.config
            layout = plan_layout(
                architecture.meta_weights(),
                config.token_width,
                style=config.token_style,
                order=list(architecture.shapes),
            )
            standardized = config.standardize != "none"
            statistics = statistics_by_kind(layout, self.kinds) if standardized else no_statistics(layout)
            known = "this architecture" if architecture.id == UNKNOWN else architecture.id
            note = f"{known} was not in training: statistics by layer kind, no alignment"
            frames = {
                **frames,
                key: Frame(
                    layout=layout,
                    symmetry=None,
                    statistics=statistics,
                    names=tuple(architecture.shapes),
                    note=note,
                ),
            }
        architectures = {**self.architectures, architecture.id: architecture}
        return replace(self, frames=frames, keys={**self.keys, architecture.id: key}, architectures=architectures)

    def without_alignment(self, architecture: Architecture) -> "Preparation":
        """A copy that leaves networks of an architecture as they are."""
        key = self.key_of(architecture)
        frame = replace(self.frame_of(architecture), symmetry=None, rescalings=())
        return replace(self, frames={**self.frames, key: frame})

    def prepare(self, weights: Mapping[str, Tensor], architecture: Architecture | None = None) -> Prepared:
        """Canonicalise, tokenise and standardise one network.

        Raises:
            WeightsMismatch: names or shapes are not the architecture's.
            InputError: NaN or infinite weights.
        """
        architecture = architecture or self.architecture_for(weights)
        require_finite(weights, architecture.id)
        frame = self.frame_of(architecture)
        renamed = frame.rename(self.canonicalize(weights, architecture), architecture.shapes)
        flat = frame.statistics.apply(flatten_weights(renamed, frame.layout), frame.layout)
        carried = frame.carried_of(weights, architecture.shapes)
        return Prepared(frame, gather_tokens(flat, frame.layout), carried)

    def canonicalize(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """The same network, matched to the reference: all its outputs stay as they are."""
        return self.frame_of(architecture).canonicalize(weights, architecture)

    def match_to(
        self, target: Mapping[str, Tensor], weights: Mapping[str, Tensor], architecture: Architecture
    ) -> Weights:
        """Weights matched to another network of the same architecture instead of the reference."""
        frame = self.frame_of(architecture)
        flat = flatten_weights(frame.rename(target, architecture.shapes), frame.layout)
        return replace(frame, reference=flat).canonicalize(weights, architecture)

    def restore(
        self, tokens: Float[Tensor, "tokens width"], architecture: Architecture, carried: Mapping[str, Tensor]
    ) -> Weights:
        """Standardised tokens back to weights under the architecture's names: the inverse of `prepare`,
        except that the weights stay canonical.
        """
        frame = self.frame_of(architecture)
        flat = frame.statistics.undo(scatter_tokens(tokens, frame.layout), frame.layout)
        weights = unflatten_weights(flat, frame.layout, carried)
        return {own: weights[name] for name, own in zip(frame.names, architecture.shapes, strict=True)}

    def save(self, folder: Path) -> None:
        """Write `preparation.json` and `references.safetensors` into a new folder."""
        folder.mkdir(parents=True)
        frames = {
            key: {
                "layout": frame.layout.to_json(),
                "symmetry": frame.symmetry.to_json() if frame.symmetry is not None else None,
                "statistics": frame.statistics.to_json(),
                "names": frame.names,
                "note": frame.note,
                "rescalings": [own.to_json() for own in frame.rescalings],
            }
            for key, frame in self.frames.items()
        }
        write_json(
            folder / PREPARATION_FILE,
            {
                "config": asdict(self.config),
                "kinds": self.kinds,
                "keys": self.keys,
                "architectures": [architecture.to_json() for architecture in self.architectures.values()],
                "frames": frames,
            },
        )
        references = {key: frame.reference for key, frame in self.frames.items() if frame.reference is not None}
        save_file(references, folder / REFERENCES_FILE)

    @classmethod
    def open(cls, folder: Path) -> "Preparation":
        """Read what `save` wrote.

        Raises:
            InputError: files are missing or damaged.
        """
        try:
            value = json.loads((folder / PREPARATION_FILE).read_text())
            references = load_file(folder / REFERENCES_FILE)
            architectures = [Architecture.from_json(entry) for entry in value["architectures"]]
            return cls(
                config=PreparationConfig(**value["config"]),
                keys=dict(value["keys"]),
                kinds={kind: (mean, std) for kind, (mean, std) in value["kinds"].items()},
                architectures={architecture.id: architecture for architecture in architectures},
                frames={key: _frame_from_json(entry, references.get(key)) for key, entry in value["frames"].items()},
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"expected a whole preparation in {folder}, found none ({error})") from error


def frame_key(architecture: Architecture, frame: Frame | None) -> str:
    """A short key, equal for architectures with the same ordered shapes, types and symmetries, whatever the names.

    Shapes alone would not do: a network with a skip connection may have the shapes of one without.
    """
    text = architecture.signature()
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


def plan_frame(architecture: Architecture, config: PreparationConfig, allow: Collection[str] = ()) -> Frame:
    """The frame of an architecture before any weights are seen: traced if it can be built."""
    symmetry, note, roles, aliases = None, "", None, {}
    rescalings: tuple[Rescaling, ...] = ()
    try:
        module = architecture.build(allow)
        aliases = find_aliases(module.state_dict())
        traced = trace(module, architecture.example())
        symmetry = traced.symmetry
        roles = {name: Role(*use) for name, use in traced.uses.items()}
        rescalings = tuple(trace_rescaling(module, kind, architecture.example()) for kind in config.rescalings)
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
    return Frame(
        layout=layout,
        symmetry=symmetry,
        statistics=no_statistics(layout),
        names=tuple(architecture.shapes),
        note=note,
        rescalings=tuple(own for own in rescalings if own.groups),
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


def resolve_width(config: PreparationConfig, architectures: Collection[Architecture]) -> PreparationConfig:
    """The configuration with a token width.

    The longest row (with its bias), at most the paper's 288. Where rows are packed, up to a quarter wider, if that
    makes fewer tokens.
    """
    config.check()
    if config.token_width:
        return config
    metas = [architecture.meta_weights() for architecture in architectures]
    layouts = [plan_layout(meta, 1) for meta in metas]
    longest = max((block.row_length for layout in layouts for block in layout.blocks), default=1)
    width = min(longest, PAPER_WIDTH)
    if config.token_style == "packed":
        widths = range(width, width + width // 4 + 1)
        width = min(
            widths, key=lambda own: sum(block.packed_count(own) for layout in layouts for block in layout.blocks)
        )
    return replace(config, token_width=width)


def _frame_from_json(value: Mapping[str, Any], reference: Tensor | None) -> Frame:
    return Frame(
        layout=TokenLayout.from_json(value["layout"]),
        symmetry=Symmetry.from_json(value["symmetry"]) if value["symmetry"] is not None else None,
        statistics=Statistics.from_json(value["statistics"]),
        names=tuple(value["names"]),
        reference=reference,
        note=value["note"],
        rescalings=tuple(Rescaling.from_json(own) for own in value.get("rescalings", [])),
    )
