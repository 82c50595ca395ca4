"""When can networks be averaged? `python benchmarks/averaging.py [--families A,B] [--out FILE]`.

Pairs whose kinship is known, of MLPs 64 to 1,024 wide, the paper's CNNs, ResNet-18 of width 8 to 32, the zoos, and
fine-tunes of a published ResNet-20: from other seeds, parted after k steps, fine-tunes of one parent, on the same
images or on others. For each: the barrier of every average that `weightspace merge` tries, on test images (nothing is
chosen by them), and what is known of the pair without images. Then how well the barrier of an unseen architecture is
told from that. Families that FILE has already are not measured again. Means go to `docs/tables/averaging.json`.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pairs import OURS, Family, train
from safetensors.torch import load_file

from weightspace.corpus.frame import symmetry_of
from weightspace.corpus.matching_units import match_units
from weightspace.generation.config import MergeConfig
from weightspace.generation.merging import merge
from weightspace.images import Images, ImageSet, open_images
from weightspace.outputs import to_json
from weightspace.responses.asking import Asker, agreement
from weightspace.responses.questions import draw_questions, given_questions
from weightspace.symmetry.axes import Symmetry, permute
from weightspace.symmetry.matching import match_weights, objective
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.zoo import Zoo

ASKED = 128
ZOOS = {
    "mnist-cnn-s": "mnist",
    "usps-cnn-s": "usps",
    "scene_digits-cnn-s": "scene_digits_28",
    "cifar10-cnn-s": "cifar10",
}
PUBLISHED = "published-resnet20"


class Plan(NamedTuple):
    """How the pairs of a family are made: the network, steps of a training, pairs of a kind, images that score."""

    family: Family
    pairs: int
    images: int = 2_000
    parted: tuple[int, ...] = (0, 20, 100)
    long: bool = False
    size: int = 28


def _mlp(width: int, *, long: bool = False) -> Plan:
    return Plan(Family(f"{OURS}:mlp", {"widths": [784, width, width, 10], "activation": "relu"}, 600), 3, long=long)


def _resnet(width: int, pairs: int) -> Plan:
    return Plan(Family(f"{OURS}:resnet18", {"channels": 1, "width": width}, 200), pairs, 500, (0, 20), size=16)


PLANS = {
    "mlp-64": _mlp(64, long=True),
    "mlp-256": _mlp(256, long=True),
    "mlp-1024": _mlp(1_024),
    "cnn-s": Plan(Family(f"{OURS}:cnn_s", {"activation": "relu"}, 600), 3, long=True),
    "cnn-l": Plan(Family(f"{OURS}:cnn_l", {"channels": 1, "activation": "relu"}, 600), 3, size=32),
    "resnet18-w8": _resnet(8, 3),
    "resnet18-w16": _resnet(16, 2),
    "resnet18-w32": _resnet(32, 1),
}


class Pair(NamedTuple):
    """Two networks of one architecture, and how they came about."""

    kinship: str
    first: Weights
    second: Weights


def halves(images: Images) -> tuple[Images, Images]:
    """Every second image, and the others."""
    return Images(images.inputs[::2], images.labels[::2]), Images(images.inputs[1::2], images.labels[1::2])


def pairs_of(plan: Plan, images: Images, others: Images) -> Iterator[Pair]:
    """Pairs of every kinship, trained here."""
    steps, fresh = plan.family.steps, itertools.count(1_000)

    def start(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return plan.family.build()

    def further(weights: Weights, on: Images, count: int) -> Weights:
        module = start(0)
        module.load_state_dict(weights)
        return train(module, on, count, next(fresh))

    for number in range(plan.pairs):
        seeds = 2 * number + 1, 2 * number + 2
        trained = [train(start(seed), images, steps, next(fresh)) for seed in seeds]
        yield Pair("independent", *trained)
        apart = [train(start(seed), half, steps, next(fresh)) for seed, half in zip(seeds, halves(images), strict=True)]
        yield Pair("independent, other images", *apart)
        if plan.long:
            yield Pair("independent, trained 4 times as long", *(further(own, images, 3 * steps) for own in trained))
        for after in plan.parted:
            trunk = train(start(seeds[0]), images, after, next(fresh)) if after else start(seeds[0]).state_dict()
            yield Pair(f"parted after {after} steps", *(further(trunk, images, steps - after) for _ in range(2)))
        yield Pair("fine-tunes of one", *(further(trained[0], images, steps // 3) for _ in range(2)))
        yield Pair(
            "fine-tunes of one, on other digits",
            *(further(trained[0], on, steps // 3) for on in (images, others)),
        )


def pairs_of_zoo(zoo: Zoo, count: int) -> dict[str, list[Pair]]:
    """Pairs of members of each architecture with their last epochs, and of two epochs of one member."""
    found: dict[str, list[Pair]] = {}
    for name in zoo.architectures:
        last = zoo.where(architecture=name).last()
        middle = zoo.where(architecture=name).where(epoch=4)
        good = [
            row
            for row in range(len(last))
            if last.table["test_accuracy"].iloc[row] > 0.5 * last.table["test_accuracy"].max()
        ]
        pairs = [
            Pair("independent", last.weights(one), last.weights(two))
            for one, two in zip(good[::2], good[1::2], strict=False)
        ]
        members = {str(member): row for row, member in enumerate(middle.table["member"])}
        two = [
            Pair("two moments of a training", middle.weights(members[member]), last.weights(row))
            for row in good
            if (member := str(last.table["member"].iloc[row])) in members
        ]
        found[name] = [*pairs[:count], *two[:count]]
    return found


def cosine(first: Weights, second: Weights, symmetry: Symmetry) -> float:
    """Of all parameters that some group moves."""
    lengths = [math.sqrt(objective(own, own, symmetry)) for own in (first, second)]
    return objective(first, second, symmetry) / math.prod(lengths)


def measure(pair: Pair, architecture: Architecture, images: ImageSet, count: int) -> dict[str, Any]:
    """The barriers of a pair, and what is known of it without images."""
    symmetry = symmetry_of(architecture)
    module, parts = architecture.build(), {"first": pair.first, "second": pair.second}
    shape = (2, *images.train.inputs.shape[1:])
    seen = Asker(module, given_questions((images.train.inputs[: MergeConfig().match_on],)))
    noise = Asker(module, draw_questions([shape], count=ASKED))
    config = MergeConfig(images=count)
    rows = [*merge(parts, module, symmetry, seen, images, config).rows]
    by_noise = merge(parts, module, symmetry, noise, images, replace(config, by="activations")).rows
    rows += [row._replace(what=f"{row.what} (noise)") for row in by_noise if row.kind == "average"]
    asked = merge(parts, module, symmetry, noise, None, config).rows
    orders = match_weights(pair.second, pair.first, symmetry, restarts=None)
    aligned = {
        "as they are": pair.second,
        "weights": permute(pair.second, symmetry, orders),
        "activations": permute(pair.second, symmetry, match_units(seen, pair.second, pair.first, symmetry)),
        "activations (noise)": permute(pair.second, symmetry, match_units(noise, pair.second, pair.first, symmetry)),
    }
    responses = [noise.ask(own, keep=True) for own in parts.values()]
    accuracies = [row.score.test_accuracy or 0.0 for row in rows if row.kind == "part"]
    losses = [row.score.test_loss or 0.0 for row in rows if row.kind == "part"]
    return {
        "kinship": pair.kinship,
        "parts": accuracies,
        "ensemble": next(row.score.test_accuracy for row in rows if row.kind == "ensemble"),
        "averages": {row.what: row.score.test_accuracy for row in rows if row.kind == "average"},
        "barriers": {row.what: (row.score.test_loss or 0.0) - sum(losses) / 2 for row in rows if row.kind == "average"},
        "agreement_barriers": {row.what: row.barrier for row in asked if row.kind == "average"},
        "agreement": agreement(*responses),
        "cosines": {name: cosine(own, pair.first, symmetry) for name, own in aligned.items()},
        "objectives": {name: objective(own, pair.first, symmetry) for name, own in aligned.items()},
        "parameters": architecture.parameters,
        "narrowest": min(symmetry.groups.values()),
    }


def families(
    names: Sequence[str], zoos: Path, data: Path, cifar: Path, weights: Path
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every family with its pairs measured."""
    for name in names:
        print(name, flush=True)
        if name in PLANS:
            plan = PLANS[name]
            images = open_images(str(data / "mnist.npz"), size=plan.size, limits=(10_000, plan.images))
            others = open_images(str(data / "usps.npz"), size=plan.size).train
            architecture = plan.family.describe(images.train)
            pairs = {"": list(pairs_of(plan, images.train, others))}
            yield name, [measure(pair, architecture, images, plan.images) for pair in pairs[""]]
        elif name == PUBLISHED:
            yield name, list(published(weights, cifar))
        else:
            zoo = Zoo.open(zoos / name)
            source = cifar if ZOOS[name] == "cifar10" else data / f"{ZOOS[name]}.npz"
            images = open_images(str(source), size=28, limits=(6_250, 2_000))
            yield (
                name,
                [
                    measure(pair, zoo.architectures[key], images, 2_000)
                    for key, pairs in pairs_of_zoo(zoo, 4).items()
                    for pair in pairs
                ],
            )


