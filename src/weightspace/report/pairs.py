"""Two checkpoints side by side, and what becomes of several: the verdict, what changed layer by layer, the choice."""

import math

from weightspace.analysis.pairs.diffing import Diff
from weightspace.analysis.pairs.traces import Traces
from weightspace.generation.adding import Added
from weightspace.generation.joining import Overlap
from weightspace.generation.judging import Merge, Row
from weightspace.report.tables import Table, cut

MOST_ADDED = 40
NOTHING_LEFT = 0.3


def diff_tables(diff: Diff, limit: int) -> list[Table]:
    """What changed, tensor by tensor; what has no counterpart; where answers part; each of at most so many rows."""
    correspondence = diff.seen.correspondence
    changed = [entry for entry in diff.seen.traces if not entry.change.equal]
    columns = ["tensor", "shape", "change", "cosine", "size", "rank", "first direction", "signs", "zeros", "remarks"]
    note = (
        f"The other {len(diff.seen.traces) - len(changed):,} tensors are equal. Change: its length over that of the "
        "first; size: length of the second over that of the first; rank: of the change, of the most that it could be "
        "where it was looked at; first direction: its share of the change's square; signs: share of entries that "
        "changed theirs."
    )
    apart = [["only in the first", name, ""] for name in correspondence.only_first]
    apart += [["only in the second", name, ""] for name in correspondence.only_second]
    apart += [["of another shape", entry.name, entry.how] for entry in correspondence.misshapen]
    parting = [[place, f"{distance:.3g}"] for place, distance in (diff.answers.partings if diff.answers else [])]
    tables = [
        Table("What changed", note, columns, [_row(entry) for entry in changed], ("shape", "remarks")),
        Table("Without a counterpart", "", ["", "tensor", "how"], apart, ("tensor", "how")),
        Table(
            "Where answers part",
            "Distance of activations: 0 is equal, 1.4 is nothing in common.",
            ["place", "distance"],
            parting,
        ),
    ]
    return [cut(table, limit) for table in tables if table.rows]


def _row(entry: Traces) -> list[str]:
    change, spectrum = entry.change, entry.spectrum
    shape = " x ".join(map(str, change.twins.shape)) or "a number"
    return [
        change.twins.name,
        shape,
        f"{change.relative:.2g}",
        f"{change.cosine:.3f}",
        f"{change.scale:.3f}",
        f"{spectrum.rank} of {spectrum.full}" if spectrum else "",
        f"{spectrum.first_share:.0%}" if spectrum else "",
        f"{change.flips:.1%}",
        _zeros(entry),
        "; ".join(_remarks(entry)),
    ]


def added_table(added: Added) -> Table:
    """What adapters changed in their base, tensor by tensor, the largest change first."""
    ordered = sorted(added.rows, key=lambda row: -row.relative)
    rows = [[row.tensor, row.methods, str(row.rank or ""), f"{row.relative:.2%}"] for row in ordered]
    note = "Change: its length over that of the base's tensor."
    return cut(
        Table("What adapters changed", note, ["tensor", "method", "rank", "change"], rows, ("tensor",)), MOST_ADDED
    )


def overlap_table(met: Overlap) -> Table:
    """Where the changes of two adapters meet, tensor by tensor, those that meet most first."""
    rows = [
        [
            row.tensor,
            f"{row.ranks[0]}, {row.ranks[1]}",
            f"{row.sizes[0]:.3g}, {row.sizes[1]:.3g}",
            f"{row.cosine:.3f}",
            f"{row.outputs:.1%}",
            f"{row.inputs:.1%}",
            f"{row.both:.1%}",
            f"{row.by_chance:.1%}",
        ]
        for row in met.rows
    ]
    note = (
        "Shares of one change's square sum, the mean of both ways: written into directions that the other writes to, "
        "read from those that it reads, both at once; and both at once for changes of these ranks drawn at random."
    )
    columns = ["tensor", "ranks", "sizes", "cosine", "outputs", "inputs", "both", "by chance"]
    return cut(Table(f"Where {met.first} and {met.second} meet", note, columns, rows, ("tensor",)), MOST_ADDED)


def merge_tables(merged: Merge) -> list[Table]:
    """Parts, ensemble, averages, soup: how good each is; the one that was chosen is marked. None of what nobody ran."""
    if not merged.judged_by:
        return []
    columns = ["", "network"]
    if merged.judged:
        columns += ["validation accuracy", "loss", "barrier", "test accuracy"]
        note = (
            f"Chosen by {merged.judged_by}, accuracy first. Barrier: how far the loss (nats) lies above the mean of "
            "the parts' losses."
        )
    else:
        columns += ["agreement", "barrier on agreement"]
        note = (
            f"Share of {merged.judged_by} answered as the parts answer them (a part: as the others do), the mean over "
            "parts; of scores of classes the winner counts. Barrier on agreement: how much less than their ensemble "
            "does. Agreement is not accuracy."
        )
    rows = [["->" if row is merged.chosen else "", row.what, *_scores(row)] for row in merged.rows]
    return [Table("May they be averaged?", note, columns, rows, ("network",))]


def _scores(row: Row) -> list[str]:
    score, barrier = row.score, row.barrier
    if score.accuracy is not None:
        return [
            f"{score.accuracy:.1%}",
            _finite(score.loss, ".3f"),
            _finite(barrier, "+.3f"),
            f"{score.test_accuracy:.1%}",
        ]
    return [_finite(score.agreement, ".1%"), _finite(barrier, "+.1%")]


def _finite(value: float | None, form: str) -> str:
    """A number in a form, or what to say in its stead."""
    return "" if value is None else format(value, form) if math.isfinite(value) else "not finite"


def _zeros(entry: Traces) -> str:
    before, after = entry.change.zeros
    return "" if not before and not after else f"{before:.0%}" if before == after else f"{before:.0%} -> {after:.0%}"


def _remarks(entry: Traces) -> list[str]:
    change = entry.change
    remarks = [entry.aside] if entry.aside else []
    if any(change.broken):
        remarks = [f"{change.broken[0]:,} and {change.broken[1]:,} NaN or infinite values"]
    if change.twins.dtypes[0] != change.twins.dtypes[1]:
        remarks.append(" -> ".join(change.twins.dtypes))
    if change.rounded:
        remarks.append(f"rounded to {change.rounded}")
    if entry.spectrum is not None and entry.correlation < NOTHING_LEFT:
        remarks.append("nothing of it is left")
    sides = zip(("first", "second"), entry.levels, strict=True)
    return remarks + [f"the {which} lies on {count} levels" for which, count in sides if count]


def diff_lines(diff: Diff) -> list[str]:
    """The verdict below what it rests on, for the terminal."""
    verdict = diff.verdict
    lines = [*verdict.evidence, *([str(diff.answers)] if diff.answers else []), *diff.notes]
    lines += [f"wrong if {verdict.wrong_if}"] if verdict.wrong_if else []
    lines += [diff.guess()] if verdict.guessed else []
    kind = "" if verdict.kind == verdict.relation else f" ({verdict.kind})"
    return [*(f"  {line}" for line in lines), f"{verdict.relation}{kind}: {diff}"]
