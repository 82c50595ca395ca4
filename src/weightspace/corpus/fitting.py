"""Learn how to prepare weights from training members: symmetry, reference, statistics."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from weightspace.corpus.asking import ask_corpus, require_askable
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus, build_corpus, flatten_checkpoints, renamed_stack, same_frame
from weightspace.corpus.frame import Frame, frame_key, plan_frame
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.row_responses import fit_scale
from weightspace.corpus.standardizing import (
    Statistics,
    no_statistics,
    pool_by_kind,
    statistics_by_kind,
    tensor_statistics,
)
from weightspace.errors import InputError
from weightspace.symmetry.matching import iterated_mean
from weightspace.tokens.layout import plan_layout
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

PAPER_WIDTH = 288


def fit_preparation(
    zoo: Zoo, config: PreparationConfig, folder: Path, *, ask: bool = False
) -> tuple[Preparation, Corpus]:
    """Learn how to prepare weights from the training members, and write their corpus.

    Per frame: trace the symmetry, choose the reference, match every member's last epoch to it and apply the
    permutation to all its epochs (paper, section 3.2), and compute the statistics.

    Args:
        zoo: training members only; everything is computed from them.
        config: see `PreparationConfig`.
        folder: where the corpus files go.
        ask: the networks what their units do, too; see `ask_corpus`.

    Raises:
        InputError: NaN or infinite weights, or an unknown reference member.
    """
    if ask:
        require_askable(zoo, config)
    used = {name: zoo.architectures[name] for name in dict.fromkeys(zoo.table["architecture"])}
    config = resolve_width(config, list(used.values()))
    if config.align and config.reference not in ("best", "mean") and config.reference not in zoo.members:
        raise InputError(f"expected a training member as reference, found '{config.reference}'")
    planned = {name: plan_frame(architecture, config) for name, architecture in used.items()}
    keys = {name: frame_key(architecture, planned[name]) for name, architecture in used.items()}
    frames = {keys[name]: planned[name] for name in reversed(used)}
    draft = Preparation(config=config, architectures=used, keys=keys, frames=frames)
    if config.align:
        draft = replace(draft, frames={key: _with_reference(key, frame, zoo, draft) for key, frame in frames.items()})
    fitted, corpus = _with_statistics(draft, build_corpus(zoo, draft, folder))
    return _asked(zoo, fitted, corpus) if ask else (fitted, corpus)


def _asked(zoo: Zoo, fitted: Preparation, corpus: Corpus) -> tuple[Preparation, Corpus]:
    """The same with what the networks' units do, and what that is standardised with."""
    asked = ask_corpus(zoo, fitted, corpus)
    heard = {part.key: (part.heard, part.frame.layout) for part in asked.parts if part.heard is not None}
    scale = fit_scale(heard)
    scaled = {key: replace(own, scale=scale.of(key, layout)) for key, (own, layout) in heard.items()}
    return replace(fitted, heard=scale), Corpus(tuple(replace(part, heard=scaled[part.key]) for part in asked.parts))


def resolve_width(config: PreparationConfig, architectures: Collection[Architecture]) -> PreparationConfig:
    """The configuration with a token width.

    The longest row (with its bias), at most the paper's 288. Where rows are packed, up to a quarter wider, if that
    makes fewer tokens.
    """
    if config.token_width:
        return config
    metas = [architecture.meta_weights() for architecture in architectures]
    layouts = [plan_layout(meta, 1) for meta in metas]
    longest = max((block.row_length for layout in layouts for block in layout.blocks), default=1)
    width = min(longest, PAPER_WIDTH)
    if config.token_style == "packed":
        widths = range(width, width + width // 4 + 1)
        width = min(
            widths, key=lambda width: sum(block.packed_count(width) for layout in layouts for block in layout.blocks)
        )
    return replace(config, token_width=width)


def _with_reference(key: str, frame: Frame, zoo: Zoo, draft: Preparation) -> Frame:
    """The frame with the reference network's flat vector."""
    if frame.symmetry is None:
        return frame
    last = zoo.where(same_frame(draft.keys, key)).last()
    if draft.config.reference not in ("best", "mean"):
        chosen = last.where(member=draft.config.reference)
        if len(chosen) == 0:
            return frame
    elif "validation_accuracy" in zoo.table.columns and last.table["validation_accuracy"].notna().any():
        chosen = last.best(1, by="validation_accuracy")
    else:
        chosen = last.where(member=min(last.members))
    piece = next(chosen.stacks())
    reference = flatten_checkpoints(piece, frame, {})[0]
    if draft.config.reference == "mean":
        start = replace(frame, reference=reference).reference_weights()
        mean = iterated_mean(lambda: (renamed_stack(piece, frame) for piece in last.stacks()), start, frame.symmetry)
        reference = torch.cat([mean[name].flatten().float() for name in frame.layout.names])
    return replace(frame, reference=reference)


def _with_statistics(draft: Preparation, corpus: Corpus) -> tuple[Preparation, Corpus]:
    raw = {part.key: tensor_statistics(part.chunks(), part.frame.layout) for part in corpus.parts}
    kinds = pool_by_kind((raw[key], draft.frames[key].layout) for key in raw)

    def choose(key: str, frame: Frame) -> Statistics:
        policies = {"tensor": raw[key], "kind": statistics_by_kind(frame.layout, kinds)}
        return policies.get(draft.config.standardize, no_statistics(frame.layout))

    frames = {key: replace(frame, statistics=choose(key, frame)) for key, frame in draft.frames.items()}
    parts = tuple(replace(part, frame=frames[part.key]) for part in corpus.parts)
    return replace(draft, frames=frames, kinds=kinds), Corpus(parts)
