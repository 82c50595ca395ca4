"""The paper's tables on the paper's kind of population: members that differ in their seed alone; see seeds.sh.

    population  what the zoos are: recipe and test accuracy, epoch by epoch
    reading     tables 1 and 9 to 12: R² of what lines and trees read, over all epochs and at the last
    writing     table 3: networks generated, and trained for 0, 1, 5 and 25 epochs
    views       table 6: alignment and permuted views
    halo        table 7, as far as networks without batch norms go: windows with context, and without

Members are split 70 / 15 / 15; models are trained on training members alone. What is there already is kept, row by row,
so that what was stopped goes on. `docs/update_seeds.py` puts the published figures (`docs/tables/published-*.json`)
beside these.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import numpy as np
import tables_reading
import tables_writing
import torch
from tables_writing import BOOTSTRAPPED, DRAWS, PLAIN, SAMPLER, SHAPE, SUBSAMPLED, Method, Setting, without_halo

from weightspace.analysis.probing.comparing import compare_representations
from weightspace.analysis.probing.folding import make_folds
from weightspace.analysis.representations import catalog
from weightspace.analysis.representations.catalog import Choice
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.reconstructing import reconstruct
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.views import Views
from weightspace.evaluation import controls
from weightspace.evaluation.comparing import Competitors, compare_with_controls
from weightspace.evaluation.config import EvaluateConfig
from weightspace.generation.config import SelectConfig
from weightspace.generation.samplers.gaussian import RandomLatents
from weightspace.generation.samplers.kernel_density import published_sampler
from weightspace.outputs import hash_input, partial_path, to_json
from weightspace.tokens.tokenizing import scatter_tokens
from weightspace.zoo.zoo import Zoo

ZOOS = ("mnist-cnn-s-seed", "usps-cnn-s-seed", "cifar10-cnn-l-seed")
SEED, SHARES = tables_writing.SEED, tables_writing.SHARES
READ = ("W", "s(W)", "r(W)", "t(W)", "mean", "sequence", "readout", "readout+r(W)", "untrained")
# Twice as many as SANE is pre-trained and distilled with; the 300 of the other pages are far too few.
HYPER_STEPS = 3_000
# The zoo's own learning rate.
TUNED = EvaluateConfig(epochs=(0, 1, 5, 25), learning_rate=1e-3, seed=SEED)
VIEWED = TrainConfig(steps=500, statistics_weight=0.0, seed=SEED)
WINDOW = 32
Row = dict[str, Any]
# What tells a row from others of its table, and what computes rows that have it.
Job = tuple[Row, Callable[[], list[Row]]]


def trained_once(
    out: Path, members: Zoo, shape: SANEConfig, training: TrainConfig, preparation: PreparationConfig | None = None
) -> SANE:
    """A model that is kept in a folder, and goes on where it was interrupted."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        existing: Literal["refuse", "resume"] = "resume" if partial_path(out).exists() else "refuse"
        pretrain(members, shape, training, preparation, out=out, existing=existing)
    return SANE.open(out)


def population(setting: Setting, name: str) -> Iterator[Job]:
    """Test accuracy over members at every epoch kept, and what they were grown with."""

    def compute() -> list[Row]:
        zoo = setting.zoo(name)
        manifest = json.loads((zoo.folder / "manifest.json").read_text())["configuration"]
        fields = ("learning_rate", "weight_decay", "activation", "initialization", "optimizer", "batch_size", "epochs")
        counts = zoo.about["images"]["counts"]
        recipe = ", ".join(f"{field.replace('_', ' ')} {manifest[field]}" for field in fields)
        recipe += "; " + ", ".join(f"{count:,} {part}" for part, count in counts.items()) + " images"
        architecture = zoo.architectures[str(zoo.table["architecture"].iloc[0])]
        about = {"members": len(zoo.members), "architecture": architecture.id, "parameters": architecture.parameters}
        rows = []
        for epoch, own in zoo.table.groupby("epoch"):
            shares = own["test_accuracy"].quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
            names = ("lowest", "quarter", "median", "three_quarters", "highest")
            row = {**dict(zip(names, shares, strict=True)), "gap": float(own["generalization_gap"].median())}
            rows.append({**about, "recipe": recipe, "epoch": int(epoch), **row})
        return rows

    yield {"zoo": name}, compute


