"""Put trained models into the package, each with a card that says what its embeddings are good for.

    python benchmarks/box.py RUNS ZOO [ZOO ...]      what benchmarks/box.sh calls

Measured on test members, which no model has seen, beside an untrained model of the same shape and
seven statistics of all weights (mean, standard deviation, quantiles): of how many networks, at their last epoch, is the
nearest other network of the same architecture; of the same recipe and seed, trained on another task (members of one
number begin with the same weights in every zoo); and, these apart, of the same task; and of how many is the nearest
checkpoint another epoch of the same training. small-cnns is measured on its own kind only.
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

from weightspace.analysis.predicting.predictor import Predictor
from weightspace.analysis.representations.baselines import QUANTILES, represent_stacks
from weightspace.autoencoder.sane import BOX, SANE
from weightspace.zoo.zoo import Checkpoints, Zoo

WHOLE = ("config.json", "model.safetensors")
# Model -> whether its predictor is shipped too, and what stands in the names of the zoos that it is measured on.
MODELS = {"small-cnns": (True, "cnn-s"), "any": (False, "")}
HEAD = """{networks} networks at their last epoch ({checkpoints:,} checkpoints) of {zoos},
none of which it was trained on. Members of one number begin with the same weights in every zoo, so that the nearest
other network is often the one that was begun alike for another task: the embedding tells **lineage and architecture,
not what a network was trained for**. That a checkpoint is another epoch of the same training, and of which
architecture, an untrained model of the same shape tells as well, by the statistics of tokens that its encoder sees. It
is no measure of whether two networks compute the same: ask them, or align them.

| the nearest is | another epoch of it | begun alike | of its architecture | of its task, those begun alike apart |
|---|---|---|---|---|
"""
PREDICTS = re.compile(r"## What it predicts\n.*?(?=## )", re.DOTALL)


class Measured(NamedTuple):
    """Shares of networks whose nearest one is of the same kind, and how many networks and checkpoints there were."""

    training: float
    begun_alike: float
    architecture: float
    task: float
    networks: int
    checkpoints: int


def measure(features: np.ndarray, table: pd.DataFrame) -> Measured:
    """Nearest neighbours by standardised Euclidean distance."""
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    last = (table["epoch"] == table.groupby("member")["epoch"].transform("max")).to_numpy()
    several = (table.groupby("member")["epoch"].transform("count") > 1).to_numpy()
    others = nearest(scaled[last], apart=table["member"][last].to_numpy())
    strangers = nearest(scaled[last], apart=table["number"][last].to_numpy())

    def share(column: str, neighbors: np.ndarray) -> float:
        values = table[column][last].to_numpy()
        return float((values == values[neighbors]).mean())

    members = table["member"].to_numpy()
    training = float((members == members[nearest(scaled)])[last & several].mean())
    alike, family, task = share("number", others), share("family", others), share("task", strangers)
    return Measured(training, alike, family, task, int(last.sum()), len(table))


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
    task = name.partition("-")[0]
    family = zoo.table["architecture"].str.extract(r"^((?:cnn-[sl]|resnet18|network))", expand=False)
    about = {"number": zoo.table["member"], "epoch": zoo.table["epoch"], "family": family, "task": task}
    return pd.DataFrame({"member": f"{name}/" + zoo.table["member"], **about})


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
    lines = []
    for name, way in ways.items():
        found = measure(np.concatenate([way(zoo) for zoo in parts.values()]), table)
        shares = (found.training, found.begun_alike, found.architecture, found.task)
        lines.append(f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return HEAD.format(**found._asdict(), zoos=", ".join(parts)) + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("zoos", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, (predicts, kind) in MODELS.items():
        source, target = given.runs / name, BOX / name
        sane = SANE.open(source)
        zoos = {zoo.name: Zoo.open(zoo) for zoo in given.zoos if kind in zoo.name}
        parts = {zoo: opened.split(0.7, 0.15, 0.15, seed=0)[2] for zoo, opened in zoos.items()}
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copytree(source / "preparation", target / "preparation")
        for file in WHOLE:
            shutil.copyfile(source / file, target / file)
        card = (source / "README.md").read_text()
        if predicts:
            for asking in (False, True):
                Predictor.open(source, asking=asking).save(target)
        else:
            card = PREDICTS.sub("", card)
        card = re.sub(r"(?<=\s)/\S*/(?=[\w-]+(?:\s|$))", "ZOOS/", card)
        section = f"## What its embeddings are good for\n\n{card_section(sane, parts)}\n\n"
        (target / "README.md").write_text(
            card.replace("## What is left of networks", f"{section}## What is left of networks", 1)
        )
        print(name, sum(path.stat().st_size for path in target.rglob("*") if path.is_file()))


if __name__ == "__main__":
    main()
