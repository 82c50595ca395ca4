"""Examine a trained SANE on members that it never saw, beside an untrained model of the same shape."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from weightspace.analysis.config import usual_targets
from weightspace.analysis.fidelity import (
    Fidelity,
    LayerFidelity,
    fidelity_by_layer,
    last_of_first_members,
    measure_fidelity,
)
from weightspace.analysis.predicting.calibrating import fit_predictor
from weightspace.analysis.predicting.predictor import Predictor
from weightspace.analysis.probing.probe import probe
from weightspace.analysis.representations.baselines import layer_statistics
from weightspace.analysis.representations.catalog import Represent, untrained
from weightspace.autoencoder.reconstructing import PrincipalLatents
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.images import Images, ImageSet, open_images
from weightspace.responses.config import AskConfig
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.splitting import concatenate, split_any
from weightspace.zoo.zoo import Zoo, require_finite_zoo

SHARES = (0.1, 0.25, 0.5, 1.0)


class SplitZoo(NamedTuple):
    """A zoo in three parts by member, and the images that its networks are asked about, if there are any.

    Of a small zoo the second part may be empty; the note says so.
    """

    name: str
    parts: Sequence[Zoo]
    images: ImageSet | None = None
    note: str = ""

    @property
    def test_images(self) -> Images | None:
        """What networks are scored on."""
        return self.images.test if self.images is not None else None


class FidelityPoint(NamedTuple):
    """What is left of networks with so many latents for each weight; see `Fidelity`."""

    latents_per_weight: float
    r2: float
    agreement: float
    original_accuracy: float
    reconstructed_accuracy: float


class ZooFidelity(NamedTuple):
    """What is left of the networks of one zoo.

    Attributes:
        networks: how many were decoded; scored_on: what they were asked about, in words.
        curve: with fewer latents, and last with all.
        layers: each reconstructed alone; empty for networks of several layouts.
    """

    zoo: str
    networks: int
    scored_on: str
    curve: list[FidelityPoint]
    layers: list[LayerFidelity]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; the point with all latents stands at its top too."""
        rows = [point._asdict() for point in self.curve]
        layers = [layer._asdict() for layer in self.layers]
        about = {"zoo": self.zoo, "networks": self.networks, "scored_on": self.scored_on}
        return {**about, **rows[-1], "curve": rows, "layers": layers}


class ReadingPoint(NamedTuple):
    """R² and rank correlation of one linear probe on test members."""

    representation: str
    target: str
    r2: float
    r2_low: float
    r2_high: float
    tau: float


class ZooReading(NamedTuple):
    """What linear probes read of one zoo's test members, and why some properties are not read."""

    zoo: str
    rows: list[ReadingPoint]
    note: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"zoo": self.zoo, "rows": [row._asdict() for row in self.rows], "note": self.note}


@dataclass(frozen=True)
class Examination:
    """What a trained model is worth on members that it never saw.

    Attributes:
        fidelity, reading: zoo by zoo.
        predictor: fitted, calibrated and checked; None, for the reason in `predictor_note`.
        asking: the same, asking networks what they do; None, for the reason in `asking_note`.
    """

    fidelity: list[ZooFidelity]
    reading: list[ZooReading]
    predictor: Predictor | None
    predictor_note: str = ""
    asking: Predictor | None = None
    asking_note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything but the predictors' arrays."""
        return {
            "fidelity": [zoo.to_json() for zoo in self.fidelity],
            "reading": [zoo.to_json() for zoo in self.reading],
            "predicting": _predicting(self.predictor, self.predictor_note),
            "asking": _predicting(self.asking, self.asking_note),
        }


def _predicting(predictor: Predictor | None, note: str) -> dict[str, Any]:
    if predictor is None:
        return {"rows": [], "note": note}
    fields = ("target", "r2", "usual_radius", "coverage")
    models = predictor.properties
    rows = [{"name": model.name, **{name: asdict(model)[name] for name in fields}} for model in models]
    about = {name: getattr(predictor, name) for name in ("level", "outlier_share", "members")}
    return {"rows": rows, "note": "", "asked": predictor.asked.strip(), **about}


def split_zoos(
    folders: Sequence[Path],
    shares: Sequence[float],
    *,
    seed: int,
    fold: int = 0,
    data: str | None = None,
    given: Sequence[Architecture] = (),
) -> list[SplitZoo]:
    """Zoos in three parts each, with the images given, or those that they name; `given` architectures are trusted.

    Raises:
        InputError: no zoos, or NaN weights in a part that is not trained on.
    """
    if not folders:
        raise InputError("expected a zoo, found none")
    images = open_images(data) if data is not None else None
    zoos = []
    for folder in folders:
        parts, note = split_any(Zoo.open(folder, given), shares, seed=seed, fold=fold)
        for part in parts[1:]:
            require_finite_zoo(part)
        zoos.append(SplitZoo(folder.absolute().name, parts, images or recorded_images(parts[0]), note))
    return zoos


