"""Representations beside each other: the same probes on all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from weightspace.analysis.baselines import layer_statistics, raw_weights
from weightspace.analysis.probe import ProbeResult, probe
from weightspace.autoencoder.inference import Embeddings, embed
from weightspace.autoencoder.sane import SANE
from weightspace.zoo.zoo import Zoo

Represent = Callable[[Zoo], Embeddings]


def standard_representations(sane: SANE | None) -> list[Represent]:
    """The representations that are always compared, baselines first."""
    baselines: list[Represent] = [raw_weights, layer_statistics]
    if sane is None:
        return baselines
    return [*baselines, lambda zoo: embed(sane, zoo, "mean"), lambda zoo: embed(sane, zoo, "mean+spread")]


def compare_representations(
    parts: Sequence[Zoo],
    representations: Sequence[Represent],
    targets: Sequence[str],
    *,
    seed: int,
    allow_overlap: bool = False,
) -> list[dict[str, Any]]:
    """Probe every representation for every target, over all epochs and on each member's last one.

    Args:
        parts: train, validation and test members.
        representations: functions from a zoo to embeddings.
        targets: properties; `epoch` is left out where only last epochs are probed.
        seed: of the bootstrap.
        allow_overlap: see `probe`.

    Returns:
        Rows with `subset` (`pooled` or `last_epoch`), `representation`, `target`, `r2`, `r2_low`, `r2_high`,
        `tau`, `members` and `checkpoints`.
    """
    rows = []
    for represent in representations:
        pooled = [represent(zoo) for zoo in parts]
        last = [last_epoch(part) for part in pooled]
        for subset, (train, validation, test) in (("pooled", pooled), ("last_epoch", last)):
            for target in targets:
                if subset == "last_epoch" and target == "epoch":
                    continue
                result = probe(train, validation, test, target=target, seed=seed, allow_overlap=allow_overlap)
                rows.append(to_row(result, subset))
    return rows


def last_epoch(part: Embeddings) -> Embeddings:
    """The part's checkpoints at each member's last epoch."""
    keep = (part.table["epoch"] == part.table.groupby("member")["epoch"].transform("max")).to_numpy()
    return Embeddings(part.features[keep], part.table[keep], part.representation, part.trained_on)


def to_row(result: ProbeResult, subset: str) -> dict[str, Any]:
    """A probe's result without its predictions."""
    fields = ("representation", "target", "r2", "r2_low", "r2_high", "tau", "members", "checkpoints")
    return {"subset": subset, **{name: getattr(result, name) for name in fields}}


def principal_map(embeddings: Embeddings) -> np.ndarray:
    """Two principal components of standardised embeddings, shape `[checkpoints, 2]`."""
    spread = np.maximum(embeddings.features.std(0), 1e-9)
    return PCA(2, random_state=0).fit_transform((embeddings.features - embeddings.features.mean(0)) / spread)
