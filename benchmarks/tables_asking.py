"""The tables of asking networks, beside those of reading them; see tables_reading.sh, which runs this.

`inputs`: how many inputs are enough, and of which kind. `stress`: whose predictions move when test members are
permuted, or rescaled where it keeps the function. `forecast`: the last accuracy from the first checkpoints. Accuracies
alone are probed for, on the folds of the other tables.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables_reading import FOLDS, MODELS, SEED, SHARES, SMALL, ZOOS, Setting, rows_of, write

from weightspace.analysis.config import ForecastConfig
from weightspace.analysis.forecasting import forecast
from weightspace.analysis.probing.probe import ProbeResult, probe_fold
from weightspace.analysis.probing.regressions import ProbeModel
from weightspace.analysis.representations.baselines import layer_statistics
from weightspace.analysis.representations.catalog import represent
from weightspace.analysis.representations.responses import network_responses
from weightspace.errors import InputError
from weightspace.randomness import derive_generator
from weightspace.responses.config import AskConfig
from weightspace.responses.summarizing import OUTPUT_STATISTICS, UNIT_STATISTICS
from weightspace.symmetry.axes import Symmetry, permute, random_permutations
from weightspace.symmetry.homogeneity import trace_rescaling
from weightspace.symmetry.rescaling import rescale
from weightspace.symmetry.tracing import trace_symmetry
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import PLACE_COLUMNS, Zoo

TARGET = "test_accuracy"
COUNTS = (16, 32, 64, 128, 256)
# The images of a zoo's own task, and of another one of the same size.
IMAGES = {"mnist-cnn-s": ("mnist", "usps"), "usps-cnn-s": ("usps", "mnist")}
CHANGES = ("none", "permuted", "permuted and rescaled")
STRESSED = ("W", "s(W)", "r(W)", "t(W)", "untrained", "mean", "readout", "readout+r(W)")
Row = dict[str, Any]


def inputs(setting: Setting, name: str, data: Path) -> list[Row]:
    """r(W) of 16 to 256 noise inputs; and of 128 of one kind: white noise, smooth noise, images of another task or of
    the zoo's own.
    """
    zoo = setting.zoo(name)
    asked = {f"{count} noise inputs": asking(zoo, AskConfig(inputs=count)) for count in COUNTS}
    both = asking(zoo, AskConfig(inputs=256))
    for kind, label in enumerate(("128 of white noise", "128 of smooth noise")):
        asked[label] = of_kind(both, kind)
    task, other = IMAGES[name]
    for source, label in ((other, "128 images of another task"), (task, "128 images of its task")):
        asked[label] = asking(zoo, AskConfig(inputs=128, ask_with=str(data / f"{source}.npz")))
    return probed(setting, name, {"s(W)": layer_statistics(zoo), **asked})


def asking(zoo: Zoo, config: AskConfig) -> Embeddings:
    return network_responses([zoo], config)[0]


def of_kind(both: Embeddings, kind: int) -> Embeddings:
    """The columns of r(W) that are of one of the two kinds of noise."""
    units, outputs = len(UNIT_STATISTICS), len(OUTPUT_STATISTICS)
    width = both.features.shape[1]
    place = np.arange(width - 1)
    hidden = place < width - 1 - 2 * outputs
    own = np.where(hidden, place // units % 2, (place - (width - 1 - 2 * outputs)) // outputs) == kind
    return replace(both, features=both.features[:, np.flatnonzero(own)])


def probed(setting: Setting, name: str, representations: dict[str, Embeddings]) -> list[Row]:
    """Rows for every representation of a whole zoo, pooled and last epochs, by lines and by trees."""
    rows, last = [], int(setting.zoo(name).table["epoch"].max())
    for model in MODELS:
        for epoch in ("all", last):
            results: dict[str, list[ProbeResult]] = {}
            for label, whole in representations.items():
                for fold in range(FOLDS):
                    parts = [part_of(whole, part) for part in setting.parts(name, fold)]
                    parts = parts if epoch == "all" else [part.last_epochs() for part in parts]
                    results.setdefault(label, []).append(probe_fold(parts, target=TARGET, model=model, seed=SEED))
            rows += rows_of(results, zoo=name, epoch=epoch, model=model)
    return rows


def part_of(whole: Embeddings, part: Zoo) -> Embeddings:
    keep = whole.table["member"].isin(part.members).to_numpy()
    return Embeddings(whole.features[keep], whole.table[keep], Representation(whole.representation.label))


def stress(setting: Setting, name: str, data: Path) -> list[Row]:
    """How far predictions for test members move, and R², when these are permuted at random, and where they may be,
    rescaled by factors in [0.1, 10].
    """
    results: dict[tuple[str, ProbeModel], dict[str, list[ProbeResult]]] = {}
    for fold in range(FOLDS):
        train, validation, test = setting.parts(name, fold)
        with tempfile.TemporaryDirectory() as folder:
            tests = [disturbed(test, change, Path(folder) / change) for change in CHANGES]
            for representation in STRESSED:
                fitted, chosen, *moved = represent(
                    [train, validation, *tests], representation, setting.sane(name, fold)
                )
                for change, part in zip(CHANGES, moved, strict=True):
                    for model in MODELS:
                        parts = [each.forgetting() for each in (fitted, chosen, part)]
                        result = probe_fold(parts, target=TARGET, model=model, seed=SEED)
                        by_label = results.setdefault((change, model), {})
                        by_label.setdefault(part.representation.label, []).append(result)
    rows = []
    for (change, model), by_label in results.items():
        for row in rows_of(by_label, zoo=name, epoch="all", model=model):
            label = row["representation"]
            before, after = (
                np.concatenate([one.predicted for one in results[key, model][label]]) for key in (CHANGES[0], change)
            )
            rows.append({"change": change, **row, "moved": float(np.abs(after - before).mean())})
    return rows


def disturbed(zoo: Zoo, change: str, folder: Path) -> Zoo:
    """The same networks with units in another order and of other scales."""
    if change == "none":
        return zoo
    writer = ZooWriter(folder)
    for piece in zoo.stacks():
        how = Disturbance(piece.architecture, rescaled="rescaled" in change)
        changed = [
            how.apply({key: tensor[row] for key, tensor in piece.stack.items()}, str(member))
            for row, member in enumerate(piece.table["member"])
        ]
        stack = {key: torch.stack([weights[key] for weights in changed]) for key in piece.stack}
        places = [column for column in PLACE_COLUMNS if column not in ("member", "epoch")]
        writer.add(piece.architecture, stack, piece.table.drop(columns=places))
    writer.finish({})
    moved = Zoo.open(folder)
    order = moved.table.set_index(["member", "epoch"]).index.get_indexer(zoo.table.set_index(["member", "epoch"]).index)
    return replace(moved, table=moved.table.iloc[order])


class Disturbance:
    """Permutes networks of an architecture, and rescales them where that keeps their function; alike over epochs."""

    def __init__(self, architecture: Architecture, *, rescaled: bool) -> None:
        module, given = architecture.build(), architecture.inputs()
        self.symmetry: Symmetry = trace_symmetry(module, *given.positional)
        self.rescaling = trace_rescaling(module, "scale", *given.positional) if rescaled else None

    def apply(self, weights: Weights, member: str) -> Weights:
        generator = derive_generator(SEED, "stress", member)
        weights = permute(weights, self.symmetry, random_permutations(self.symmetry, generator))
        if self.rescaling is None or not self.rescaling.groups:
            return weights
        factors = {
            group: 10 ** (2 * torch.rand(1, size, generator=generator, dtype=torch.float64) - 1)
            for group, size in self.rescaling.groups.items()
        }
        scaled = rescale({name: tensor[None] for name, tensor in weights.items()}, self.rescaling, factors)
        return {name: tensor[0] for name, tensor in scaled.items()}


def ends(setting: Setting, name: str, data: Path) -> list[Row]:
    """How well the last accuracy is told by the first checkpoints, by lines."""
    rows = forecast(setting.zoo(name), ForecastConfig(split=SHARES, seed=SEED))
    return [{"zoo": name, "model": "linear", **row._asdict()} for row in rows]


TABLES: dict[str, tuple[Callable[[Setting, str, Path], list[Row]], tuple[str, ...]]] = {
    "inputs": (inputs, tuple(IMAGES)),
    "stress": (stress, SMALL[:2]),
    "forecast": (ends, tuple(zoo for zoo in ZOOS if zoo != "cifar10-resnet18w8")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"{', '.join(TABLES)}; all if none is named")
    for name in ("zoos", "models", "out", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(options.zoos, options.models)
    for table in options.tables or TABLES:
        if table not in TABLES:
            raise InputError(f"expected a table among {', '.join(TABLES)}, found {table}")
        compute, zoos = TABLES[table]
        for name in zoos:
            path = options.out / f"reading-{table}-{name}.json"
            if not path.exists():
                write(path, compute(setting, name, options.data), setting, [name], table)


if __name__ == "__main__":
    main()