def together(zoos: Sequence[Zoo]) -> Zoo:
    """Several zoos as one; a single one as it is."""
    filled = [zoo for zoo in zoos if len(zoo)]
    return concatenate(filled) if len(filled) > 1 else (filled or zoos)[0]


def examine(sane: SANE, zoos: Sequence[SplitZoo], targets: Sequence[str] | None = None) -> Examination:
    """Measure how much of networks survives, what can be read of them, and fit the predictor.

    Args:
        sane: a trained model.
        zoos: what it was trained on the first parts of; the last parts are what it is examined on: at most 24 networks
            of each for fidelity, at their last epoch.
        targets: properties to predict; see `fit_predictor`.

    Raises:
        InputError: test members that it was trained on.

    Examples:
        >>> from weightspace.analysis.examining import SplitZoo
        >>> examination = examine(sane, [SplitZoo("digits", (train, validation, test), images)])
        >>> sorted(examination.to_json())  # doctest: +ELLIPSIS
        [...'fidelity'...]
    """
    parts = [together([zoo.parts[number] for zoo in zoos]) for number in range(3)]
    fidelity, reading = [_fidelity(sane, zoo) for zoo in zoos], [_reading(sane, zoo) for zoo in zoos]
    return Examination(
        fidelity,
        reading,
        *_predictor(sane, parts, targets, None),
        *_predictor(sane, parts, targets, AskConfig()),
    )


def _predictor(
    sane: SANE, parts: Sequence[Zoo], targets: Sequence[str] | None, ask: AskConfig | None
) -> tuple[Predictor | None, str]:
    """A predictor, or why there is none."""
    try:
        return fit_predictor(sane, parts, targets, ask=ask), ""
    except InputError as refusal:
        return None, str(refusal)


def _fidelity(sane: SANE, zoo: SplitZoo) -> ZooFidelity:
    """What is left of the networks of one zoo: as a whole, with fewer latents, and layer by layer."""
    networks = last_of_first_members(zoo.parts[-1])
    whole = measure_fidelity(sane, networks, zoo.test_images)
    components = PrincipalLatents.fit(sane, zoo.parts[0])
    density, tokens = whole.latents_per_weight, _tokens_per_weight(sane, networks)
    counts = [math.floor(share / tokens) for share in SHARES if share < density]
    curve = [
        _point(measure_fidelity(sane, networks, zoo.test_images, components.first(count)), tokens * count)
        for count in counts
        if count >= 1
    ]
    try:
        layers = fidelity_by_layer(sane, networks, zoo.test_images)
    except InputError:
        layers = []  # networks of several layouts have no layers in common
    return ZooFidelity(zoo.name, whole.networks, _scored_on(whole), [*curve, _point(whole, density)], layers)


def _tokens_per_weight(sane: SANE, zoo: Zoo) -> float:
    """Tokens for every weight of a zoo's networks."""
    architectures = [zoo.architectures[str(name)] for name in zoo.table["architecture"]]
    layouts = [sane.preparation.frame_of(architecture).layout for architecture in architectures]
    return sum(len(layout) for layout in layouts) / sum(layout.size for layout in layouts)


def _point(measured: Fidelity, latents_per_weight: float) -> FidelityPoint:
    return FidelityPoint(
        latents_per_weight, measured.overall_r2, measured.agreement, measured.original, measured.reconstructed
    )


def _scored_on(measured: Fidelity) -> str:
    if math.isnan(measured.agreement):
        return "nothing, as the networks cannot be built"
    return "random inputs, as no images fit" if math.isnan(measured.original) else "images"


def _reading(sane: SANE, zoo: SplitZoo) -> ZooReading:
    """R² of linear probes on unseen members: the model, an untrained one of its shape, and layer statistics."""
    represent: list[Represent] = [
        lambda parts: untrained(sane, parts, "mean"),
        lambda parts: [sane.embed(part) for part in parts],
    ]
    if len(sane.preparation.frames) == 1:  # networks of several layouts have only the mean in common
        readout: Callable[[Sequence[Zoo]], Any] = lambda parts: [sane.embed(part, "readout") for part in parts]  # noqa: E731
        represent = [lambda parts: [layer_statistics(part) for part in parts], *represent, readout]
    rows, notes = [], []
    table = zoo.parts[0].table
    targets = [name for name in usual_targets(zoo.parts[0].properties) if table[name].nunique() > 1]
    parts = [compute(zoo.parts) for compute in represent] if targets else []
    for target in targets:
        try:
            results = [probe(*own, target=target) for own in parts]
        except InputError as refusal:
            notes.append(f"{target.replace('_', ' ')}: {refusal}")
            continue
        rows += [ReadingPoint(r.representation.label, target, r.r2, r.r2_low, r.r2_high, r.tau) for r in results]
    return ZooReading(zoo.name, rows, "; ".join(notes))
