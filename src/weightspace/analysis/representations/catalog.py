"""Representations by name: each turns the parts of a zoo into embeddings.

Whatever has to be fitted (principal components, a hyper-representation) is fitted on the training members.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.analysis.representations.baselines import layer_statistics, raw_weights
from weightspace.analysis.representations.spectra import matrix_views, spectra
from weightspace.analysis.representations.token_statistics import exact_token_statistics
from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.hyper_representation import embed_whole, fit_hyper_representation
from weightspace.autoencoder.inference import Embeddings, embed
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import build_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo

Parts = Sequence[Zoo]
Represent = Callable[[Parts], list[Embeddings]]
COMPONENTS = 128
WIDE = 4_096
SMALLEST_SHARE = 1e-6
LEARNED = "SANE ("
HYPER_STEPS, HYPER_BATCH = 300, 32


class Representation(NamedTuple):
    """A representation by its short name.

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
    return lambda sane, parts: [embed(sane, part, aggregation) for part in parts]


def _untrained(sane: SANE, parts: Parts) -> list[Embeddings]:
    untrained = SANE(sane.config, sane.preparation, window=sane.window, seed=1)
    return [rename(embed(untrained, part, "mean+spread"), "untrained SANE (mean+spread)") for part in parts]


def _hyper(sane: SANE, parts: Parts) -> list[Embeddings]:
    """Trained here and now on the first part, as wide as the model."""
    config = SANEConfig(latent_width=2 * sane.config.latent_width, model_width=sane.config.model_width)
    training = TrainConfig(
        steps=HYPER_STEPS, batch_size=HYPER_BATCH, seed=sane.about.get("training", {}).get("seed", 0)
    )
    model = fit_hyper_representation(parts[0], sane.preparation, config, training)
    return [embed_whole(model, part, sane.preparation, frozenset(parts[0].members)) for part in parts]


REPRESENTATIONS: Mapping[str, Representation] = {
    "W": Representation(
        "all weights; principal components where they are many",
        standard=True,
        of_zoo=lambda parts: narrow([raw_weights(part) for part in parts]),
    ),
    "s(W)": Representation("layer statistics", standard=True, of_zoo=_each(layer_statistics)),
    "spectra": Representation("singular values of every layer", of_zoo=_each(spectra)),
    "views": Representation(
        "four views of every matrix through random probes",
        of_zoo=lambda parts: narrow([matrix_views(part) for part in parts]),
    ),
    "aligned": Representation(
        "principal components of aligned weights",
        standard=True,
        of_sane=lambda sane, parts: components([aligned_weights(part, sane.preparation) for part in parts]),
    ),
    "t(W)": Representation(
        "the statistics that SANE's readout learns, computed exactly",
        standard=True,
        of_sane=lambda sane, parts: [exact_token_statistics(part, sane.preparation) for part in parts],
    ),
    "hyper": Representation("a hyper-representation, trained here (slow)", of_sane=_hyper),
    "untrained": Representation("an untrained SANE of the same shape", standard=True, of_sane=_untrained),
    "mean": Representation("SANE, mean over tokens (the paper's)", standard=True, of_sane=_embedded("mean")),
    "mean+spread": Representation("SANE, mean and spread per layer", standard=True, of_sane=_embedded("mean+spread")),
    "readout": Representation("SANE, what its statistics head reads", standard=True, of_sane=_embedded("readout")),
    "sequence": Representation(
        "SANE, principal components of all latents in a row",
        standard=True,
        of_sane=lambda sane, parts: components([embed(sane, part, "sequence") for part in parts]),
    ),
    "readout+s(W)": Representation(
        "SANE's readout beside layer statistics",
        standard=True,
        of_sane=lambda sane, parts: [beside(embed(sane, part, "readout"), layer_statistics(part)) for part in parts],
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
    for name, own in REPRESENTATIONS.items():
        if not (name in names or "all" in names or ("standard" in names and own.standard)):
            continue
        if own.of_zoo is not None:
            chosen.append(own.of_zoo)
        elif own.of_sane is not None and sane is not None:
            chosen.append(_with_model(own.of_sane, sane))
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
    """
    if name not in REPRESENTATIONS:
        raise InputError(f"expected a representation among {', '.join(REPRESENTATIONS)}, found '{name}'")
    return choose_representations([name], sane)[0](parts)


def _with_model(compute: Callable[[SANE, Parts], list[Embeddings]], sane: SANE) -> Represent:
    return lambda parts: compute(sane, parts)


def aligned_weights(zoo: Zoo, preparation: Preparation) -> Embeddings:
    """Canonical weights in one row per checkpoint: W after weight matching."""
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        corpus = build_corpus(zoo, preparation, Path(folder))
        if len({part.frame.layout.size for part in corpus.parts}) > 1:
            raise InputError("expected networks of one size for aligned W, found several: choose one architecture")
        rows = np.concatenate([part.flat.numpy() for part in corpus.parts])
        table = pd.concat([part.table for part in corpus.parts])
    order = zoo.order_of(table)
    return Embeddings(rows[order], zoo.table, "aligned W")


def components(parts: list[Embeddings], most: int = COMPONENTS) -> list[Embeddings]:
    """Principal components of standardised features, fitted on the first part.

    At most a quarter as many as there are checkpoints, and none without variance: a probe standardises what it is
    given, and would blow rounding errors up to full size.
    """
    rows, width = parts[0].features.shape
    fitted = make_pipeline(StandardScaler(), PCA(max(1, min(most, rows // 4, width)), random_state=0))
    fitted.fit(parts[0].features)
    spread = fitted[-1].explained_variance_
    kept = spread > SMALLEST_SHARE * spread[0]
    name = parts[0].representation.removesuffix(")")
    name = f"{name}, PCA)" if name != parts[0].representation else f"{name} (PCA)"
    return [rename(part, name, fitted.transform(part.features)[:, kept]) for part in parts]


def narrow(parts: list[Embeddings]) -> list[Embeddings]:
    """Principal components where features are too wide for a ridge regression, else the features as they are."""
    return components(parts) if parts[0].features.shape[1] > WIDE else parts


def beside(first: Embeddings, second: Embeddings) -> Embeddings:
    """Two representations of the same checkpoints side by side."""
    features = np.concatenate([first.features, second.features], axis=1)
    name = f"{first.representation} + {second.representation}"
    return Embeddings(features, first.table, name, first.trained_on | second.trained_on)


def rename(part: Embeddings, name: str, features: np.ndarray | None = None) -> Embeddings:
    """The same embeddings under another name, or with other features."""
    return Embeddings(part.features if features is None else features, part.table, name, part.trained_on)