def published(weights: Path, cifar: Path) -> Iterator[dict[str, Any]]:
    """Fine-tunes of a published ResNet-20, parted for so many steps."""
    family = Family(f"{Path(__file__).resolve().parent / 'published_resnets.py'}:ResNet", {"depth": 20}, 0)
    images = open_images(f"{cifar}@0.485,0.456,0.406/0.229,0.224,0.225", limits=(10_000, 500))
    architecture = family.describe(images.train)
    parent = load_file(weights / "resnet20.safetensors")
    module = family.build()
    module.load_state_dict(parent)
    for steps, rate in ((20, 1e-4), (100, 1e-3)):
        for number in range(2):
            both = [train(module, images.train, steps, 10 * number + own, rate) for own in range(2)]
            yield measure(Pair(f"fine-tunes of one, {steps} steps at {rate:g}", *both), architecture, images, 500)


def architecture_of(family: str) -> str:
    """Zoos are of one architecture; what was fitted on one of them has seen it."""
    return "cnn-s" if family.endswith("cnn-s") else family


def lost(pair: dict[str, Any]) -> float:
    """Accuracy that the average aligned by weights loses, batch norms set anew, to the mean of its parts."""
    ways = ("average, aligned by weights, batch norms set anew", "average, aligned by weights")
    average = next(pair["averages"][way] for way in ways if way in pair["averages"])
    return float(np.mean(pair["parts"]) - average)


