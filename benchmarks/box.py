"""Put trained models into the package, each with a card that says what its embeddings are good for.

    python benchmarks/box.py RUNS PUBLISHED ZOO [ZOO ...]      what benchmarks/box.sh calls

Measured on test members and published ResNets, which no model has seen, beside an untrained model of the same shape and
seven statistics of all weights (mean, standard deviation, quantiles): of how many networks, at their last epoch, is the
nearest other network of the same architecture, and of the same task; and of how many is the nearest checkpoint another
epoch of the same training. small-cnns is measured on its own kind only.
"""

import argparse
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from weightspace.analysis.representations.baselines import QUANTILES, represent_stacks
from weightspace.autoencoder.sane import BOX, SANE
from weightspace.zoo.zoo import Checkpoints, Zoo

WHOLE = ("config.json", "model.safetensors")
PREDICTOR = ("predictor.json", "predictor.safetensors")
# Model -> what it ships beside itself, and what stands in the names of the zoos that it is measured on.
MODELS: dict[str, tuple[tuple[str, ...], str]] = {"small-cnns": (PREDICTOR, "cnn-s"), "any": ((), "")}
PREDICTS = re.compile(r"## What it predicts\n.*?(?=## )", re.DOTALL)


class Measured(NamedTuple):
    """Shares of networks whose nearest one is of the same kind, and how many networks and checkpoints there were."""

    architecture: float
    task: float
    training: float
    networks: int
    checkpoints: int


def measure(features: np.ndarray, table: pd.DataFrame) -> Measured:
    """Nearest neighbours by standardised Euclidean distance."""
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    last = (table["epoch"] == table.groupby("member")["epoch"].transform("max")).to_numpy()
    several = (table.groupby("member")["epoch"].transform("count") > 1).to_numpy()
    nearest_last = nearest(scaled[last], apart=table["member"][last].to_numpy())
    among = nearest(scaled)

    def share(column: str) -> float:
        values = table[column][last].to_numpy()
        return float((values == values[nearest_last]).mean())

    members = table["member"].to_numpy()
    asked = last & several
    kin = float((members == members[among])[asked].mean())
    return Measured(share("family"), share("task"), kin, int(last.sum()), len(table))


def nearest(points: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    """The nearest other point of every point; with `apart`, one of another label."""
    places = torch.from_numpy(points).double()
    distances = torch.cdist(places, places).numpy()
    np.fill_diagonal(distances, np.inf)
    if apart is not None:
        distances[apart[:, None] == apart[None]] = np.inf
    return distances.argmin(1)


def described(zoo: Zoo, name: str) -> pd.DataFrame:
    """Member, epoch, architecture family and task of every checkpoint."""
    task, _, family = name.partition("-")
    family = zoo.table["architecture"].str.extract(r"^((?:cnn-[sl]|resnet18|network))", expand=False)
    return pd.DataFrame(
        {"member": name + "/" + zoo.table["member"], "epoch": zoo.table["epoch"], "family": family, "task": task}
    )


def pooled(piece: Checkpoints) -> torch.Tensor:
    """Mean, standard deviation and quantiles of all weights of every network."""
    floats = [tensor for tensor in piece.stack.values() if tensor.is_floating_point() and tensor[0].numel()]
    values = torch.cat([tensor.reshape(len(piece.table), -1).float() for tensor in floats], dim=1)
    quantiles = np.quantile(values.numpy(), QUANTILES, axis=1).T.astype(np.float32)
    return torch.cat([values.mean(1, keepdim=True), values.std(1, keepdim=True), torch.from_numpy(quantiles)], dim=1)


def card_section(sane: SANE, parts: dict[str, Zoo]) -> str:
    """The section of the card."""
    table = pd.concat([described(zoo, name) for name, zoo in parts.items()], ignore_index=True)
    untrained = sane.untrained()
    ways: dict[str, Callable[[Zoo], np.ndarray]] = {
        "this model": lambda zoo: sane.embed(zoo).features,
        "the same, untrained": lambda zoo: untrained.embed(zoo).features,
        "seven statistics of all weights": lambda zoo: represent_stacks(zoo, "pooled", pooled).features,
    }
    lines = ["| the nearest is of the same | architecture | task | training |", "|---|---|---|---|"]
    for name, way in ways.items():
        found = measure(np.concatenate([way(zoo) for zoo in parts.values()]), table)
        lines.append(f"| {name} | {found.architecture:.0%} | {found.task:.0%} | {found.training:.0%} |")
    return "\n".join([f"{found.networks} networks at their last epoch, {found.checkpoints:,} checkpoints.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("published", type=Path)
    parser.add_argument("zoos", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, (beside, kind) in MODELS.items():
        source, target = given.runs / name, BOX / name
        sane = SANE.open(source)
        zoos = {zoo.name: Zoo.open(zoo) for zoo in given.zoos if kind in zoo.name}
        parts = {zoo: opened.split(0.7, 0.15, 0.15, seed=0)[2] for zoo, opened in zoos.items()}
        if name == "any":
            parts["cifar10-published"] = Zoo.open(given.published)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copytree(source / "preparation", target / "preparation")
        for file in (*WHOLE, *beside):
            shutil.copyfile(source / file, target / file)
        card = (source / "README.md").read_text()
        card = card if beside else PREDICTS.sub("", card)
        card = re.sub(r"(?<=\s)/\S*/(?=[\w-]+(?:\s|$))", "ZOOS/", card)
        section = f"## What its embeddings are good for\n\n{card_section(sane, parts)}\n\n"
        (target / "README.md").write_text(
            card.replace("## What is left of networks", f"{section}## What is left of networks", 1)
        )
        print(name, sum(path.stat().st_size for path in target.rglob("*") if path.is_file()))


if __name__ == "__main__":
    main()
