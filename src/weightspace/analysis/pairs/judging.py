"""What two checkpoints are to each other, from the traces of every change: one judge a kind, the surest first."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from weightspace.analysis.pairs.corresponding import Correspondence
from weightspace.analysis.pairs.traces import Traces
from weightspace.analysis.pairs.verdicts import LIMITS, Kind, Limits, Verdict
from weightspace.weights.values import some_of

# Fewer numbers that may have been learned say nothing.
FEWEST = 32
# What holds in tensors with this share of what changed is said of the pair; matrices of fewer rows have no rank.
MOSTLY, LEAST_FULL = 0.9, 4
# Noise has no more in common with what it was added to; what was scaled has all.
ALONG, STILL = 0.1, 0.8
# An equal part of this size is a past in common; deviations from chance that are no chance.
SIZEABLE, SURE = 0.1, 4.0
BROKEN = "broken numbers"
MANY_ZEROS, FEW_ZEROS = 0.05, 0.01


class _Case(NamedTuple):
    """All there is to decide from: tensors that may have been learned, and those of them that changed."""

    correspondence: Correspondence
    traces: Sequence[Traces]
    learned: Sequence[Traces]
    changed: Sequence[Traces]
    slices: Sequence[Traces]
    heads: frozenset[str]
    limits: Limits

    @property
    def equal_share(self) -> float:
        """Of the numbers that may have been learned, the share in matrices that are equal."""
        total = sum(entry.change.twins.numbers for entry in self.learned)
        equal = (entry.change.twins for entry in self.learned if entry.change.equal)
        return sum(twins.numbers for twins in equal if len(twins.shape) > 1) / total if total else 0.0

    @property
    def matrices(self) -> list[Traces]:
        """Of what changed that which has rows and columns."""
        return [entry for entry in self.changed if entry.spectrum is not None]

    @property
    def fresh(self) -> list[Traces]:
        """Matrices whose units do not stand where they stood."""
        return [entry for entry in self.matrices if entry.correlation < self.limits.kept]

    def share(self, some: Sequence[Traces]) -> float:
        """Of the entries of changed matrices, the share in some of them."""
        total = sum(entry.change.twins.numbers for entry in self.matrices)
        return sum(entry.change.twins.numbers for entry in some) / total if total else 0.0


def decide(
    correspondence: Correspondence,
    traces: Sequence[Traces],
    slices: Sequence[Traces] = (),
    heads: frozenset[str] = frozenset(),
    limits: Limits = LIMITS,
) -> Verdict:
    """The verdict on two checkpoints.

    Args:
        correspondence: of their tensors.
        traces: of every two that have the same shape.
        slices: of what misshapen ones have in common.
        heads: names of tensors that may belong to a last layer, in either.
        limits: what decides.
    """
    learned = [entry for entry in traces if not entry.aside]
    changed = [entry for entry in learned if not entry.change.equal]
    case = _Case(correspondence, traces, learned, changed, slices, heads, limits)
    verdict = next((said for judge in JUDGES if (said := judge(case)) is not None), None) or _fine_tuned(case)
    broken = [entry for entry in traces if entry.aside == BROKEN and not entry.change.equal]
    if not broken:
        return verdict
    names = some_of([entry.change.twins.name for entry in broken])
    if not changed and verdict.kind == "recalibrated":
        sentence = f"{{first}} and {{second}} differ in tensors with NaN or infinite numbers: {names}"
        return Verdict("unknown", "unknown", sentence, verdict.evidence)
    return verdict._replace(evidence=(*verdict.evidence, f"NaN or infinite numbers in {names} say nothing"))


def _unknown(case: _Case) -> Verdict | None:
    if not case.traces:
        return Verdict("unknown", "unknown", "{first} and {second} have no tensors that stand for each other")
    numbers = sum(entry.change.twins.numbers for entry in case.learned)
    if numbers < FEWEST and not _all_equal(case):
        return Verdict(
            "unknown", "unknown", f"{{first}} and {{second}} share only {numbers:,} numbers that may have been learned"
        )
    return None


def _all_equal(case: _Case) -> bool:
    """Whether nothing is left over but what is the other's transposed, and everything is equal."""
    correspondence = case.correspondence
    alone = correspondence.only_first or correspondence.only_second
    shaped = all(entry.transposed for entry in correspondence.misshapen)
    return not alone and shaped and all(entry.change.equal for entry in (*case.traces, *case.slices))


