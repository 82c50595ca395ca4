"""Verdicts on what two checkpoints are to each other, and the limits that decide."""

from typing import Literal, NamedTuple

Relation = Literal["equal", "derived", "independent", "unknown"]
Kind = Literal[
    "equal bytes",
    "equal values",
    "equal up to symmetry",
    "rounded",
    "pruned",
    "quantized",
    "head replaced",
    "low rank",
    "noised",
    "recalibrated",
    "averaged",
    "extended",
    "fine-tuned",
    "partly equal",
    "independent",
    "unknown",
]


class Limits(NamedTuple):
    """What decides; fitted on some architectures and tested on others by `benchmarks/pairs.py`.

    Attributes:
        kept: correlation of a matrix' rows at the same places from which on it has a past in common with the other.
        apart: mean correlation over all matrices below which two networks have none.
        grain, uneven: below which a change is as even as white noise; see `Spectrum` and `unevenness`.
    """

    kept: float = 0.35
    apart: float = 0.20
    grain: float = 1.10
    uneven: float = 2.2


LIMITS = Limits()
# For which share of pairs whose truth is known the guess which came first was right (`docs/tables/pairs.json`).
GUESSES_RIGHT: dict[str, float] = {"noised": 0.77, "low rank": 0.96, "fine-tuned": 0.92, "extended": 1.0}
# After the units of one were matched to the other's strangers are alike too, by what matching makes of chance.
MATCHED = LIMITS._replace(kept=0.40, apart=0.70)


class Verdict(NamedTuple):
    """What two checkpoints are to each other.

    Attributes:
        relation: equal, derived, independent or unknown.
        kind: of relation.
        sentence: in words; {first} and {second} stand for the checkpoints.
        evidence: what it rests on, in sentences.
        wrong_if: what it would take to be wrong.
        parent: which one was there before: first or second; nothing where that cannot be told.
        guessed: whether that is a guess.
    """

    relation: Relation
    kind: Kind
    sentence: str
    evidence: tuple[str, ...] = ()
    wrong_if: str = ""
    parent: Literal["first", "second", ""] = ""
    guessed: bool = False

    def guess(self) -> str:
        """What is guessed of which came first, in a sentence with how often that is right; nothing if nothing is."""
        if not self.guessed or not self.parent:
            return ""
        right = f"right for {GUESSES_RIGHT[self.kind]:.0%} of such pairs whose truth was known"
        return f"that {{{self.parent}}} came first is a guess, {right}"
