"""Compare two checkpoints, whatever files they are in: what one is to the other, and what changed, tensor by tensor."""

import filecmp
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from weightspace.analysis.config import DiffConfig
from weightspace.analysis.pairs.answering import Answers, compare_answers
from weightspace.analysis.pairs.averaging import BESIDE, Between, place_between
from weightspace.analysis.pairs.changes import ROWS, Twins, compare_tensors
from weightspace.analysis.pairs.corresponding import Correspondence, correspond
from weightspace.analysis.pairs.judging import decide
from weightspace.analysis.pairs.symmetric import bring_together
from weightspace.analysis.pairs.traces import Traces, trace
from weightspace.analysis.pairs.verdicts import LIMITS, MATCHED, Kind, Limits, Relation, Verdict
from weightspace.corpus.asking import cannot_run
from weightspace.corpus.frame import symmetry_of
from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.responses.config import AskConfig
from weightspace.weights.files import StoredWeights, meta_of
from weightspace.weights.values import sum_of_hashes
from weightspace.zoo.addressing import architecture_of, is_file, network_files, open_file, open_network
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.fitting import fit_stored, fits

# Of what misshapen tensors share, so many entries along the longer axis are compared.
SHARED, TOGETHER = 256, 2
SAME_LENGTH = 1e-4
# Kinds that a symmetry of the architecture may lie behind.
STRANGE = ("independent", "unknown", "fine-tuned", "noised")


class Seen(NamedTuple):
    """The verdict on two networks' weights, and what it rests on.

    Attributes:
        verdict: what one is to the other.
        correspondence: which tensors stand for each other, and which have no counterpart.
        traces: what became of each that has one.
        slices: of what misshapen ones have in common.
        heads: tensors that may belong to a last layer.
    """

    verdict: Verdict
    correspondence: Correspondence
    traces: Sequence[Traces] = ()
    slices: Sequence[Traces] = ()
    heads: frozenset[str] = frozenset()

    def judged_by(self, limits: Limits) -> Verdict:
        """What the verdict would be under other limits."""
        return decide(self.correspondence, self.traces, self.slices, self.heads, limits)


def diff_weights(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    *,
    rows: int = ROWS,
    limits: Limits = LIMITS,
    shown: bool = True,
) -> Seen:
    """Compare two networks' weights, in files or in memory.

    Args:
        first, second: weights by name; of those in files only pieces are in memory at a time.
        rows: how many rows of each tensor are looked at closely.
        limits: what decides.
        shown: whether progress is.

    Examples:
        >>> weights = {"fc.weight": torch.randn(32, 16, generator=torch.Generator().manual_seed(0))}
        >>> diff_weights(weights, {"fc.weight": weights["fc.weight"].bfloat16()}).verdict.kind
        'rounded'
    """
    metas = meta_of(first), meta_of(second)
    aliases = [weights.aliases if isinstance(weights, StoredWeights) else {} for weights in (first, second)]
    here, there = (
        {name: tensor for name, tensor in meta.items() if name not in second_names}
        for meta, second_names in zip(metas, aliases, strict=True)
    )
    correspondence = correspond(here, there)
    pairs = [_twins(here, there, name, counterpart) for name, counterpart in correspondence.names.items()]

    def look(pair: Twins) -> Traces:
        return trace(compare_tensors(first, second, pair, rows=rows))

    traces = []
    numbers = sum(pair.numbers for pair in pairs)
    # Two at a time: while one tensor is read, another is worked on.
    with progress_bar("comparing", numbers, shown=shown) as advance, ThreadPoolExecutor(TOGETHER) as pool:
        for pair, traced in zip(pairs, pool.map(look, pairs), strict=True):
            traces.append(traced)
            advance(pair.numbers)
    slices = _slices(first, second, correspondence)
    ordered = [weights.ordered if isinstance(weights, StoredWeights) else True for weights in (first, second)]
    heads = heads_of(here, ordered=ordered[0]) | heads_of(there, ordered=ordered[1])
    verdict = decide(correspondence, traces, slices, heads, limits)
    if verdict.relation == "independent" and _reordered(first, second, traces):
        sentence = "{first} and {second} hold the same numbers in another order"
        verdict = Verdict("unknown", "unknown", sentence, ("--architecture would tell whether it is a symmetry",))
    return Seen(verdict, correspondence, traces, slices, heads)


def _twins(first: Mapping[str, Tensor], second: Mapping[str, Tensor], name: str, counterpart: str) -> Twins:
    one, other = first[name], second[counterpart]
    kinds = (str(tensor.dtype).removeprefix("torch.") for tensor in (one, other))
    return Twins(name, counterpart, tuple(one.shape), tuple(kinds))  # type: ignore[arg-type] # of two