def _equal(case: _Case) -> Verdict | None:
    if not _all_equal(case):
        return None
    every = [entry.change.twins for entry in (*case.traces, *case.slices)]
    casts = sorted({f"{one} and {other}" for one, other in {twins.dtypes for twins in every} if one != other})
    notes = [case.correspondence.how] if case.correspondence.how else []
    notes += [f"stored as {', '.join(casts)}, which loses nothing here"] if casts else []
    notes += [f"{len(case.slices)} matrices are transposed"] if case.slices else []
    evidence = f"all {sum(twins.numbers for twins in every):,} numbers are equal"
    return Verdict("equal", "equal values", "{first} and {second} hold equal values", (evidence, *notes))


def _independent(case: _Case) -> Verdict | None:
    """Every matrix changed, and no units stand where they stood."""
    matrices = case.matrices
    if case.equal_share >= SIZEABLE or not case.changed:
        return None
    if not matrices:
        sure = max((entry.places.deviations for entry in case.changed if entry.places is not None), default=0.0)
        sentence = "{first} and {second} have too few numbers in common to say what they are to each other"
        return None if sure >= SURE or case.equal_share else Verdict("unknown", "unknown", sentence)
    correlation = _mean_correlation(matrices)
    seen = f"rows at the same places correlate by {correlation:.2f} on average, over {len(matrices)} matrices"
    if correlation < case.limits.apart:
        return Verdict(
            "independent",
            "independent",
            "{first} and {second} have no common past that weights show",
            (seen,),
            "one was permuted or rescaled, which --architecture tells; or trained far from a common start",
        )
    together = sum(entry.places.deviations for entry in matrices if entry.places is not None)
    if correlation < case.limits.kept or together < SURE * math.sqrt(len(matrices)):
        return Verdict(
            "unknown",
            "unknown",
            "{first} and {second} may have a common past, or none: too little is left of it",
            (seen,),
        )
    return None


def _mean_correlation(entries: Sequence[Traces]) -> float:
    weights = [math.sqrt(entry.change.twins.numbers) for entry in entries]
    return sum(w * entry.correlation for w, entry in zip(weights, entries, strict=True)) / sum(weights)


def _extended(case: _Case) -> Verdict | None:
    """One has all that the other has, and more of it: entries of a vocabulary, positions, or layers."""
    correspondence = case.correspondence
    longer, shorter = _grown(case, 1), _grown(case, -1)
    more, fewer = bool(longer or correspondence.only_second), bool(shorter or correspondence.only_first)
    if case.fresh or not more ^ fewer or len(longer) + len(shorter) < len(correspondence.misshapen):
        return None
    grown = [f"{entry.name} is {entry.how}" for entry in correspondence.misshapen]
    added = correspondence.only_second if more else correspondence.only_first
    if added:
        grown.append(f"{len(added)} tensors were added ({some_of(added)})")
    parent, names = ("first", ("{second}", "{first}")) if more else ("second", ("{first}", "{second}"))
    same = "unchanged" if not case.changed else "and trained further"
    return Verdict(
        "derived",
        "extended",
        f"{names[0]} is {names[1]} extended, {same}",
        tuple(grown),
        "the smaller one was cut out of the larger",
        parent,  # type: ignore[arg-type] # one of the two words above
        guessed=True,
    )


def _grown(case: _Case, sign: int) -> list[str]:
    """Misshapen tensors that are longer in the second (1) or the first (-1) and kept what both have."""
    kept = {entry.change.twins.name: entry.correlation >= case.limits.kept for entry in case.slices}
    return [
        entry.name
        for entry in case.correspondence.misshapen
        if entry.axis is not None
        and (entry.second[entry.axis] - entry.first[entry.axis]) * sign > 0
        and kept.get(entry.name, False)
    ]


def _head(case: _Case, names: Sequence[str]) -> str:
    """The part of a network that all of some tensors belong to, if it may be its last: a name in front of theirs."""
    parts = [name.split(".")[:-1] for name in names]
    shared = list(itertools.takewhile(lambda several: len(set(several)) == 1, zip(*parts, strict=False)))
    prefix = ".".join(several[0] for several in shared)
    return prefix if prefix and any(name.startswith(f"{prefix}.") for name in case.heads) else ""


