"""The results in sentences, good and bad alike, computed from the rows."""

from typing import Any

from weightspace.generation.comparing import GENERATED, NOISE, SCRATCH

Rows = list[dict[str, Any]]


def describe_findings(reading: Rows, writing: Rows) -> list[str]:
    """What the tables say, in a few sentences; whatever the numbers are."""
    return [*_reading_sentences(reading), *_writing_sentences(writing)]


def _reading_sentences(rows: Rows) -> list[str]:
    sentences = []
    for target in dict.fromkeys(row["target"] for row in rows):
        own = {
            row["representation"]: row["r2"] for row in rows if row["target"] == target and row["subset"] == "pooled"
        }
        ours = max((name for name in own if name.startswith("SANE")), key=lambda name: own[name])
        base = max((name for name in own if not name.startswith("SANE")), key=lambda name: own[name])
        verdict = "ahead of" if own[ours] > own[base] else "behind"
        sentences.append(
            f"Reading {target.replace('_', ' ')}: the better SANE embedding has R² {own[ours]:.3f}, {verdict} the best "
            f"baseline, {base}, with {own[base]:.3f}."
        )
    return sentences


def _writing_sentences(rows: Rows) -> list[str]:
    accuracy = {(row["method"], row["epochs"]): row["accuracy"] for row in rows}
    novelty = next(row["novelty"] for row in rows if row["method"] == GENERATED)
    first, last = min(epoch for _, epoch in accuracy), max(epoch for _, epoch in accuracy)
    better = "better than" if accuracy[GENERATED, first] > accuracy[NOISE, first] else "no better than"
    return [
        f"Writing: generated networks reach {accuracy[GENERATED, first]:.1%} test accuracy untrained, random ones "
        f"{accuracy[SCRATCH, first]:.1%}; after {last} epochs {accuracy[GENERATED, last]:.1%} and "
        f"{accuracy[SCRATCH, last]:.1%}.",
        f"At their novelty of {novelty:.2f} they are {better} anchors with as much noise on the weights "
        f"({accuracy[NOISE, first]:.1%} without training).",
    ]
