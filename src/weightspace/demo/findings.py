"""The results in sentences, good and bad alike, computed from the rows."""

from typing import Any

from weightspace.analysis.comparing import CHOSEN
from weightspace.generation.comparing import ANCHORS, GENERATED, NOISE, SCRATCH

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
        base = max((name for name in own if "SANE" not in name), key=lambda name: own[name]["r2"])
        ours, best = own[CHOSEN], own[base]
        if max(ours["r2"], best["r2"]) < READABLE:
            verdict = "nobody can read it"
        elif ours["r2_high"] < best["r2_low"]:
            verdict = "clearly behind"
        elif best["r2_high"] < ours["r2_low"]:
            verdict = "clearly ahead"
        else:
            verdict = "ahead" if ours["r2"] > best["r2"] else "behind"
            verdict += ", but their intervals overlap"
        sentences.append(
            f"Reading {target.replace('_', ' ')} {places[subset]}: SANE has R² {ours['r2']:.3f}, the best baseline, "
            f"{base}, {best['r2']:.3f}: {verdict}."
        )
    return sentences


def _writing_sentences(rows: Rows) -> list[str]:
    accuracy = {(row["method"], row["epochs"]): row["accuracy"] for row in rows}
    novelty = next(row["novelty"] for row in rows if row["method"] == GENERATED)
    first, last = min(epoch for _, epoch in accuracy), max(epoch for _, epoch in accuracy)
    better = "better than" if accuracy[GENERATED, first] > accuracy[NOISE, first] else "no better than"
    sentences = [
        f"Writing: generated networks reach {accuracy[GENERATED, first]:.1%} test accuracy untrained, random ones "
        f"{accuracy[SCRATCH, first]:.1%}; after {last} epochs {accuracy[GENERATED, last]:.1%} and "
        f"{accuracy[SCRATCH, last]:.1%}.",
        f"At their novelty of {novelty:.2f} they are {better} anchors with as much noise on the weights "
        f"({accuracy[NOISE, first]:.1%} untrained).",
    ]
    for row in rows:
        if row["method"] in better_methods(rows) and row["epochs"] == first:
            sentences.append(
                f"Without training, {row['method']} is better than that: {row['accuracy']:.1%}, at a novelty of "
                f"{row['novelty']:.2f}."
            )
    return sentences


def better_methods(rows: Rows) -> list[str]:
    """Methods that are better than ours before any training, the anchors themselves apart."""
    first = [row for row in rows if row["epochs"] == min(row["epochs"] for row in rows)]
    ours = next(row["accuracy"] for row in first if row["method"] == GENERATED)
    return [row["method"] for row in first if row["accuracy"] > ours and row["method"] != ANCHORS]