def features(pair: dict[str, Any], kinds: Sequence[str]) -> list[float]:
    """What is known of a pair without images."""
    known = {
        "size": [math.log10(pair["parameters"]), math.log2(pair["narrowest"])],
        "weights": [pair["cosines"]["as they are"], pair["cosines"]["weights"]],
        "responses": [pair["agreement"], pair["agreement_barriers"]["average, aligned by weights"]],
    }
    return [value for kind in kinds for value in known[kind]]


PREDICTORS = {
    "the mean of all": (),
    "size and weights": ("size", "weights"),
    "responses": ("responses",),
    "size, weights and responses": ("size", "weights", "responses"),
}


def tell_unseen(pairs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy lost, told for each architecture by those fitted on the others, with intervals of 90 %.

    The width of an interval is the 90 % quantile of errors that the same fit makes on architectures left out in turn
    among those that it was fitted on (conformal prediction, Vovk et al., 2005, by group).
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for family, measured in pairs.items():
        groups.setdefault(architecture_of(family), []).extend(measured)
    told: dict[str, Any] = {}
    for name, kinds in PREDICTORS.items():
        tables = {
            group: (np.array([[1.0, *features(pair, kinds)] for pair in own]), np.array([lost(pair) for pair in own]))
            for group, own in groups.items()
        }
        outcomes = {group: _told(tables, group) for group in groups}
        errors = np.concatenate([outcome[0] for outcome in outcomes.values()])
        targets = np.concatenate([tables[group][1] for group in outcomes])
        told[name] = {
            "r2": 1 - float(np.square(errors).sum() / np.square(targets - targets.mean()).sum()),
            "mean_error": float(np.abs(errors).mean()),
            "width": float(np.mean([outcome[1] for outcome in outcomes.values()])),
            "held": float(np.mean(np.concatenate([np.abs(outcome[0]) <= outcome[1] for outcome in outcomes.values()]))),
            "held_by": {group: float(np.mean(np.abs(errors) <= width)) for group, (errors, width) in outcomes.items()},
        }
    return told


def tell_by_kinship(pairs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What averages lose whose parts have a common past, and others; and whether the bound under which 90 % of those of
    the other architectures are holds for an architecture that is left out.

    The truth of how pairs came about stands for what `weightspace diff` says of them (`benchmarks/pairs.py`).
    """
    told = {}
    for name, strange in (("a common past", False), ("strangers", True)):
        groups: dict[str, list[float]] = {}
        for family, measured in pairs.items():
            losses = [lost(pair) for pair in measured if pair["kinship"].startswith("independent") == strange]
            groups.setdefault(architecture_of(family), []).extend(losses)
        groups = {group: losses for group, losses in groups.items() if losses}
        every = np.concatenate(list(groups.values()))
        held = []
        for group in groups:
            others = np.sort(np.concatenate([own for one, own in groups.items() if one != group]))
            bound = others[min(math.ceil(0.9 * (len(others) + 1)), len(others)) - 1]
            held += [loss <= bound for loss in groups[group]]
        told[name] = {
            "pairs": len(every),
            "mean": float(every.mean()),
            "largest": float(every.max()),
            "below_for_95": float(np.quantile(every, 0.95)),
            "held": float(np.mean(held)),
        }
    return told


def _told(tables: dict[str, tuple[np.ndarray, np.ndarray]], left_out: str) -> tuple[np.ndarray, float]:
    """Errors on an architecture, and half the width of intervals, both from the others."""
    rest = [group for group in tables if group != left_out]
    calibration = np.concatenate([_errors(tables, [one for one in rest if one != group], group) for group in rest])
    rank = math.ceil(0.9 * (len(calibration) + 1)) - 1
    width = float(np.sort(np.abs(calibration))[min(rank, len(calibration) - 1)])
    return _errors(tables, rest, left_out), width


def _errors(tables: dict[str, tuple[np.ndarray, np.ndarray]], fitted: Sequence[str], group: str) -> np.ndarray:
    """Errors on a group of a ridge regression on others, each of which counts alike."""
    inputs, targets = (np.concatenate([tables[one][part] for one in fitted]) for part in (0, 1))
    counts = np.concatenate([np.full(len(tables[one][1]), 1 / len(tables[one][1])) for one in fitted])
    scale = inputs.std(0)
    scale[scale == 0] = 1
    center = inputs.mean(0)
    center[0] = 0
    design = (inputs - center) / scale
    penalty = np.diag([0.0, *[0.1] * (inputs.shape[1] - 1)])
    weighted = design * counts[:, None]
    solution = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ targets)
    return tables[group][1] - ((tables[group][0] - center) / scale) @ solution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join([*PLANS, *ZOOS, PUBLISHED]))
    parser.add_argument("--zoos", type=Path, default=Path("../shared/zoos"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cifar", type=Path, default=Path.home() / ".cache/weightspace/zoos/images/cifar10.npz")
    parser.add_argument("--weights", type=Path, default=Path("../shared/weights/akamaster_cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/averaging.json"), help="every pair")
    parser.add_argument("--table", type=Path, default=Path("docs/tables/averaging.json"), help="means over pairs")
    parser.add_argument(
        "--join", type=Path, nargs="*", default=[], help="files of other runs, whose families are added"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(options.out.read_text()) if options.out.is_file() else {"families": {}}
    for file in options.join:
        result["families"] |= json.loads(file.read_text())["families"]
    names = [name for name in options.families.split(",") if name and name not in result["families"]]
    for name, pairs in families(names, options.zoos, options.data, options.cifar, options.weights):
        result["families"][name] = pairs
        write(result, options.out)
    if len({architecture_of(name) for name in result["families"]}) > 2:
        result["told"] = tell_unseen(result["families"])
        result["by_kinship"] = tell_by_kinship(result["families"])
    write(result, options.out)
    told = {name: result[name] for name in ("told", "by_kinship") if name in result}
    write({"families": {name: summarize(pairs) for name, pairs in result["families"].items()}, **told}, options.table)


def summarize(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The means over pairs of each kinship, for the documentation."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault(pair["kinship"], []).append(pair)
    return [
        {
            "kinship": kinship,
            "pairs": len(alike),
            "parts": [float(np.mean([pair["parts"] for pair in alike]))],
            "ensemble": float(np.mean([pair["ensemble"] for pair in alike])),
            "objectives": float(np.mean([p["objectives"]["activations"] / p["objectives"]["weights"] for p in alike])),
            **{table: _means([pair[table] for pair in alike]) for table in ("averages", "barriers")},
        }
        for kinship, alike in groups.items()
    ]


def _means(tables: list[dict[str, float]]) -> dict[str, float]:
    return {way: float(np.mean([table[way] for table in tables])) for way in tables[0]}


def write(result: dict[str, Any], path: Path) -> None:
    """The result, with the day on which it was made; numbers of five digits."""
    result["made"] = date.today().isoformat()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(_short(result), indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
