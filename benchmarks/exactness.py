"""How exact a reconstruction of a zoo's networks has to be, layer by layer, and how many numbers its rows take.

First: accuracy of held-out networks whose weights are replaced by what an autoencoder of a given R² would give
(shrunk, with noise, within each network's own tensors), in one layer at a time and in all. Then: the share of the
variance of the training networks' rows that a quarter, a half and three quarters as many principal components as a
row has entries keep. Prints one JSON object as its last line; takes about a minute.

    python benchmarks/exactness.py ZOO --data mnist.npz --limits 6250 2000
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from weightspace.images import Images, open_images
from weightspace.supervised import score_stack, stack_weights
from weightspace.weights.values import Weights
from weightspace.zoo.zoo import Zoo

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SHARES = (0.25, 0.5, 0.75)


def blurred(values: Tensor, r2: float) -> Tensor:
    """Values as a code of this R² would give them back."""
    if values.numel() < 2:
        return values
    noise = torch.randn_like(values) * values.std() * (r2 * (1 - r2)) ** 0.5
    return values.mean() + r2 * (values - values.mean()) + noise


def accuracy(zoo: Zoo, images: Images, layer: str, r2: float) -> float:
    """Mean accuracy with the tensors of one layer blurred; of all for an empty name."""
    groups: dict[str, list[Weights]] = {}
    for row in range(len(zoo)):
        own = {name: blurred(t, r2) if name.startswith(layer) else t for name, t in zoo.weights(row).items()}
        groups.setdefault(str(zoo.table["architecture"].iloc[row]), []).append(own)
    scored = [
        score_stack(zoo.architectures[name].build(), stack_weights(own), images).accuracy
        for name, own in groups.items()
    ]
    return float(torch.cat(scored).mean())


def components(rows: Tensor) -> list[float]:
    """Shares of the variance that few principal components keep."""
    spectrum = torch.linalg.svdvals((rows - rows.mean(0)).double()).square()
    kept = spectrum.cumsum(0) / spectrum.sum()
    return [float(kept[max(0, round(share * rows.shape[1]) - 1)]) for share in SHARES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limits", type=int, nargs=2, default=(None, None))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = open_images(options.data, limits=tuple(options.limits)).validation
    train, _, test = Zoo.open(options.zoo).split(0.7, 0.15, 0.15, seed=0)
    weights = [name for name in next(iter(train.architectures.values())).shapes if name.endswith("weight")]
    layers = {name: name.removesuffix("weight") for name in weights}
    results = {
        "accuracy": accuracy(test.last(), images, "", 1.0),
        "blurred": {
            str(r2): {name: accuracy(test.last(), images, layer, r2) for name, layer in {**layers, "all": ""}.items()}
            for r2 in LEVELS
        },
        "components": {
            name: components(torch.cat([piece.stack[name].flatten(0, 1).flatten(1) for piece in train.stacks()]))
            for name in weights
        },
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
