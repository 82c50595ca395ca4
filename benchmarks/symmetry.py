"""Permuted windows and matching, against straightforward implementations of the published method.

The straightforward way permutes a whole network tensor by tensor, tokenises all of it and cuts the window out;
and it matches one network at a time, all groups in every sweep, in random order, until a sweep changes nothing.
Both are in `plain.py`. Everything runs in one
single-threaded process, in turn. Prints one JSON object as its last line; takes about two minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from plain import plain_match, plain_permute, plain_tokenize
from torch import Tensor, nn

from weightspace.autoencoder.training.config import TrainConfig
from weightspace.corpus.gathering import window_gather
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import Permutations, permute, random_permutations
from weightspace.symmetry.matching import match_stack, match_weights, objective
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.tokens.layout import plan_layout
from weightspace.tokens.tokenizing import flatten_weights
from weightspace.zoo.growing.networks import cnn_s, resnet18
from weightspace.zoo.zoo import Zoo

BATCH = TrainConfig().batch_size


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """The median time of each, taken in turn."""
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def windows(module: nn.Module, example: Tensor, width: int, window: int, rounds: int) -> dict[str, float]:
    """A permuted window by gathering, against permuting and tokenising the network, and against a plain window."""
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    symmetry = trace_symmetry(module, example)
    layout = plan_layout(weights, width)
    table = window_gather(layout, symmetry)
    flat = flatten_weights(weights, layout)[None].repeat(BATCH, 1)
    generator, first = derive_generator(0), np.arange(BATCH) * layout.size

    def tokens() -> np.ndarray:
        start = torch.randint(len(layout) - window + 1, (BATCH, 1), generator=generator)
        return (start + torch.arange(window)).numpy()

    def permuted() -> Tensor:
        token = tokens()
        return table.gather(flat, token, first, table.draw(token, generator))

    def unpermuted() -> Tensor:
        return table.gather(flat, tokens(), first)

    def copied() -> Tensor:
        moved = plain_permute(weights, symmetry, random_permutations(symmetry, generator))
        return plain_tokenize(moved, width)[0][:window]

    own, plain, copy = medians([permuted, unpermuted, copied], rounds)
    return {
        "microseconds": 1e6 * own / BATCH,
        "straightforward_microseconds": 1e6 * copy,
        "speed_up": copy / (own / BATCH),
        "cost_over_unpermuted": own / plain,
    }


def matching_of_a_zoo(members: int, folder: Path | None) -> dict[str, float]:
    """Stacked matching of many small networks, against one at a time."""
    symmetry = trace_symmetry(cnn_s(1), torch.zeros(2, 1, 28, 28))
    if folder is None:
        networks = [{name: t.detach() for name, t in cnn_s(1).state_dict().items()} for _ in range(members + 1)]
    else:
        last = Zoo.open(folder).last()
        networks = [last.weights(number) for number in range(len(last))]
    reference, *others = networks
    stack = {name: torch.stack([weights[name] for weights in others]) for name in reference}
    generator = derive_generator(1)

    def one_by_one() -> list[Permutations]:
        return [plain_match(weights, reference, symmetry, generator) for weights in others]

    own, plain = medians([lambda: match_stack(stack, reference, symmetry), one_by_one], 3)
    found = match_stack(stack, reference, symmetry)
    ours = [{group: rows[number] for group, rows in found.items()} for number in range(len(others))]
    reached = [
        statistics.mean(
            objective(permute(weights, symmetry, own), reference, symmetry)
            for weights, own in zip(others, each, strict=True)
        )
        for each in (ours, one_by_one())
    ]
    return {
        "networks": len(others),
        "milliseconds": 1e3 * own / len(others),
        "straightforward_milliseconds": 1e3 * plain / len(others),
        "speed_up": plain / own,
        "objective": reached[0],
        "straightforward_objective": reached[1],
    }


def matching_of_resnets(rounds: int) -> dict[str, float]:
    """One pair of ResNet-18 at a time; the straightforward way with a random order of its own each time."""
    symmetry = trace_symmetry(resnet18(), torch.zeros(2, 3, 32, 32))
    times: list[tuple[float, float]] = []
    reached: list[tuple[float, float]] = []
    for number in range(rounds):
        reference, weights = ({name: t.detach() for name, t in resnet18().state_dict().items()} for _ in range(2))
        started = time.perf_counter()
        ours = match_weights(weights, reference, symmetry)
        middle = time.perf_counter()
        plain = plain_match(weights, reference, symmetry, derive_generator(number))
        times.append((middle - started, time.perf_counter() - middle))
        mine, other = (objective(permute(weights, symmetry, own), reference, symmetry) for own in (ours, plain))
        reached.append((mine, other))
    own, plain = (statistics.median(column) for column in zip(*times, strict=True))
    ours, theirs = (statistics.mean(column) for column in zip(*reached, strict=True))
    return {
        "seconds": own,
        "straightforward_seconds": plain,
        "speed_up": plain / own,
        "objective": ours,
        "straightforward_objective": theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=200, help="networks in the zoo that is matched")
    parser.add_argument("--zoo", type=Path, help="a zoo of cnn-s to match instead of freshly initialised ones")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of ResNet-18")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {
        "windows_cnn_s": windows(cnn_s(1), torch.zeros(2, 1, 28, 28), 201, 32, 30),
        "windows_resnet18": windows(resnet18(), torch.zeros(2, 3, 32, 32), 288, 64, 8),
        "matching_cnn_s": matching_of_a_zoo(options.members, options.zoo),
        "matching_resnet18": matching_of_resnets(options.pairs),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