def reading(setting: Setting, name: str) -> Iterator[Job]:
    """Every representation by lines and by trees; one split, as the paper has."""
    yield {"zoo": name}, lambda: read(setting, name, READ)
    yield {"zoo": name, "hyper_steps": HYPER_STEPS}, lambda: read(setting, name, ["hyper"])


def read(setting: Setting, name: str, representations: Sequence[str]) -> list[Row]:
    zoo, train = setting.zoo(name), setting.parts(name)[0]
    sane = trained_once(setting.models / f"{name}-reading", train, SANEConfig(), tables_reading.TRAINING)
    (fold,) = make_folds(zoo, SHARES, [sane], Choice(representations), folds=1, seed=SEED)
    fold = fold._replace(representations=[tables_reading.computed_once(one) for one in fold.representations])
    rows = []
    with patch.object(catalog, "HYPER_STEPS", HYPER_STEPS):
        for model in tables_reading.MODELS:
            compared = compare_representations([fold], tables_reading.TARGETS, model=model, seed=SEED)
            rows += [{"model": model, **row} for row in tables_reading.named(compared, name, zoo)]
    return rows


class Recipe(NamedTuple):
    """A published method, and how many of the best training members it samples around."""

    method: Method
    anchors: int


def writing(setting: Setting, name: str) -> Iterator[Job]:
    """Pre-trained on the first half of the epochs, prompted with the best 30 % at the last, and every control."""

    def compute() -> list[Row]:
        sane, train = setting.distilled(name), setting.parts(name)[0]
        many, few = round(0.3 * len(train.members)), tables_writing.ANCHORS
        recipes = {
            "SANE_SUB": Recipe(Method(sane, SAMPLER, SUBSAMPLED), many),
            "SANE_KDE30": Recipe(Method(sane, SAMPLER, PLAIN), many),
            "SANE_BOOT": Recipe(Method(sane, SAMPLER, BOOTSTRAPPED), many),
            "SANE_GAUSS": Recipe(Method(sane, RandomLatents(), SelectConfig(draws=DRAWS, rounds=5)), many),
            "SANE_KDE30, published sampler": Recipe(Method(sane, published_sampler(), PLAIN), many),
            "SANE, best of 50 around the 10 best": Recipe(Method(sane, SAMPLER, SUBSAMPLED), few),
        }
        images = setting.images(name)
        generated = {
            label: one.method.make(tables_writing.anchors_of(train, one.anchors), images)
            for label, one in recipes.items()
        }
        competitors = Competitors(sane, train, tables_writing.anchors_of(train, few), generated, SUBSAMPLED)
        rows = compare_with_controls(competitors, images, TUNED).rows
        return [
            {"anchors": recipes[row.method].anchors if row.method in recipes else few, **row.to_json()} for row in rows
        ]

    yield {"zoo": name}, compute
    # A control, for tables that were made before it was one; and one that is trained.
    yield {"zoo": name, "key": "shrunk"}, lambda: one_control(setting, name, "shrunk", TUNED)
    tuned = replace(TUNED, hyper_steps=HYPER_STEPS)
    yield {"zoo": name, "hyper_steps": HYPER_STEPS}, lambda: one_control(setting, name, "hyper", tuned)


def one_control(setting: Setting, name: str, key: str, config: EvaluateConfig) -> list[Row]:
    """The networks of one control alone; the hyper-representation is trained for as long as SANE was."""
    sane, train = setting.distilled(name), setting.parts(name)[0]
    anchors, images = tables_writing.anchors_of(train), setting.images(name)
    many = tables_writing.anchors_of(train, round(0.3 * len(train.members)))
    generated = {"SANE_SUB": Method(sane, SAMPLER, SUBSAMPLED).make(many, images)}
    with patch.dict(controls.CONTROLS, {key: controls.CONTROLS[key]}, clear=True):
        competitors = Competitors(sane, train, anchors, generated, SUBSAMPLED)
        rows = compare_with_controls(competitors, images, config).rows
    return [{"anchors": len(anchors), **row.to_json()} for row in rows if row.key == key]