def _reordered(first: Mapping[str, Tensor], second: Mapping[str, Tensor], traces: Sequence[Traces]) -> bool:
    """Whether every tensor holds the same numbers, in whatever order; asked only of those of one length."""
    return all(abs(entry.change.scale - 1) < SAME_LENGTH for entry in traces if not entry.aside) and all(
        sum_of_hashes(first[entry.change.twins.name]) == sum_of_hashes(second[entry.change.twins.counterpart])
        for entry in traces
        if not entry.change.equal
    )


def heads_of(weights: Mapping[str, Tensor], *, ordered: bool) -> frozenset[str]:
    """Matrices that may be a network's last: the last one, or in a file that has no order of layers any."""
    matrices = [name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.ndim == 2]
    return frozenset(matrices[-1:] if ordered else matrices)


def _slices(first: Mapping[str, Tensor], second: Mapping[str, Tensor], correspondence: Correspondence) -> list[Traces]:
    """Traces of what misshapen tensors have in common: all, if one is the other transposed; of one longer axis the
    start.
    """
    slices = []
    for entry in correspondence.misshapen:
        one, two = first[entry.name], second[entry.counterpart]
        if entry.transposed:
            two = two.T.contiguous()
        elif entry.axis is not None:
            count = min(entry.first[entry.axis], entry.second[entry.axis], SHARED)
            one, two = (tensor.narrow(entry.axis, 0, count).clone() for tensor in (one, two))
        else:
            continue
        parts = {entry.name: one}, {entry.counterpart: two}
        slices.append(trace(compare_tensors(*parts, _twins(*parts, entry.name, entry.counterpart))))
    return slices


class Diff(NamedTuple):
    """Two checkpoints, side by side.

    Attributes:
        first, second: how they were named.
        seen: the verdict, and what it rests on.
        between: where the second lies between the first and another parent, if one was named.
        answers: of both, where they can be run.
        notes: what was not looked at, and why.
    """

    first: str
    second: str
    seen: Seen
    between: Between | None = None
    answers: Answers | None = None
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What one is to the other."""
        return self.seen.verdict

    def __str__(self) -> str:
        """The verdict in a sentence."""
        return self.verdict.sentence.format(first=self.first, second=self.second)

    def guess(self) -> str:
        """Which came first, where that is a guess; see `Verdict.guess`."""
        return self.verdict.guess().format(first=self.first, second=self.second)

    def is_expected(self, expected: str) -> bool:
        """Whether the verdict is of a relation, or of a kind."""
        return expected in (self.verdict.relation, self.verdict.kind)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with everything."""
        correspondence = self.seen.correspondence
        return {
            "first": self.first,
            "second": self.second,
            "verdict": {**self.verdict._asdict(), "sentence": str(self)},
            "how": correspondence.how,
            "tensors": [entry.to_json() for entry in self.seen.traces],
            "misshapen": [entry._asdict() for entry in correspondence.misshapen],
            "only_first": correspondence.only_first,
            "only_second": correspondence.only_second,
            "between": self.between._asdict() if self.between else None,
            "answers": self.answers.to_json() if self.answers else None,
            "notes": list(self.notes),
        }


def diff_networks(
    first: str,
    second: str,
    config: DiffConfig | None = None,
    *,
    ask: AskConfig | None = None,
    given: Sequence[Architecture] = (),
) -> Diff:
    """Compare two checkpoints by name; what `weightspace diff` does.

    Args:
        first, second: files or folders of weights, `FILE:KEY`, or `ZOO:MEMBER`.
        config: another parent, and images.
        ask: what both are asked with, where it is known how they are built; noise without it.
        given: architectures that the caller vouches for; see `fit_weights`.

    Raises:
        InputError: no such network, or a folder of several.
    """
    config = config or DiffConfig()
    third = fit_stored(open_either(config.other_parent), given) if config.other_parent else None
    if _same_files(first, second):
        verdict = Verdict("equal", "equal bytes", "{first} and {second} are equal byte for byte")
        return Diff(first, second, Seen(verdict, Correspondence({}, [], [], [])))
    one, two = (fit_stored(open_either(name), given) for name in (first, second))
    seen = diff_weights(one, two)
    known = _known([one, two], [first, second], given)
    if known is not None and seen.correspondence.complete and seen.verdict.kind in STRANGE:
        seen = diff_symmetric(one, two, known, seen)
    between = None
    if third is not None:
        between = place_between(one, third, two)
        swapped = place_between(two, third, one)
        if seen.verdict.relation != "equal":
            average = _averaged(between, "first", config.other_parent)
            average = average or _averaged(swapped, "second", config.other_parent)
            seen = seen._replace(verdict=average or seen.verdict)
    answers, notes = _asked((one, two), (first, second), known, config, ask)
    return Diff(first, second, seen, between, answers, notes)


