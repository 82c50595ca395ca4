"""Does `diff` tell what one checkpoint is to another? `python benchmarks/pairs.py [--members N]`.

Makes a population of pairs whose truth is known, of every kind at several strengths, from trained networks: MLPs,
the paper's CNN, residual networks and a small transformer. The limits that decide are chosen on some architectures
(`FITTED`) and reported on the others. Writes `docs/tables/pairs.json`.
"""

import argparse
import copy
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from weightspace.analysis.pairs.diffing import Seen, diff_symmetric, diff_weights
from weightspace.analysis.pairs.symmetric import bring_together
from weightspace.analysis.pairs.verdicts import LIMITS, MATCHED, Limits, Verdict
from weightspace.corpus.frame import symmetry_of
from weightspace.images import Images, open_images
from weightspace.outputs import to_json
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.rescaling import random_factors, rescale
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.values import Weights, is_statistic
from weightspace.zoo.architecture import Architecture, build_module
from weightspace.zoo.zoo import Zoo

FITTED = ("mlp", "cnn-s", "mnist-cnn-s")
STEPS = (1, 5, 20, 200)
NOISE = (1e-4, 1e-3, 1e-2, 0.1, 0.3)
PRUNED = (0.1, 0.3, 0.5, 0.9)
RANKS = (1, 2, 4, 8, 16)


