"""The results in sentences, good and bad alike, computed from the rows."""

import math
from typing import Any

from weightspace.analysis.probing.comparing import CHOSEN
from weightspace.evaluation.beside import ANCHORS, MEMBERS, NOISE, SCRATCH
from weightspace.evaluation.comparing import GENERATED

READABLE = 0.1
Rows = list[dict[str, Any]]


def describe_findings(reading: Rows, writing: Rows) -> list[str]:
    """What the tables say, in a few sentences; whatever the numbers are."""
    return [*_reading_sentences(reading), *_writing_sentences(writing)]


def _reading_sentences(rows: Rows) -> list[str]:
    """SANE, as chosen on validation members, beside the best baseline of each target."""
    sentences = []
    places = {"pooled": "over all epochs", "last_epoch": "on last epochs alone"}
    for target, subset in dict.fromkeys((row["target"], row["subset"]) for row in rows if row["r2"] is not None):
        own = {row["representation"]: row for row in rows if (row["target"], row["subset"]) == (target, subset)}
        base = max((name for name in own if not name.startswith("SANE")), key=lambda name: own[name]["r2"])
        ours, best = own[CHOSEN], own[base]
        unreadable = max(ours["r2"], best["r2"]) < READABLE
        verdict = "nobody can read it" if unreadable else _verdict(_interval(ours, "r2"), _interval(best, "r2"))
        sentences.append(
            f"Reading {target.replace('_', ' ')} {places[subset]}: SANE has R² {ours['r2']:.3f}, the best baseline, "
            f"{base}, {best['r2']:.3f}: {verdict}."
        )
    return sentences


def _interval(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    """A figure with its interval; where there are too few members for one, it is unknown."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return row[name], -math.inf if low is None else low, math.inf if high is None else high


def _verdict(ours: tuple[float, float, float], other: tuple[float, float, float]) -> str:
    if ours[1] > other[2]:
        return "clearly ahead"
    if ours[2] < other[1]:
        return "clearly behind"
    return f"{'ahead' if ours[0] > other[0] else 'behind'}, but their intervals overlap"


def _writing_sentences(rows: Rows) -> list[str]:
    cells = {(row["method"], row["epochs"]): row for row in rows}
    accuracy = {place: row["accuracy"] for place, row in cells.items()}
    first, last = (end(epoch for method, epoch in accuracy if method == GENERATED) for end in (min, max))
    ours, noise = (_interval(cells[method, first], "accuracy") for method in (GENERATED, NOISE))
    sentences = [
        f"Writing: generated networks reach {accuracy[GENERATED, first]:.1%} test accuracy untrained, random ones "
        f"{accuracy[SCRATCH, first]:.1%}; after {last} epochs {accuracy[GENERATED, last]:.1%} and "
        f"{accuracy[SCRATCH, last]:.1%}.",
        f"Anchors with noise of the same novelty, {cells[GENERATED, first]['novelty']:.2f}, reach "
        f"{accuracy[NOISE, first]:.1%} untrained: generated networks are {_verdict(ours, noise)}.",
    ]
    for row in rows:
        if row["method"] in better_methods(rows) and row["epochs"] == first:
            sentences.append(
                f"Without training, {row['method']} is better than that: {row['accuracy']:.1%}, at a novelty of "
                f"{row['novelty']:.2f}."
            )
    return sentences


def better_methods(rows: Rows) -> list[str]:
    """Methods that are better than ours before any training, real members apart."""
    first = [row for row in rows if row["epochs"] == min(row["epochs"] for row in rows)]
    ours = next(row["accuracy"] for row in first if row["method"] == GENERATED)
    return [row["method"] for row in first if row["accuracy"] > ours and row["method"] not in (ANCHORS, MEMBERS)]
