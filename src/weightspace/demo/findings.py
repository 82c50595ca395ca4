"""The results in sentences, good and bad alike, computed from the rows."""

import math
from collections.abc import Sequence

from weightspace.analysis.probing.comparing import CHOSEN, ProbeRow
from weightspace.evaluation.comparing import GENERATED, WritingRow

READABLE = 0.1
Interval = tuple[float, float, float]


def describe_findings(reading: Sequence[ProbeRow], writing: Sequence[WritingRow]) -> list[str]:
    """What the tables say, in a few sentences; whatever the numbers are."""
    return [*_reading_sentences(reading), *_writing_sentences(writing)]


def tell_story(reading: Sequence[ProbeRow], writing: Sequence[WritingRow]) -> list[dict[str, str]]:
    """Three findings in plain words, each with the name of its figure; whatever the numbers are."""
    alike = [row for row in reading if (row.target, row.subset) == ("test_accuracy", "pooled") and row.r2 is not None]
    ours = next(row for row in alike if row.representation == CHOSEN.label)
    best = max((row for row in alike if row.source == "baseline"), key=_r2)
    first = [row for row in writing if row.epochs == min(row.epochs for row in writing)]
    last = max(row.epochs for row in writing if row.method == GENERATED)
    cells = {(row.key if row.key != "generated" else row.method, row.epochs): row for row in writing}
    start, scratch = next(row for row in first if row.method == GENERATED), cells["scratch", first[0].epochs]
    noise, better = cells["noise", first[0].epochs], better_methods(writing)
    less_new = sum(row.novelty < start.novelty for row in better)
    return [
        {
            "figure": "bars",
            "sentence": f"The weights of a network tell how accurate it is: R² {ours.r2:.3f} with SANE on networks "
            f"that nothing was trained on, {best.r2:.3f} with the best baseline, {best.representation}.",
        },
        {
            "figure": "fine_tuning",
            "sentence": f"Networks that nobody trained work: {start.accuracy:.1%} test accuracy, random ones have "
            f"{scratch.accuracy:.1%}; after {last} epochs {cells[GENERATED, last].accuracy:.1%} and "
            f"{cells['scratch', last].accuracy:.1%}.",
        },
        {
            "figure": "novelty",
            "sentence": f"They are no copies (novelty {start.novelty:.2f}), and noise that moves weights as far has "
            f"{noise.accuracy:.1%}. More accurate untrained were {len(better)} of the other methods, {less_new} of "
            "them less new.",
        },
    ]


def _reading_sentences(rows: Sequence[ProbeRow]) -> list[str]:
    """SANE, as chosen on validation members, beside the best baseline of each target."""
    sentences = []
    places = {"pooled": "over all epochs", "last_epoch": "on last epochs alone"}
    numeric = [row for row in rows if row.r2 is not None]
    for target, subset in dict.fromkeys((row.target, row.subset) for row in numeric):
        alike = [row for row in numeric if (row.target, row.subset) == (target, subset)]
        ours = next(row for row in alike if row.representation == CHOSEN.label)
        best = max((row for row in alike if row.source == "baseline"), key=_r2)
        verdict = _verdict(_r2_interval(ours), _r2_interval(best))
        if max(_r2(ours), _r2(best)) < READABLE:
            verdict = "nobody can read it"
        sentences.append(
            f"Reading {target.replace('_', ' ')} {places[subset]}: SANE has R² {ours.r2:.3f}, the best baseline, "
            f"{best.representation}, {best.r2:.3f}: {verdict}."
        )
    return sentences


def _r2(row: ProbeRow) -> float:
    return -math.inf if row.r2 is None else row.r2


def _r2_interval(row: ProbeRow) -> Interval:
    """R² with its interval; where there are too few members for one, it is unknown."""
    return _r2(row), *_bounds(row.r2_low, row.r2_high)


def _bounds(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


def _verdict(ours: Interval, other: Interval) -> str:
    if ours[1] > other[2]:
        return "clearly ahead"
    if ours[2] < other[1]:
        return "clearly behind"
    return f"{'ahead' if ours[0] > other[0] else 'behind'}, but their intervals overlap"


def _writing_sentences(rows: Sequence[WritingRow]) -> list[str]:
    ours = [row for row in rows if row.method == GENERATED]
    first, last = min(row.epochs for row in ours), max(row.epochs for row in ours)
    cells = {(row.key if row.key != "generated" else row.method, row.epochs): row for row in rows}
    start, end, noise = cells[GENERATED, first], cells[GENERATED, last], cells["noise", first]
    verdict = _verdict(_accuracy_interval(start), _accuracy_interval(noise))
    sentences = [
        f"Writing: generated networks reach {start.accuracy:.1%} test accuracy untrained, random ones "
        f"{cells['scratch', first].accuracy:.1%}; after {last} epochs {end.accuracy:.1%} and "
        f"{cells['scratch', last].accuracy:.1%}.",
        f"Anchors with noise of the same novelty, {start.novelty:.2f}, reach "
        f"{noise.accuracy:.1%} untrained: generated networks are {verdict}.",
    ]
    return sentences + [
        f"Without training, {row.method} is better than that: {row.accuracy:.1%}, at a novelty of {row.novelty:.2f}."
        for row in better_methods(rows)
    ]


def _accuracy_interval(row: WritingRow) -> Interval:
    return row.accuracy, *_bounds(row.accuracy_low, row.accuracy_high)


def better_methods(rows: Sequence[WritingRow]) -> list[WritingRow]:
    """Methods that are better than ours before any training, real members apart."""
    first = [row for row in rows if row.epochs == min(row.epochs for row in rows)]
    ours = next(row.accuracy for row in first if row.method == GENERATED)
    return [row for row in first if row.accuracy > ours and row.key not in ("anchors", "members")]
