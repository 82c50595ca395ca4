"""A permuted window by one gather, against permuting the whole network and cutting the window out.

Prints one JSON object: seconds per window of each way (medians, taken in turn in one run), and their ratio.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch

from weightspace.corpus.views import permutation_table
from weightspace.randomness import derive_generator
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.tokens.layout import plan_layout
from weightspace.tokens.tokenizing import flatten_weights, tokenize
from weightspace.zoo.networks import cnn_s

WIDTH, WINDOW, BATCH, ROUNDS = 201, 32, 32, 20


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    module = cnn_s(1)
    weights = dict(module.state_dict())
    symmetry = trace_symmetry(module, torch.zeros(2, 1, 28, 28))
    layout = plan_layout(weights, WIDTH)
    table, whole, flat = permutation_table(layout, symmetry), layout.table(), flatten_weights(weights, layout)
    generator = derive_generator(0)
    token = torch.arange(WINDOW)

    def gathered() -> torch.Tensor:
        index = whole.index[token].expand(BATCH, -1, -1)
        return flat[table.apply(index, table.draw(BATCH, generator))] * whole.mask[token]

    def plain() -> torch.Tensor:
        index = whole.index[token].expand(BATCH, -1, -1)
        return flat[index] * whole.mask[token]

    def copied() -> list[torch.Tensor]:
        made = (permute(weights, symmetry, random_permutations(symmetry, generator)) for _ in range(BATCH))
        return [tokenize(network, layout).values[:WINDOW] for network in made]

    times = [[seconds(work) / BATCH for work in (gathered, plain, copied)] for _ in range(ROUNDS)]
    gather, unpermuted, copy = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        json.dumps(
            {
                "network": "cnn-s",
                "gather_seconds": gather,
                "unpermuted_seconds": unpermuted,
                "copy_seconds": copy,
                "speed_up": copy / gather,
                "cost_over_unpermuted": gather / unpermuted,
            }
        )
    )


if __name__ == "__main__":
    main()
