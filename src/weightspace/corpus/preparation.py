"""Everything that turns raw weights into an autoencoder's tokens, and back.

A `Preparation` is saved with the trained model, so raw checkpoints go in and raw checkpoints come out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.frame import Frame, frame_key, plan_frame, require_mostly_tokens
from weightspace.corpus.row_responses import ResponseScale
from weightspace.corpus.standardizing import Statistics, no_statistics, statistics_by_kind
from weightspace.errors import InputError
from weightspace.inputs import config_from, read_object
from weightspace.outputs import write_json
from weightspace.tokens.layout import TokenLayout, plan_layout
from weightspace.tokens.tokenizing import flatten_weights, gather_tokens, scatter_tokens
from weightspace.weights.files import StoredWeights, meta_of, on_cpu, stored_masks
from weightspace.weights.safetensors_files import read_safetensors
from weightspace.weights.values import Weights, infinite_masks, natural_key, require_finite
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_weights, fits, known_as

PREPARATION_FILE, REFERENCES_FILE = "preparation.json", "references.safetensors"
UNKNOWN = "unknown"


class Recognized(NamedTuple):
    """An architecture, weights as it has them, and what was done to make them so, in words."""

    architecture: Architecture
    weights: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


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
        heard: what responses are standardised with, if the networks were asked.
        given: architectures that the caller names: networks have to be of one of these, if there are any.
        planned: frames of architectures that it does not know, planned when they were first asked for.
    """

    config: PreparationConfig
    architectures: dict[str, Architecture] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    frames: dict[str, Frame] = field(default_factory=dict)
    kinds: dict[str, tuple[float, float]] = field(default_factory=dict)
    heard: ResponseScale | None = None
    given: tuple[Architecture, ...] = ()
    planned: dict[str, Frame] = field(default_factory=dict, repr=False)

    def frame_of(self, architecture: Architecture) -> Frame:
        """The frame of an architecture; one that is new is planned, once, from its shapes (see `adopting`)."""
        key = self.key_of(architecture)
        if key in self.frames:
            return self.frames[key]
        if key not in self.planned:
            self.planned[key] = self._plan_from_shapes(architecture)
        return self.planned[key]

    def key_of(self, architecture: Architecture) -> str:
        """The key of an architecture's frame, whether it is known or not."""
        known = self.architectures.get(architecture.id)
        if known is not None and known.signature == architecture.signature:
            return self.keys[architecture.id]
        return frame_key(architecture, None)

    def architecture_for(self, weights: Mapping[str, Tensor], masks: Sequence[str] = ()) -> Architecture:
        """The known architecture with these names and shapes, else one with the same shapes in natural order of
        the names (under the weights' own names), else a new one.
        """
        names = sorted(weights, key=natural_key)
        kinds = {name: str(weights[name].dtype).removeprefix("torch.") for name in names}
        unknown = Architecture(
            id=UNKNOWN,
            shapes={name: tuple(weights[name].shape) for name in names},
            dtypes={name: kind for name, kind in kinds.items() if kind != "float32"},
            note="an architecture the model was not trained on",
            masks=tuple(masks) or infinite_masks(weights),
        )
        for architecture in self.architectures.values():
            if (architecture.shapes, architecture.dtypes) == (unknown.shapes, unknown.dtypes):
                return architecture
        for architecture in self.architectures.values():
            if architecture.reordered(sorted(architecture.shapes, key=natural_key)).signature == unknown.signature:
                return architecture.renamed(names)
        return unknown

    def recognize(self, weights: Mapping[str, Tensor]) -> Recognized:
        """A network as a known architecture has it (see `fit_weights`), else as it is, of an architecture that is new.

        Of weights in a file no values are read, unless they have to be fitted.

        Raises:
            InputError: architectures are given, and the network is of none of them.
        """
        meta = meta_of(weights)
        if self.given and not any(fits(meta, known) for known in self.given):
            fit_weights(meta, self.given[0])  # whose refusal says why
        stored = isinstance(weights, StoredWeights)
        masks = stored_masks(weights) if isinstance(weights, StoredWeights) else infinite_masks(weights)
        architecture = self.architecture_for(meta if stored else weights, masks)
        if architecture.id in self.architectures:
            return Recognized(architecture, weights)
        known = next((each for each in (*self.architectures.values(), *self.given) if fits(meta, each)), None)
        if known is None:
            return Recognized(architecture, weights)
        whole = weights.read() if isinstance(weights, StoredWeights) else weights
        return Recognized(known, *fit_weights(whole, known))

    def adopting(self, architecture: Architecture, reference: Mapping[str, Tensor]) -> "Preparation":
        """A copy that also knows `architecture`, whose networks are laid out and aligned as training members are.

        Its symmetry is traced where it can be built, `reference` is what others are matched to, and statistics are
        taken by layer kind from what was trained on. The same preparation, if it knows the architecture already.
        """
        key = self.key_of(architecture)
        if key in self.frames:
            return self
        frame = plan_frame(architecture, self.config)
        note = f"{architecture.id} was not in training"
        frame = replace(frame, statistics=self._statistics_by_kind(frame.layout), note=note)
        if frame.symmetry is not None and self.config.align:
            flat = flatten_weights(frame.to_frame(reference, architecture), frame.layout)
            frame = replace(frame, reference=flat, note=f"{note}: aligned to an anchor")
        return replace(
            self,
            architectures={**self.architectures, architecture.id: architecture},
            keys={**self.keys, architecture.id: key},
            frames={**self.frames, key: frame},
            planned={},
        )

    def trusting(self, given: Sequence[Architecture]) -> "Preparation":
        """A copy to which the caller's architectures are known, those that it was trained on among them."""
        try:
            architectures = known_as(self.architectures, given)
        except InputError:
            return replace(self, given=tuple(given))
        return replace(self, architectures=architectures, given=tuple(given))

    def without_alignment(self, architecture: Architecture) -> "Preparation":
        """A copy that leaves networks of an architecture as they are."""
        frame = replace(self.frame_of(architecture), symmetry=None, rescalings=())
        return replace(self, frames={**self.frames, self.key_of(architecture): frame})

    def prepare(self, weights: Mapping[str, Tensor], architecture: Architecture | None = None) -> Prepared:
        """Canonicalise, tokenise and standardise one network.

        Raises:
            WeightsMismatch: names or shapes are not the architecture's.
            InputError: NaN or infinite weights, or tensors on several devices.
        """
        if architecture is None:
            architecture, weights, _ = self.recognize(weights)
        weights = on_cpu(weights)
        require_finite(weights, architecture.id)
        frame = self.frame_of(architecture)
        flat = frame.flat(frame.canonicalize(weights, architecture), architecture)
        return Prepared(frame, gather_tokens(flat, frame.layout), frame.carried_of(weights, architecture))

    def canonicalize(self, weights: Mapping[str, Tensor], architecture: Architecture) -> Weights:
        """The same network, matched to the reference: all its outputs stay as they are."""
        return self.frame_of(architecture).canonicalize(weights, architecture)

    def match_to(
        self, target: Mapping[str, Tensor], weights: Mapping[str, Tensor], architecture: Architecture
    ) -> Weights:
        """Weights matched to another network of the same architecture instead of the reference."""
        frame = self.frame_of(architecture)
        flat = flatten_weights(frame.to_frame(target, architecture), frame.layout)
        return replace(frame, reference=flat).canonicalize(weights, architecture)

    def restore(
        self, tokens: Float[Tensor, "tokens width"], architecture: Architecture, carried: Mapping[str, Tensor]
    ) -> Weights:
        """Standardised tokens back to weights under the architecture's names: the inverse of `prepare`,
        except that the weights stay canonical.
        """
        frame = self.frame_of(architecture)
        return frame.network(scatter_tokens(tokens, frame.layout), architecture, carried)

    def _statistics_by_kind(self, layout: TokenLayout) -> Statistics:
        return no_statistics(layout) if self.config.standardize == "none" else statistics_by_kind(layout, self.kinds)

    def _plan_from_shapes(self, architecture: Architecture) -> Frame:
        """A frame without symmetry, for weights of which nothing but names and shapes are known."""
        config, order = self.config, list(architecture.shapes)
        layout = plan_layout(architecture.meta_weights(), config.token_width, style=config.token_style, order=order)
        require_mostly_tokens(layout, architecture)
        known = "this architecture" if architecture.id == UNKNOWN else architecture.id
        return Frame(
            layout=layout,
            symmetry=None,
            statistics=self._statistics_by_kind(layout),
            names=tuple(architecture.shapes),
            note=f"{known} was not in training: statistics by layer kind, no alignment",
        )

    def save(self, folder: Path) -> None:
        """Write `preparation.json` and `references.safetensors` into a new folder."""
        folder.mkdir(parents=True)
        write_json(
            folder / PREPARATION_FILE,
            {
                "config": asdict(self.config),
                "kinds": self.kinds,
                "heard": self.heard and self.heard.to_json(),
                "keys": self.keys,
                "architectures": [architecture.to_json() for architecture in self.architectures.values()],
                "frames": {key: frame.to_json() for key, frame in self.frames.items()},
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
            value = read_object(folder / PREPARATION_FILE)
            references = read_safetensors(folder / REFERENCES_FILE)
            architectures = [Architecture.from_json(entry) for entry in value["architectures"]]
            return cls(
                config=config_from(PreparationConfig, value["config"], str(folder)),
                keys=dict(value["keys"]),
                heard=ResponseScale.from_json(value["heard"]) if value.get("heard") else None,
                kinds={kind: (mean, std) for kind, (mean, std) in value["kinds"].items()},
                architectures={architecture.id: architecture for architecture in architectures},
                frames={key: Frame.from_json(entry, references.get(key)) for key, entry in value["frames"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"expected a whole preparation in {folder}, found none ({error})") from error