class VisionTransformer(nn.Module):
    """A small transformer on patches of 7 x 7 pixels of 28 x 28 images."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores `[batch, 10]` of images `[batch, 1, 28, 28]`."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(tokens).mean(1))


class Family(NamedTuple):
    """One architecture: what builds it, and for how many steps it is trained."""

    factory: str
    arguments: dict[str, Any]
    steps: int

    def build(self) -> nn.Module:
        """A new module."""
        return build_module(self.factory, self.arguments, seed=torch.initial_seed())

    def describe(self, images: Images) -> Architecture:
        """The architecture with its symmetry."""
        module, shape = self.build(), (2, *images.inputs.shape[1:])
        about = Architecture.of_module(
            module, id="net", factory=self.factory, arguments=self.arguments, example_shape=shape
        )
        symmetry = trace_symmetry(module, images.inputs[:2]).to_json()
        return replace(about, symmetry=symmetry, trusted=True)


class Case(NamedTuple):
    """A pair whose truth is known.

    Attributes:
        truth: the kind; which: how strong, in words.
        first, second: the networks; parent: which of them was first, or nothing.
        behind: whether a symmetry lies between them.
    """

    truth: str
    which: str
    first: Weights
    second: Weights
    parent: str = ""
    behind: bool = False


OURS = "weightspace.zoo.growing.networks"
FAMILIES = {
    "mlp": Family(f"{OURS}:mlp", {"widths": [784, 64, 32, 10], "activation": "relu"}, 400),
    "cnn-s": Family(f"{OURS}:cnn_s", {"activation": "tanh"}, 400),
    "mlp-wide": Family(f"{OURS}:mlp", {"widths": [784, 256, 256, 10], "activation": "tanh"}, 300),
    "cnn-s-relu": Family(f"{OURS}:cnn_s", {"activation": "relu"}, 400),
    "resnet18-w8": Family(f"{OURS}:resnet18", {"channels": 1, "width": 8}, 120),
    "transformer": Family(f"{Path(__file__).resolve()}:VisionTransformer", {}, 300),
}


def train(module: nn.Module, images: Images, steps: int, seed: int, rate: float = 1e-3, only: str = "") -> Weights:
    """A copy of a module's weights after so many steps of Adam, of tensors whose names begin with `only`."""
    module = copy.deepcopy(module).train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(only))
    optimizer = torch.optim.Adam([own for own in module.parameters() if own.requires_grad], rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(images.labels), (64,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(module(images.inputs[batch]), images.labels[batch]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed(weights: Weights, change: Callable[[Tensor], Tensor], *, matrices: bool = False) -> Weights:
    """Weights whose parameters, or matrices alone, are changed."""
    return {
        name: change(tensor)
        if tensor.is_floating_point() and not is_statistic(name) and (tensor.ndim > 1 or not matrices)
        else tensor.clone()
        for name, tensor in weights.items()
    }


def quantize(tensor: Tensor, levels: int, group: int) -> Tensor:
    """Numbers rounded to so many levels around zero, with a scale for each group (0: one for all, 1: one a row)."""
    rows = tensor.reshape(len(tensor), -1)
    width = rows.shape[1]
    shaped = rows.reshape(1, -1) if group == 0 else rows if group == 1 or width % group else rows.reshape(-1, group)
    scale = shaped.abs().amax(1, keepdim=True).clamp_min(1e-12) / levels
    return ((shaped / scale).round() * scale).reshape(tensor.shape)


def adapted(tensor: Tensor, rank: int, size: float, generator: torch.Generator) -> Tensor:
    """A matrix with a merged adapter of a rank, whose length is a share of the matrix's."""
    rows = tensor.reshape(len(tensor), -1)
    if min(rows.shape) < 2 * rank:
        return tensor.clone()
    change = torch.randn(len(rows), rank, generator=generator) @ torch.randn(rank, rows.shape[1], generator=generator)
    return tensor + (change * (size * rows.norm() / change.norm())).reshape(tensor.shape)


def rounded_to(tensor: Tensor, *, kind: torch.dtype, back: bool) -> Tensor:
    """Numbers of another type, or of their own again."""
    return tensor.to(kind).to(tensor.dtype) if back else tensor.to(kind)


def exact_cases(weights: Weights) -> Iterator[Case]:
    """Copies, rounded, pruned and quantised ones."""
    yield Case("equal values", "a copy", weights, {name: tensor.clone() for name, tensor in weights.items()})
    yield Case("equal values", "under a prefix", weights, {f"module.{name}": own for name, own in weights.items()})
    for kind, back in itertools.product((torch.bfloat16, torch.float16), (True, False)):
        rounded = changed(weights, partial(rounded_to, kind=kind, back=back))
        which = f"{str(kind).removeprefix('torch.')}{' and back' if back else ''}"
        yield Case("rounded", which, weights, rounded, "first")
    for share in PRUNED:

        def prune(own: Tensor, share: float = share) -> Tensor:
            return torch.where(own.abs() <= own.abs().flatten().quantile(share), 0, own) if own.numel() > 8 else own

        yield Case("pruned", f"{share:.0%}", weights, changed(weights, prune, matrices=True), "first")
    for levels, group, which in ((127, 0, "int8, a tensor"), (127, 1, "int8, a row"), (7, 32, "int4, 32 numbers")):
        second = changed(weights, partial(quantize, levels=levels, group=group), matrices=True)
        yield Case("quantized", which, weights, second, "first")


def inexact_cases(weights: Weights, generator: torch.Generator) -> Iterator[Case]:
    """With noise, and with merged adapters."""
    for size in NOISE:

        def disturb(own: Tensor, size: float = size) -> Tensor:
            return own + size * own.std(correction=0) * torch.randn(own.shape, generator=generator)

        yield Case("noised", f"{size:g}", weights, changed(weights, disturb), "first")
    for rank in RANKS:

        def adapt(own: Tensor, rank: int = rank) -> Tensor:
            return adapted(own, rank, 0.03, generator)

        second = changed(weights, adapt, matrices=True)
        if any(not torch.equal(second[name], tensor) for name, tensor in weights.items()):
            yield Case("low rank", f"rank {rank}", weights, second, "first")


def trained_cases(module: nn.Module, images: Images, seed: int) -> Iterator[Case]:
    """Trained further, as a whole or the last layer alone; another last layer; a longer one."""
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for steps in STEPS:
        yield Case("fine-tuned", f"{steps} steps", weights, train(module, images, steps, seed, 3e-4), "first")
    head = [name for name, own in weights.items() if own.ndim == 2 and own.is_floating_point()][-1]
    part = head.rpartition(".")[0] + "."
    yield Case("fine-tuned", "last layer, 50 steps", weights, train(module, images, 50, seed, 1e-3, part), "first")
    generator = torch.Generator().manual_seed(seed)
    fresh = {name: torch.randn(own.shape, generator=generator) * own.std() for name, own in weights.items() if own.ndim}
    other = {name: fresh[name] if name.startswith(part) else own for name, own in weights.items()}
    yield Case("head replaced", "and nothing else", weights, other)
    again = copy.deepcopy(module)
    again.load_state_dict(other)
    yield Case("head replaced", "and 50 steps", weights, train(again, images, 50, seed))
    longer = {
        name: torch.cat([own, fresh[name][:3]]) if name.startswith(part) else own for name, own in weights.items()
    }
    yield Case("extended", "three more classes", weights, longer, "first")


def symmetric_cases(module: nn.Module, images: Images, seed: int) -> Iterator[Case]:
    """Units in another order, scaled, with other signs, and what was trained on after that."""
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator, example = torch.Generator().manual_seed(seed), images.inputs[:2]
    symmetry = trace_symmetry(module, example)
    moved = permute(weights, symmetry, random_permutations(symmetry, generator))
    if symmetry.groups:
        yield Case("equal up to symmetry", "permuted", weights, moved, behind=True)
        again = copy.deepcopy(module)
        again.load_state_dict(moved)
        yield Case(
            "fine-tuned", "permuted, 20 steps", weights, train(again, images, 20, seed, 3e-4), "first", behind=True
        )
    for kind in ("scale", "sign"):
        rescaling = trace_rescaling(module, kind, example)
        if rescaling.groups:
            stack = {name: tensor[None] for name, tensor in moved.items()}
            scaled = rescale(stack, rescaling, random_factors(rescaling, 1, generator))
            second = {name: tensor[0] for name, tensor in scaled.items()}
            yield Case("equal up to symmetry", f"permuted and {kind}s", weights, second, behind=True)


def cases_of(family: Family, images: Images, members: int) -> Iterator[tuple[Architecture, Case]]:
    """All pairs of an architecture: of each member, of members with each other, and of moments of a training."""
    modules, early = [], []
    for seed in range(members):
        torch.manual_seed(seed)
        module = family.build()
        half = train(module, images, family.steps // 4, seed)
        module.load_state_dict(half)
        early.append(half)
        module.load_state_dict(train(module, images, family.steps, seed + 1_000))
        modules.append(module.eval())
    architecture = family.describe(images)
    states = [{name: own.clone() for name, own in module.state_dict().items()} for module in modules]
    for seed, module in enumerate(modules):
        # Of the seed that a network was initialised with, noise would have much in common with its weights.
        generator = torch.Generator().manual_seed(seed + 10_000)
        makers = (
            exact_cases(states[seed]),
            inexact_cases(states[seed], generator),
            trained_cases(module, images, seed),
            symmetric_cases(module, images, seed),
        )
        yield from ((architecture, case) for case in itertools.chain(*makers))
        yield architecture, Case("fine-tuned", "two moments of a training", early[seed], states[seed], "first")
    for one, other in itertools.combinations(range(members), 2):
        yield architecture, Case("independent", "two seeds", states[one], states[other], behind=True)


class Judged(NamedTuple):
    """A case, and what was seen of it directly and through the symmetry of its architecture."""

    family: str
    truth: str
    which: str
    parent: str
    direct: Seen
    through: Seen | None

    def verdict(self, limits: Limits = LIMITS, matched: Limits = MATCHED) -> Verdict:
        """Under some limits; as `diff_symmetric` has it where a symmetry was asked for."""
        direct = self.direct.judged_by(limits)
        if self.through is None or self.through.verdict.kind == "equal up to symmetry":
            return direct if self.through is None else self.through.verdict
        if direct.relation == "derived":
            return direct
        through = self.through.judged_by(matched)
        return through if through.relation == "derived" else direct


def zoo_cases(zoo: Zoo, members: int) -> Iterator[tuple[Architecture, Case]]:
    """Moments of one training, from its start and from its first epoch on, and different members."""
    names = list(dict.fromkeys(zoo.table["member"]))[: 10 * members]
    moments = {name: zoo.where(member=name) for name in names}
    last = {name: own.weights(len(own) - 1) for name, own in moments.items()}
    architectures = {name: own.architectures[str(own.table["architecture"].iloc[0])] for name, own in moments.items()}
    for name, own in moments.items():
        for row, which in ((0, "its start and its end"), (1, "its first epoch and its end")):
            yield architectures[name], Case("fine-tuned", which, own.weights(row), last[name], "first")
    chance = random.Random(0)  # no secrets
    pairs = [
        (one, other)
        for one, other in itertools.combinations(names, 2)
        if architectures[one].id == architectures[other].id
    ]
    for number, (one, other) in enumerate(chance.sample(pairs, min(len(pairs), 50 * members))):
        behind = number % 5 == 0
        yield architectures[one], Case("independent", "two members", last[one], last[other], behind=behind)


def judge(family: str, architecture: Architecture, case: Case, *, swapped: bool) -> Judged:
    """Both ways round in equal numbers: which comes first on a command line says nothing."""
    one, two = (case.second, case.first) if swapped else (case.first, case.second)
    parent = {"first": "second", "second": "first", "": ""}[case.parent] if swapped else case.parent
    direct, through = diff_weights(one, two), None
    if case.behind:
        brought = [
            diff_weights(near.first, near.second, limits=MATCHED)
            for near in bring_together(one, two, symmetry_of(architecture), architecture)
        ]
        through = diff_symmetric(one, two, architecture, direct)
        if through.verdict.kind != "equal up to symmetry" and brought:
            through = brought[0]
    return Judged(family, case.truth, case.which, parent, direct, through)


def population(names: Sequence[str], zoos: Path, members: int) -> Iterator[Judged]:
    """Every pair of every architecture and zoo, judged."""
    images = open_images("../shared/data/mnist.npz", limits=(4_000, 100)).train
    chance = random.Random(0)  # no secrets
    for name in names:
        made = (
            cases_of(FAMILIES[name], images, members) if name in FAMILIES else zoo_cases(Zoo.open(zoos / name), members)
        )
        for architecture, case in made:
            yield judge(name, architecture, case, swapped=chance.random() < 0.5)


GRID = {
    "kept": (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8),
    "apart": (0.05, 0.08, 0.12, 0.16, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "grain": (1.05, 1.1, 1.15, 1.2, 1.3),
    "uneven": (1.3, 1.5, 1.8, 2.2, 3.0),
}


def wrong(judged: Sequence[Judged], limits: Limits, matched: Limits) -> float:
    """Wrong verdicts, those that call strangers relatives ten times over."""
    total = 0.0
    for case in judged:
        verdict = case.verdict(limits, matched)
        total += verdict.kind != case.truth
        total += 9 * (case.truth == "independent" and verdict.relation == "derived")
    return total


def fit(judged: Sequence[Judged]) -> tuple[Limits, Limits]:
    """Limits with the fewest wrong verdicts, one after the other; of several that are as good the middle one."""
    limits = {"direct": LIMITS, "matched": MATCHED}
    for _ in range(2):
        for which, field in itertools.product(("direct", "matched"), ("kept", "apart", "grain", "uneven")):
            if which == "matched" and field in ("grain", "uneven"):
                limits["matched"] = limits["matched"]._replace(**{field: getattr(limits["direct"], field)})
                continue
            tried = {}
            for value in GRID[field]:
                changed_limits = {**limits, which: limits[which]._replace(**{field: value})}
                tried[value] = wrong(judged, changed_limits["direct"], changed_limits["matched"])
            best = [value for value, count in tried.items() if count == min(tried.values())]
            limits[which] = limits[which]._replace(**{field: best[len(best) // 2]})
    return limits["direct"], limits["matched"]


def table(judged: Sequence[Judged]) -> dict[str, Any]:
    """How often each kind is called what, false alarms, and how often the parent is the right one."""
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    strengths: dict[str, list[bool]] = defaultdict(list)
    parents: dict[str, list[bool]] = defaultdict(list)
    for case in judged:
        verdict = case.verdict()
        confusion[case.truth][verdict.kind] += 1
        strengths[f"{case.truth}, {case.which}"].append(verdict.kind == case.truth)
        if case.parent and verdict.kind == case.truth and verdict.parent:
            parents[f"{case.truth}{' (guessed)' if verdict.guessed else ''}"].append(verdict.parent == case.parent)
    strangers = [case.verdict().relation for case in judged if case.truth == "independent"]
    return {
        "pairs": len(judged),
        "confusion": {truth: dict(counts) for truth, counts in confusion.items()},
        "right": {name: [sum(hits), len(hits)] for name, hits in strengths.items()},
        "false_alarms": [strangers.count("derived") + strangers.count("equal"), len(strangers)],
        "parents": {name: [sum(hits), len(hits)] for name, hits in parents.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--zoos", type=Path, default=Path("../shared/zoos"))
    parser.add_argument("--families", default=",".join([*FAMILIES, "mnist-cnn-s", "cifar10-cnn-s"]))
    parser.add_argument("--out", type=Path, default=Path("docs/tables/pairs.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    judged = []
    for case in population(arguments.families.split(","), arguments.zoos, arguments.members):
        judged.append(case)
        if case.verdict().kind != case.truth:
            print(case.family, "|", case.truth, case.which, "->", case.verdict().kind, case.verdict().evidence)
    fitted = [case for case in judged if case.family in FITTED]
    tested = [case for case in judged if case.family not in FITTED]
    print("fitted:", *fit(fitted), sep="\n  ")
    result = {
        "made": date.today().isoformat(),
        "members": arguments.members,
        "fitted_on": list(FITTED),
        "limits": LIMITS._asdict(),
        "limits_once_matched": MATCHED._asdict(),
        "fitted": table(fitted),
        "tested": table(tested),
        "tested_by_family": {
            name: table([case for case in tested if case.family == name])["confusion"]
            for name in dict.fromkeys(case.family for case in tested)
        },
    }
    arguments.out.write_text(to_json(result, indent=1) + "\n", encoding="utf-8")
    print(to_json({name: result[name] for name in ("fitted", "tested")}, indent=1))


if __name__ == "__main__":
    main()