def _head_replaced(case: _Case) -> Verdict | None:
    """What differs is the last layer alone, or all else has a common past."""
    correspondence = case.correspondence
    strange = [entry.change.twins.name for entry in case.fresh] + [entry.name for entry in correspondence.misshapen]
    heads = [_head(case, [*strange, *alone]) for alone in (correspondence.only_first, correspondence.only_second)]
    strange += [*correspondence.only_first, *correspondence.only_second]
    renamed = bool(correspondence.only_first and correspondence.only_second and all(heads))
    head = heads[0] if renamed else _head(case, strange)
    kept = [entry for entry in case.learned if not head or not entry.change.twins.name.startswith(f"{head}.")]
    if not head or not any(len(entry.change.twins.shape) > 1 for entry in kept):
        return None
    moved = [entry for entry in kept if not entry.change.equal]
    again, rest = (", and trained further", "have a common past") if moved else ("", "are equal")
    return Verdict(
        "derived",
        "head replaced",
        f"{{first}} and {{second}} are one network with another {head}{again}",
        (f"{some_of(strange)} have nothing in common", f"the other {len(kept)} tensors {rest}"),
        f"{head} was trained so far that nothing of it is left",
    )


class _Way(NamedTuple):
    """Which one would have been made of which: the place of the child, and what the parent is called."""

    child: int
    parent: Literal["first", "second"]

    def made(self, kind: Kind, how: str, evidence: str, wrong_if: str) -> Verdict:
        """The child is the parent, `how`."""
        sentence = f"{{{('first', 'second')[self.child]}}} is {{{self.parent}}} {how}"
        return Verdict("derived", kind, sentence, (evidence,), wrong_if, self.parent)


WAYS = (_Way(1, "first"), _Way(0, "second"))


def _exact(case: _Case) -> Verdict | None:
    """Rounded to another type, or pruned: both leave no other trace."""
    if not case.changed or not case.correspondence.complete:
        return None
    changes = [entry.change for entry in case.changed]
    for way in WAYS:
        if all(change.rounded and change.rounded_back == (way.child == 0) for change in changes):
            types = " and ".join(sorted({change.rounded for change in changes}))
            seen = "every number is the other's, rounded to that type"
            return way.made("rounded", f"rounded to {types}", seen, "")
        if all(change.pruned == (1 if way.child else -1) for change in changes):
            zeros = max(change.zeros[way.child] for change in changes)
            how = f"pruned: {zeros:.0%} of the numbers of its sparsest tensor are zero"
            seen = f"all numbers that differ, in {len(changes)} tensors, are zero in one and not in the other"
            return way.made("pruned", how, seen, "zeros were filled in")
    return None


def _quantized(case: _Case) -> Verdict | None:
    """Most matrices of one lie on few levels, those of the other do not."""
    for way in WAYS:
        on_levels = [own for own in case.matrices if own.levels[way.child] and not own.levels[1 - way.child]]
        if on_levels and case.share(on_levels) > MOSTLY:
            levels = " and ".join(map(str, sorted({entry.levels[way.child] for entry in on_levels})))
            seen = f"{len(on_levels)} of {len(case.matrices)} matrices that changed lie on so few levels"
            wrong_if = "it was trained further, less than a step of those levels"
            return way.made("quantized", f"quantized to {levels} levels", seen, wrong_if)
    return None


def _thinned(case: _Case) -> Verdict | None:
    """Most matrices of one have zeros where the other has none, and more changed: pruned, then rounded or trained."""
    for way in WAYS:
        zeros = [(entry, entry.change.zeros[way.child], entry.change.zeros[1 - way.child]) for entry in case.matrices]
        thin = [entry for entry, there, here in zeros if there > MANY_ZEROS and here < FEW_ZEROS]
        if thin and case.share(thin) > MOSTLY:
            seen = f"{len(thin)} of {len(case.matrices)} matrices that changed have zeros, and had none"
            how, wrong_if = "pruned, and rounded or trained further", "zeros came of something else than pruning"
            return way.made("pruned", how, seen, wrong_if)
    return None


