"""The representations that are always compared: each turns the parts of a zoo into embeddings.

Whatever has to be fitted (principal components) is fitted on the training members.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.analysis.baselines import layer_statistics, raw_weights
from weightspace.autoencoder.inference import Embeddings, embed
from weightspace.autoencoder.sane import SANE
from weightspace.corpus.corpus import build_corpus
from weightspace.corpus.preparation import Preparation
from weightspace.zoo.zoo import Zoo

Represent = Callable[[Sequence[Zoo]], list[Embeddings]]
COMPONENTS = 128
WIDE = 4_096
SMALLEST_SHARE = 1e-6
LEARNED = "SANE ("


def standard_representations(sane: SANE | None) -> list[Represent]:
    """Baselines first; without a model, the baselines that need none."""
    simple: list[Represent] = [
        lambda parts: narrow([raw_weights(part) for part in parts]),
        lambda parts: [layer_statistics(part) for part in parts],
    ]
    if sane is None:
        return simple
    preparation = sane.preparation
    untrained = SANE(sane.config, preparation, window=sane.window, seed=1)
    return [
        *simple,
        lambda parts: components([aligned_weights(part, preparation) for part in parts]),
        lambda parts: [rename(embed(untrained, part, "mean+spread"), "untrained SANE (mean+spread)") for part in parts],
        lambda parts: [embed(sane, part, "mean") for part in parts],
        lambda parts: [embed(sane, part, "mean+spread") for part in parts],
        lambda parts: [embed(sane, part, "readout") for part in parts],
        lambda parts: components([embed(sane, part, "sequence") for part in parts]),
        lambda parts: [beside(embed(sane, part, "readout"), layer_statistics(part)) for part in parts],
    ]


def aligned_weights(zoo: Zoo, preparation: Preparation) -> Embeddings:
    """Canonical weights in one row per checkpoint: W after weight matching."""
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        corpus = build_corpus(zoo, preparation, Path(folder))
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
