"""Representations by name: each turns the parts of a zoo into embeddings.

Whatever has to be fitted (principal components, a hyper-representation) is fitted on the training members.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.analysis.representations.baselines import (
    aligned_weights,
    exact_token_statistics,
    layer_statistics,
    raw_weights,
)
from weightspace.analysis.representations.responses import network_responses
from weightspace.analysis.representations.spectra import matrix_views, spectra
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.hyper_representation import embed_whole, fit_hyper_representation
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.errors import InputError
from weightspace.responses.config import AskConfig
from weightspace.zoo.embeddings import Embeddings, Representation, Source
from weightspace.zoo.zoo import Zoo

Parts = Sequence[Zoo]
Represent = Callable[[Parts], list[Embeddings]]
COMPONENTS = 128
WIDE = 4_096
SMALLEST_SHARE = 1e-6
HYPER_STEPS, HYPER_BATCH = 300, 32


class Means(NamedTuple):
    """What representations are computed with, besides weights.

    Attributes:
        sane: a trained model, or None; ask: how networks are asked; device: where they run.
    """

    sane: SANE | None = None
    ask: AskConfig = AskConfig()
    device: str = "cpu"

    @property
    def model(self) -> SANE:
        """The trained model, for those that need one."""
        if self.sane is None:
            raise ValueError("this representation needs a trained SANE")
        return self.sane


class Choice(NamedTuple):
    """Representations by name, and how networks are asked for those of what they do."""

    names: Sequence[str] = ("standard",)
    ask: AskConfig | None = None


STANDARD = Choice()
Compute = Callable[[Parts, Means], list[Embeddings]]


class Entry(NamedTuple):
    """A representation that can be asked for by its short name.

    Attributes:
        describe: what it is, for help texts.
        compute: turns the parts of a zoo into embeddings.
        standard: whether it is compared unless others are asked for.
        needs_model: whether it needs a trained SANE; asks: whether networks are run.
    """

    describe: str
    compute: Compute
    standard: bool = True
    needs_model: bool = False
    asks: bool = False


def _each(compute: Callable[[Zoo], Embeddings]) -> Compute:
    return lambda parts, by: [compute(part) for part in parts]


def _embedded(aggregation: str) -> Compute:
    return lambda parts, by: [by.model.embed(part, aggregation) for part in parts]


def _asked(parts: Parts, by: Means) -> list[Embeddings]:
    return network_responses(parts, by.ask, by.device)


def _beside(first: str, second: str) -> Compute:
    """Two representations side by side."""

    def compute(parts: Parts, by: Means) -> list[Embeddings]:
        pairs = zip(*(REPRESENTATIONS[name].compute(parts, by) for name in (first, second)), strict=True)
        return [side_by_side(*pair) for pair in pairs]

    return compute


def untrained(sane: SANE, parts: Parts, aggregation: str = "mean+spread") -> list[Embeddings]:
    """Embeddings of a model of the same shape that was never trained."""
    what = Representation(f"untrained SANE ({aggregation})")
    return [replace(sane.untrained().to(sane.device).embed(part, aggregation), representation=what) for part in parts]


def _hyper(parts: Parts, by: Means) -> list[Embeddings]:
    """Trained here and now on the first part, as wide as the model."""
    sane = by.model
    config = SANEConfig(latent_width=2 * sane.config.latent_width, model_width=sane.config.model_width)
    seed, device = sane.provenance.training.seed, str(sane.device)
    training = TrainConfig(steps=HYPER_STEPS, batch_size=HYPER_BATCH, seed=seed, device=device)
    network = fit_hyper_representation(parts[0], sane.preparation, config, training)
    return [embed_whole(network, part, sane.preparation, frozenset(parts[0].members)) for part in parts]


REPRESENTATIONS: dict[str, Entry] = {
    "W": Entry(
        "all weights; principal components where they are many",
        lambda parts, by: narrow([raw_weights(part) for part in parts]),
    ),
    "s(W)": Entry("layer statistics", _each(layer_statistics)),
    "spectra": Entry("singular values of every layer", _each(spectra), standard=False),
    "views": Entry(
        "four views of every matrix through random probes",
        lambda parts, by: narrow([matrix_views(part) for part in parts]),
        standard=False,
    ),
    "r(W)": Entry("what networks do when they are asked with noise", _asked, asks=True),
    "s(W)+r(W)": Entry("layer statistics beside responses", _beside("s(W)", "r(W)"), standard=False, asks=True),
    "aligned": Entry(
        "principal components of aligned weights",
        lambda parts, by: components([aligned_weights(part, by.model.preparation) for part in parts]),
        needs_model=True,
    ),
    "t(W)": Entry(
        "the statistics that SANE's readout learns, computed exactly",
        lambda parts, by: [exact_token_statistics(part, by.model.preparation) for part in parts],
        needs_model=True,
    ),
    "hyper": Entry("a hyper-representation, trained here (slow)", _hyper, standard=False, needs_model=True),
    "untrained": Entry(
        "an untrained SANE of the same shape", lambda parts, by: untrained(by.model, parts), needs_model=True
    ),
    "mean": Entry("SANE, mean over tokens (the paper's)", _embedded("mean"), needs_model=True),
    "mean+spread": Entry("SANE, mean and spread per layer", _embedded("mean+spread"), needs_model=True),
    "readout": Entry("SANE, what its statistics head reads", _embedded("readout"), needs_model=True),
    "sequence": Entry(
        "SANE, principal components of all latents in a row",
        lambda parts, by: components([by.model.embed(part, "sequence") for part in parts]),
        needs_model=True,
    ),
    "readout+s(W)": Entry("SANE's readout beside layer statistics", _beside("readout", "s(W)"), needs_model=True),
    "readout+r(W)": Entry("SANE's readout beside responses", _beside("readout", "r(W)"), needs_model=True, asks=True),
}


def choose_representations(
    names: Sequence[str] = ("standard",),
    sane: SANE | None = None,
    *,
    ask: AskConfig | None = None,
    runnable: bool = True,
    device: str = "cpu",
) -> list[Represent]:
    """Representations by name, baselines first; without a model, those that need none.

    Args:
        names: of `REPRESENTATIONS`; `standard` and `all` stand for several.
        sane: a trained model.
        ask: how networks are asked, for representations of what they do.
        runnable: whether they can be; if not, `standard` and `all` leave these representations out.
        device: where networks run.

    Raises:
        InputError: an unknown name, or one that needs a model where there is none.
    """
    unknown = [name for name in names if name not in (*REPRESENTATIONS, "standard", "all")]
    if unknown:
        raise InputError(
            f"expected representations among standard, all, {', '.join(REPRESENTATIONS)}, found {', '.join(unknown)}"
        )
    means, chosen = Means(sane, ask or AskConfig(), device), []
    for name, entry in REPRESENTATIONS.items():
        several = "all" in names or ("standard" in names and entry.standard)
        able = (runnable or not entry.asks) and (sane is not None or not entry.needs_model)
        if name in names and entry.needs_model and sane is None:
            raise InputError(f"expected a trained SANE for the representation {name}, found none")
        if name in names or (several and able):
            chosen.append(_with_means(entry.compute, means))
    return chosen


def represent(parts: Parts, name: str, sane: SANE | None = None, *, ask: AskConfig | None = None) -> list[Embeddings]:
    """The parts of a zoo in one representation; what has to be fitted is fitted on the first.

    Args:
        parts: training members first; `[zoo]` for one zoo as a whole.
        name: of `REPRESENTATIONS`, such as `s(W)`, `r(W)`, `aligned` or `readout`.
        sane: a trained model, for those that need one.
        ask: how networks are asked, for those that run them.

    Raises:
        InputError: an unknown name, one that needs a model where there is none, or networks that cannot be run.

    Examples:
        >>> embeddings = represent([train, validation, test], "s(W)")
        >>> [len(part.features) for part in embeddings] == [len(train), len(validation), len(test)]
        True
    """
    if name not in REPRESENTATIONS:
        raise InputError(f"expected a representation among {', '.join(REPRESENTATIONS)}, found '{name}'")
    return choose_representations([name], sane, ask=ask)[0](parts)


def _with_means(compute: Compute, means: Means) -> Represent:
    return lambda parts: compute(parts, means)


def components(parts: list[Embeddings], most: int = COMPONENTS) -> list[Embeddings]:
    """Principal components of standardised features, fitted on the first part.

    At most a quarter as many as there are checkpoints, and none without variance: a probe standardises what it is
    given, and would blow rounding errors up to full size.
    """
    rows, width = parts[0].features.shape
    # What the scaler made may be written over: it is a copy of the features already.
    fitted = make_pipeline(StandardScaler(), PCA(max(1, min(most, rows // 4, width)), copy=False, random_state=0))
    fitted.fit(parts[0].features)
    spread = fitted[-1].explained_variance_
    kept = spread > SMALLEST_SHARE * spread[0]
    label, source = parts[0].representation
    # A label that ends in brackets says in them, too, that these are components.
    what = Representation(f"{label[:-1]}, PCA)" if label.endswith(")") else f"{label} (PCA)", source)
    return [replace(part, features=fitted.transform(part.features)[:, kept], representation=what) for part in parts]


def narrow(parts: list[Embeddings]) -> list[Embeddings]:
    """Principal components where features are too wide for a ridge regression, else the features as they are."""
    return components(parts) if parts[0].features.shape[1] > WIDE else parts


def side_by_side(first: Embeddings, second: Embeddings) -> Embeddings:
    """Two representations of the same checkpoints side by side."""
    features = np.concatenate([first.features, second.features], axis=1)
    sources = {first.representation.source, second.representation.source}
    source: Source = "baseline" if sources == {"baseline"} else "both"
    what = Representation(f"{first.representation.label} + {second.representation.label}", source)
    return Embeddings(features, first.table, what, first.trained_on | second.trained_on)
