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
from weightspace.analysis.representations.spectra import matrix_views, spectra
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.hyper_representation import embed_whole, fit_hyper_representation
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.errors import InputError
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.zoo import Zoo

Parts = Sequence[Zoo]
Represent = Callable[[Parts], list[Embeddings]]
COMPONENTS = 128
WIDE = 4_096
SMALLEST_SHARE = 1e-6
HYPER_STEPS, HYPER_BATCH = 300, 32


class Entry(NamedTuple):
    """A representation that can be asked for by its short name.

    Attributes:
        describe: what it is, for help texts.
        standard: whether it is compared unless others are asked for.
        of_zoo: computes it from weights alone, or None.
        of_sane: computes it with a trained model's preparation or the model itself, or None.
    """

    describe: str
    standard: bool = False
    of_zoo: Represent | None = None
    of_sane: Callable[[SANE, Parts], list[Embeddings]] | None = None


def _each(compute: Callable[[Zoo], Embeddings]) -> Represent:
    return lambda parts: [compute(part) for part in parts]


def _embedded(aggregation: str) -> Callable[[SANE, Parts], list[Embeddings]]:
    return lambda sane, parts: [sane.embed(part, aggregation) for part in parts]


def untrained(sane: SANE, parts: Parts, aggregation: str = "mean+spread") -> list[Embeddings]:
    """Embeddings of a model of the same shape that was never trained."""
    what = Representation(f"untrained SANE ({aggregation})")
    return [replace(sane.untrained().to(sane.device).embed(part, aggregation), representation=what) for part in parts]


def _hyper(sane: SANE, parts: Parts) -> list[Embeddings]:
    """Trained here and now on the first part, as wide as the model."""
    config = SANEConfig(latent_width=2 * sane.config.latent_width, model_width=sane.config.model_width)
    seed, device = sane.provenance.training.seed, str(sane.device)
    training = TrainConfig(steps=HYPER_STEPS, batch_size=HYPER_BATCH, seed=seed, device=device)
    network = fit_hyper_representation(parts[0], sane.preparation, config, training)
    return [embed_whole(network, part, sane.preparation, frozenset(parts[0].members)) for part in parts]


REPRESENTATIONS: dict[str, Entry] = {
    "W": Entry(
        "all weights; principal components where they are many",
        standard=True,
        of_zoo=lambda parts: narrow([raw_weights(part) for part in parts]),
    ),
    "s(W)": Entry("layer statistics", standard=True, of_zoo=_each(layer_statistics)),
    "spectra": Entry("singular values of every layer", of_zoo=_each(spectra)),
    "views": Entry(
        "four views of every matrix through random probes",
        of_zoo=lambda parts: narrow([matrix_views(part) for part in parts]),
    ),
    "aligned": Entry(
        "principal components of aligned weights",
        standard=True,
        of_sane=lambda sane, parts: components([aligned_weights(part, sane.preparation) for part in parts]),
    ),
    "t(W)": Entry(
        "the statistics that SANE's readout learns, computed exactly",
        standard=True,
        of_sane=lambda sane, parts: [exact_token_statistics(part, sane.preparation) for part in parts],
    ),
    "hyper": Entry("a hyper-representation, trained here (slow)", of_sane=_hyper),
    "untrained": Entry("an untrained SANE of the same shape", standard=True, of_sane=untrained),
    "mean": Entry("SANE, mean over tokens (the paper's)", standard=True, of_sane=_embedded("mean")),
    "mean+spread": Entry("SANE, mean and spread per layer", standard=True, of_sane=_embedded("mean+spread")),
    "readout": Entry("SANE, what its statistics head reads", standard=True, of_sane=_embedded("readout")),
    "sequence": Entry(
        "SANE, principal components of all latents in a row",
        standard=True,
        of_sane=lambda sane, parts: components([sane.embed(part, "sequence") for part in parts]),
    ),
    "readout+s(W)": Entry(
        "SANE's readout beside layer statistics",
        standard=True,
        of_sane=lambda sane, parts: [
            side_by_side(sane.embed(part, "readout"), layer_statistics(part)) for part in parts
        ],
    ),
}


def choose_representations(names: Sequence[str] = ("standard",), sane: SANE | None = None) -> list[Represent]:
    """Representations by name, baselines first; without a model, those that need none.

    Args:
        names: of `REPRESENTATIONS`; `standard` and `all` stand for several.
        sane: a trained model.

    Raises:
        InputError: an unknown name, or one that needs a model where there is none.
    """
    unknown = [name for name in names if name not in (*REPRESENTATIONS, "standard", "all")]
    if unknown:
        raise InputError(
            f"expected representations among standard, all, {', '.join(REPRESENTATIONS)}, found {', '.join(unknown)}"
        )
    chosen: list[Represent] = []
    for name, entry in REPRESENTATIONS.items():
        if not (name in names or "all" in names or ("standard" in names and entry.standard)):
            continue
        if entry.of_zoo is not None:
            chosen.append(entry.of_zoo)
        elif entry.of_sane is not None and sane is not None:
            chosen.append(_with_model(entry.of_sane, sane))
        elif name in names:
            raise InputError(f"expected a trained SANE for the representation {name}, found none")
    return chosen


def represent(parts: Parts, name: str, sane: SANE | None = None) -> list[Embeddings]:
    """The parts of a zoo in one representation; what has to be fitted is fitted on the first.

    Args:
        parts: training members first; `[zoo]` for one zoo as a whole.
        name: of `REPRESENTATIONS`, such as `s(W)`, `aligned` or `readout`.
        sane: a trained model, for those that need one.

    Raises:
        InputError: an unknown name, or one that needs a model where there is none.

    Examples:
        >>> embeddings = represent([train, validation, test], "s(W)")
        >>> [len(part.features) for part in embeddings] == [len(train), len(validation), len(test)]
        True
    """
    if name not in REPRESENTATIONS:
        raise InputError(f"expected a representation among {', '.join(REPRESENTATIONS)}, found '{name}'")
    return choose_representations([name], sane)[0](parts)


def _with_model(compute: Callable[[SANE, Parts], list[Embeddings]], sane: SANE) -> Represent:
    return lambda parts: compute(sane, parts)


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
    what = Representation(f"{first.representation.label} + {second.representation.label}", "both")
    return Embeddings(features, first.table, what, first.trained_on | second.trained_on)