def require_verdict(expected: str) -> None:
    """Refuse what is neither a relation nor a kind of one; nothing is expected by an empty text."""
    words = [*get_args(Relation), *get_args(Kind)]
    if expected and expected not in words:
        raise InputError(f"expected a verdict among {', '.join(dict.fromkeys(words))}, found '{expected}'")


def _averaged(between: Between | None, parent: Literal["first", "second"], third: str) -> Verdict | None:
    """The verdict where one is made of its parent and another; None where it is not."""
    if between is None or not (between.averaged or between.mixed):
        return None
    child = {"first": "second", "second": "first"}[parent]
    low, high = min(between.shares), max(between.shares)
    share = f"{between.share:.0%}" if high - low < BESIDE else f"{low:.0%} to {high:.0%}, by tensor,"
    how = f"an average: {share} of {_plain(third)}, the rest of {{{parent}}}"
    if between.mixed:
        how = f"made of tensors of {{{parent}}} and of {_plain(third)}"
    return Verdict(
        "derived",
        "averaged",
        f"{{{child}}} is {how}",
        (f"{between.beside:.2g} of the change is beside the line between them",),
        "it was trained from one towards the other, in a straight line",
        parent,
    )


def _plain(name: str) -> str:
    """A name, in a sentence that others are put into."""
    return name.replace("{", "{{").replace("}", "}}")


def _asked(
    networks: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    names: tuple[str, str],
    known: Architecture | None,
    config: DiffConfig,
    ask: AskConfig | None,
) -> tuple[Answers | None, tuple[str, ...]]:
    """What both answer, or why they were not asked; images for what cannot be run are refused."""
    reason = cannot_run([known]) if known is not None else "what they answer nobody knows without --architecture"
    if not reason and known is not None:
        count = config.test_images
        return compare_answers(*networks, known, ask=ask, data=config.data, test_images=count, names=names), ()
    if config.data:
        raise InputError(f"expected networks that can be run for --data: {reason}")
    return None, (reason,)


def diff_symmetric(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], architecture: Architecture, direct: Seen
) -> Seen:
    """What two networks are to each other once the symmetry of their architecture is accounted for; else `direct`."""
    derived: list[Seen] = []
    for brought in bring_together(first, second, symmetry_of(architecture), architecture):
        seen = diff_weights(brought.first, brought.second, limits=MATCHED)
        if all(entry.change.relative <= brought.rounding for entry in seen.traces):
            sentence = f"{{second}} is {{first}} up to a symmetry: the same with {brought.how}"
            evidence = "all numbers are then equal" + (", up to rounding" if brought.rounding else "")
            return seen._replace(verdict=Verdict("equal", "equal up to symmetry", sentence, (evidence,)))
        if seen.verdict.relation == "derived" and direct.verdict.relation != "derived":
            sentence = f"{seen.verdict.sentence}, with {brought.how}"
            derived.append(seen._replace(verdict=seen.verdict._replace(sentence=sentence)))
    return min(derived, key=_moved, default=direct)


def _moved(seen: Seen) -> float:
    """How far weights moved, relative to their size."""
    before, change, _ = (sum(entry.change.squares[part] for entry in seen.traces) for part in range(3))
    return change / before if before else 0.0


def _known(
    weights: Sequence[Mapping[str, Tensor]], names: Sequence[str], given: Sequence[Architecture]
) -> Architecture | None:
    """The architecture of both networks, if it was given or a zoo tells it."""
    metas = [meta_of(network) for network in weights]
    for architecture in (*given, *filter(None, map(architecture_of, names))):
        if (architecture.symmetry or architecture.factory) and all(fits(meta, architecture) for meta in metas):
            return architecture
    return None


def _same_files(first: str, second: str) -> bool:
    """Whether two names are of files with the same bytes."""
    paths = Path(first), Path(second)
    return all(path.is_file() for path in paths) and filecmp.cmp(*paths, shallow=False)


def open_either(name: str) -> Mapping[str, Tensor]:
    """The weights of one network, of those in files read as they are needed."""
    if not is_file(name):
        return open_network(name).weights
    files = network_files(Path(name))
    if len(files) > 1:
        raise InputError(
            f"expected one network at {name}, found {len(files)}: `weightspace inspect` relates those of a folder"
        )
    return open_file(str(files[0]))
