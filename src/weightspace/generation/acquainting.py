"""Make a model acquainted with an architecture that it never saw, so that its networks are aligned as others are."""

import copy
from dataclasses import replace

from weightspace.autoencoder.sane import SANE
from weightspace.corpus.preparation import plan_frame
from weightspace.corpus.standardizing import statistics_by_kind
from weightspace.tokens.tokenizing import flatten_weights
from weightspace.zoo.zoo import Zoo


def acquaint(sane: SANE, anchors: Zoo) -> SANE:
    """A model that knows the architectures of anchors; the same one if it does already.

    What is new is laid out and aligned as for training members: its symmetry is traced where it can be built, the first
    anchor is the reference, and statistics are taken by layer kind from what the model was trained on. Nothing is
    trained.
    """
    preparation = sane.preparation
    for row, name in enumerate(anchors.table["architecture"]):
        architecture = anchors.architectures[str(name)]
        if preparation.key_of(architecture) in preparation.frames:
            continue
        preparation = preparation.with_architecture(architecture)
        key, config = preparation.keys[architecture.id], preparation.config
        planned = plan_frame(architecture, config)
        statistics = statistics_by_kind(planned.layout, preparation.kinds)
        if config.standardize == "none":
            statistics = planned.statistics
        frame = replace(planned, statistics=statistics, note=f"{architecture.id} was not in training")
        if frame.symmetry is not None and config.align:
            flat = flatten_weights(frame.rename(anchors.weights(row), architecture.shapes), frame.layout)
            frame = replace(frame, reference=flat, note=f"{frame.note}: aligned to an anchor")
        preparation = replace(preparation, frames={**preparation.frames, key: frame})
    if preparation is sane.preparation:
        return sane
    acquainted = copy.copy(sane)
    acquainted.preparation = preparation
    return acquainted