def views(setting: Setting, name: str) -> Iterator[Job]:
    """Reconstruction error per weight on training batches, as they were drawn, and on test members as prepared."""
    for aligned, first, second in ((False, True, True), (True, True, True), (True, False, True), (True, False, False)):
        key = {"zoo": name, "aligned": aligned, "view_1": permuted(first), "view_2": permuted(second)}

        def compute(aligned: bool = aligned, first: bool = first, second: bool = second) -> list[Row]:
            train, _, test = setting.parts(name)
            out = setting.models / f"{name}-views-{aligned:d}{first:d}{second:d}"
            with patch("weightspace.autoencoder.training.feeding.Views", views_of(first, second)):
                sane = trained_once(out, train, SANEConfig(), VIEWED, PreparationConfig(align=aligned))
            history = json.loads((out / "history.json").read_text())
            errors = [row["reconstruction"] for row in history[-5:]]
            return [{"training": float(np.mean(errors)), "test": error_per_weight(sane, test)}]

        yield key, compute


def permuted(yes: bool) -> str:
    return "permuted" if yes else "as prepared"


def views_of(first: bool, second: bool) -> Callable[..., Views]:
    """Views of which the first may be permuted too, which training has no setting for."""
    return lambda **fields: Views(**{**fields, "permuted": (first, second)})


def error_per_weight(sane: SANE, zoo: Zoo) -> float:
    """Mean squared error of standardised weights, over a zoo of one architecture."""
    architecture = zoo.architectures[str(zoo.table["architecture"].iloc[0])]
    layout = sane.preparation.frame_of(architecture).layout
    pairs = reconstruct(sane, [zoo.weights(row) for row in range(len(zoo))], architecture)
    true, decoded = (
        torch.stack([scatter_tokens(getattr(pair, which), layout) for pair in pairs])
        for which in ("original_tokens", "decoded_tokens")
    )
    return float((true - decoded).square().mean())


def halo(setting: Setting, name: str) -> Iterator[Job]:
    """Windows shorter than the network: coded with context, and without."""

    def compute() -> list[Row]:
        train, images = setting.parts(name)[0], setting.images(name)
        before, out = setting.models / f"{name}-windows", setting.models / f"{name}-windows-distilled"
        trained_once(before, train, SHAPE, replace(tables_writing.TRAINING, window=WINDOW), tables_writing.PREPARATION)
        if not out.exists():
            distill(before, tables_writing.trained(train), images.train, tables_writing.DISTILLING, out=out)
        sane, anchors = SANE.open(out), tables_writing.anchors_of(train)
        method = Method(sane, SAMPLER, PLAIN)
        generated = {"haloed": method.make(anchors, images, 10)}
        with patch("weightspace.autoencoder.coding.cut_windows", without_halo):
            generated["naive"] = method.make(anchors, images, 10)
        competitors = Competitors(sane, train, anchors, generated, PLAIN)
        config = EvaluateConfig(epochs=(0, 5), learning_rate=1e-3, full_length=5, seed=SEED)
        rows = compare_with_controls(competitors, images, config).rows
        return [row.to_json() for row in rows if row.method in generated]

    yield {"zoo": name, "window": WINDOW}, compute


Table = Callable[[Setting, str], Iterator[Job]]
TABLES: dict[str, Table] = {
    "population": population,
    "reading": reading,
    "writing": writing,
    "views": views,
    "halo": halo,
}


def carry_out(tables: dict[str, Table], description: str) -> None:
    """The command line of a benchmark of tables, each of rows that are written as soon as they are known."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--zoos", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=ZOOS, help="these zoos alone")
    given = parser.parse_args()
    if unknown := [table for table in given.tables if table not in tables]:
        parser.error(f"expected {', '.join(tables)}, found {unknown[0]}")
    torch.set_num_threads(1)
    setting = Setting(given.zoos, given.models)
    for table in given.tables or tables:
        for name in given.only:
            fill(given.out / f"seeds-{table}-{name}.json", table, setting.zoos / name, tables[table](setting, name))


def fill(path: Path, table: str, zoo: Path, jobs: Iterator[Job]) -> None:
    """Compute the rows that a file does not have yet."""
    about = {
        "table": table,
        "command": f"benchmarks/seeds.sh {table}",
        "seed": SEED,
        "zoos": {zoo.name: hash_input(zoo)},
    }
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for key, compute in jobs:
        # A row of another job may have keys that this one lacks.
        if any(all(row.get(name) == value for name, value in ({"hyper_steps": None} | key).items()) for row in rows):
            continue
        print(f"{table}: {', '.join(map(str, key.values()))}", flush=True)
        rows += [{**key, **row} for row in compute()]
        path.write_text(to_json({**about, "date": date.today().isoformat(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    carry_out(TABLES, __doc__ or "")