def _low_rank(case: _Case) -> Verdict | None:
    """Matrices alone changed, each by a few directions."""
    ranks = [entry.spectrum for entry in case.matrices if entry.spectrum is not None]
    if not ranks or len(ranks) < len(case.changed):
        return None
    if any(own.full < LEAST_FULL or not 0 < own.rank <= own.full // 2 for own in ranks):
        return None
    if all(own.grain < case.limits.grain and own.effective > 2 * own.rank for own in ranks):
        return None  # white, and the few directions are what stands out from rounding by chance
    low, high = min(own.rank for own in ranks), max(own.rank for own in ranks)
    rank = f"rank {low}" if low == high else f"ranks from {low} to {high}"
    return _with_guess(
        case,
        "low rank",
        f"is {{parent}} with a change of {rank}, as merging an adapter makes",
        f"{len(ranks)} matrices changed by few directions, and no bias or norm did",
        "a single step of training with a small batch leaves the same",
    )


def _noised(case: _Case) -> Verdict | None:
    """What changed is as even as white noise, in nearly all numbers."""
    white = [entry for entry in case.matrices if _is_white(entry, case.limits)]
    if (
        any(entry not in white for entry in case.fresh)
        or case.share(white) <= MOSTLY
        or min(_shares(case)) > ALONG
        or _mostly_still(case)
    ):
        return None
    relative = _relative(case)
    return _with_guess(
        case,
        "noised",
        f"is {{parent}} with noise of {relative:.2g} of its size",
        "no direction, row or column of the change stands out from white noise",
        "training left no more of a direction than noise does",
    )


def _mostly_still(case: _Case) -> bool:
    """Whether many numbers of what changed are as they were: noise moves all, training in half precision a few."""
    numbers = [(entry.change.changed, entry.change.twins.numbers) for entry in case.matrices]
    return sum(share * count for share, count in numbers) < STILL * sum(count for _, count in numbers)


def _is_white(entry: Traces, limits: Limits) -> bool:
    return entry.spectrum is not None and entry.spectrum.grain < limits.grain and entry.uneven < limits.uneven


def _fine_tuned(case: _Case) -> Verdict:
    if not case.changed and not case.correspondence.complete:
        correspondence = case.correspondence
        apart = [entry.name for entry in correspondence.misshapen]
        apart += [*correspondence.only_first, *correspondence.only_second]
        return Verdict(
            "derived",
            "partly equal",
            "{first} and {second} share a part, and each has its own beside it",
            (f"{len(case.learned)} tensors are equal, {len(apart)} have no counterpart ({some_of(apart)})",),
        )
    if not case.changed:
        return Verdict(
            "derived",
            "recalibrated",
            "{first} and {second} differ in what is not learned alone, such as running statistics",
            (f"all {len(case.learned)} tensors that are learned are equal",),
        )
    if case.fresh and len(case.fresh) == len(case.matrices):
        same = [entry.change.twins.name for entry in case.learned if entry.change.equal]
        sentence = "{first} and {second} share a part, and have nothing else in common"
        lost = [entry.change.twins.name for entry in case.fresh]
        seen = (f"equal: {some_of(same)}", f"nothing is left of {some_of(lost)}")
        return Verdict("derived", "partly equal", sentence, seen, "both took what is equal from elsewhere")
    parts = f"{len(case.changed)} of {len(case.learned)} tensors changed"
    if len(case.changed) < len(case.learned):
        parts += f" ({some_of([entry.change.twins.name for entry in case.changed])})"
    evidence = [parts]
    if case.fresh:
        names = [entry.change.twins.name for entry in case.fresh]
        evidence.append(f"nothing is left of {len(names)} of them ({some_of(names)})")
    return _with_guess(
        case,
        "fine-tuned",
        f"is {{parent}} trained further: its weights moved by {_relative(case):.2g} of their size",
        "; ".join(evidence),
        "both were trained further from a third",
    )


def _relative(case: _Case) -> float:
    before = sum(entry.change.squares[0] for entry in case.changed)
    return math.sqrt(sum(entry.change.squares[1] for entry in case.changed) / before) if before else math.inf


def _shares(case: _Case) -> tuple[float, float]:
    """How much of its direction a change has in common with either: a change is made of what is there before."""
    before, change, product = (sum(entry.change.squares[part] for entry in case.changed) for part in range(3))
    after = before + 2 * product + change
    with_first = abs(product) / math.sqrt(before * change) if before and change else 0.0
    with_second = abs(product + change) / math.sqrt(after * change) if after > 0 and change else 0.0
    return with_first, with_second


def _with_guess(case: _Case, kind: Kind, sentence: str, evidence: str, wrong_if: str) -> Verdict:
    """A derived one, with the guess which came first: a change has more in common with what it is a part of."""
    with_first, with_second = _shares(case)
    parent, child = ("first", "second") if with_first <= with_second else ("second", "first")
    words = sentence.replace("{parent}", f"{{{parent}}}")
    return Verdict("derived", kind, f"{{{child}}} {words}", (evidence,), wrong_if, parent, guessed=True)  # type: ignore[arg-type]


JUDGES = (_unknown, _equal, _exact, _independent, _extended, _head_replaced, _quantized, _thinned, _low_rank, _noised)
