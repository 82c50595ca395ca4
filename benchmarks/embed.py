"""Embedding a ResNet-18 in haloed windows, against one pass over its whole sequence, and published networks.

The straightforward way encodes all tokens at once, at quadratic cost; it is timed on the first eighth and the first
quarter of the sequence, and a time of the form a N + b N² through both is extrapolated to its whole length. Both run
an untrained model of our default shape on one thread. With `--networks`, every weight file of a folder is embedded.
Prints one JSON object as its last line; takes about a minute.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from plain import PlainSANE, plain_tokenize

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import Network
from weightspace.autoencoder.provenance import Provenance
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.preparation import Preparation
from weightspace.weights.files import open_weights, write_weights
from weightspace.zoo.growing.networks import resnet18

WIDTH = 288
Style = Literal["rows", "packed"]
STYLES: tuple[Style, ...] = ("rows", "packed")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def untrained(style: Style, window: int) -> SANE:
    config = PreparationConfig(token_width=WIDTH, token_style=style)
    network = Network(SANEConfig(), config.token_width, window=window).eval()
    provenance = Provenance(training=TrainConfig())
    return SANE(network=network, preparation=Preparation(config=config), provenance=provenance)


def whole_sequence(weights: dict[str, torch.Tensor]) -> dict[str, float]:
    config = SANEConfig()
    tokens, _, positions = plain_tokenize(weights, WIDTH)
    model = PlainSANE(WIDTH, config.model_width, config.layers, config.heads, config.latent_width, 1, len(tokens))

    def encode(share: int) -> float:
        count = len(tokens) // share
        with torch.inference_mode():
            return seconds(lambda: model.encode(tokens[None, :count], positions[None, :count]).mean(1))

    encode(16)
    eighth, quarter = (statistics.median(encode(share) for _ in range(3)) for share in (8, 4))
    # a N + b N²: twice the length costs 2 a N + 4 b N².
    square = (quarter - 2 * eighth) / 2
    linear = eighth - square
    return {"tokens": len(tokens), "eighth": eighth, "quarter": quarter, "whole_extrapolated": 8 * linear + 64 * square}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, help="a folder of weight files to embed as well")
    parser.add_argument("--window", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = {name: tensor.detach() for name, tensor in resnet18().state_dict().items()}
    results: dict[str, Any] = {"straightforward": whole_sequence(weights)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.safetensors"
        write_weights(path, weights)
        for style in STYLES:
            sane = untrained(style, options.window)
            own = statistics.median(seconds(partial(sane.embed_network, open_weights(path))) for _ in range(3))
            ratio = results["straightforward"]["whole_extrapolated"] / own
            count = sane.embed_network(weights).weights
            results[style] = {"seconds": own, "weights_per_second": count / own, "speed_up": ratio}
    if options.networks:
        started = time.perf_counter()
        table = untrained("rows", options.window).embed_files([options.networks]).table
        results["networks"] = {"count": len(table), "weights": int(table["weights"].sum())}
        results["networks"]["seconds"] = time.perf_counter() - started
    print(json.dumps(results))


if __name__ == "__main__":
    main()
