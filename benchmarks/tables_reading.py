"""The tables of reading networks; see tables_reading.sh, which runs this.

A SANE is pre-trained for every zoo and fold on the fold's training members alone; four folds test every member once.
Each table is a file of rows with the command, the seed, the date and the hashes of the zoos it was made from.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.analysis.fidelity import measure_fidelity
from weightspace.analysis.probing import regressions
from weightspace.analysis.probing.comparing import Fold, ReadingComparison, compare_representations
from weightspace.analysis.probing.folding import find_targets, make_folds
from weightspace.analysis.probing.probe import ProbeResult, pool_folds, probe, r2_difference
from weightspace.analysis.probing.regressions import RIDGE_STRENGTHS, Bound, ProbeModel, fit_quietly
from weightspace.analysis.representations.baselines import layer_statistics
from weightspace.analysis.representations.catalog import REPRESENTATIONS, Choice, Represent, represent
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.outputs import hash_input, partial_path, to_json
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.recorded_images import recorded_images
from weightspace.zoo.splitting import concatenate
from weightspace.zoo.zoo import Zoo

SMALL = ("mnist-cnn-s", "usps-cnn-s", "scene_digits-cnn-s", "cifar10-cnn-s")
ZOOS = (*SMALL, "mnist-raytune", "cifar10-cnn-l", "cifar10-resnet18w8")
WITH_HYPER = ("mnist-cnn-s", "cifar10-cnn-s")  # trained anew in every fold
MODELS: tuple[ProbeModel, ...] = ("linear", "trees")
SHARES, FOLDS, SEED = (0.6, 0.15, 0.25), 4, 0
TARGETS = ("test_accuracy", "epoch", "generalization_gap")
TRAINING = TrainConfig(steps=300, batch_size=32, statistics_weight=1.0, seed=SEED)
MULTI = TrainConfig(steps=900, batch_size=32, statistics_weight=1.0, seed=SEED)
WIDTHS = (1.0, 1.5, 2.0, 3.0, 6.0)
EARLY = 0.5
FEW = (10, 30)
HEARING: tuple[Literal["seen", "predicted"], ...] = ("seen", "predicted")
Row = dict[str, Any]
COMMAND = "benchmarks/tables_reading.sh"


class Setting(NamedTuple):
    """Where zoos are, and where trained models are kept."""

    zoos: Path
    models: Path

    def zoo(self, name: str) -> Zoo:
        return Zoo.open(self.zoos / name)

    def parts(self, name: str, fold: int) -> tuple[Zoo, ...]:
        return self.zoo(name).split(*SHARES, seed=SEED, fold=fold)

    def sane(self, name: str, fold: int) -> SANE:
        """Trained on one zoo's training members."""
        return self._trained(f"{name}-fold{fold}", lambda: self.parts(name, fold)[0], TRAINING)

    def early(self, name: str, fold: int) -> SANE:
        """Trained on the first half of their epochs."""
        return self._trained(f"{name}-early-fold{fold}", lambda: first_epochs(self.parts(name, fold)[0]), TRAINING)

    def hearing(self, name: str, fold: int, responses: Literal["seen", "predicted"]) -> SANE:
        """Trained on one zoo's training members and on what their units do."""
        shape = SANEConfig(responses=responses)
        return self._trained(f"{name}-{responses}-fold{fold}", lambda: self.parts(name, fold)[0], TRAINING, shape)

    def multi(self, fold: int) -> SANE:
        """Trained on the training members of four zoos of one architecture."""
        return self._trained(
            f"four-fold{fold}", lambda: concatenate([self.parts(name, fold)[0] for name in SMALL]), MULTI
        )

    def _trained(
        self, name: str, members: Callable[[], Zoo], training: TrainConfig, shape: SANEConfig | None = None
    ) -> SANE:
        out = self.models / name
        if not out.exists():
            self.models.mkdir(parents=True, exist_ok=True)
            existing: Literal["refuse", "resume"] = "resume" if partial_path(out).exists() else "refuse"
            pretrain(members(), shape or SANEConfig(), training, out=out, existing=existing)
        return SANE.open(out)


def first_epochs(zoo: Zoo) -> Zoo:
    return zoo.where(lambda table: table["epoch"] <= EARLY * table["epoch"].max())


def late_epochs(zoo: Zoo) -> Zoo:
    return zoo.where(lambda table: table["epoch"] > EARLY * table["epoch"].max())


def properties(setting: Setting, name: str) -> list[Row]:
    """Every representation, every target, pooled and at the last epoch, by lines and by trees: tables 1, 2 and 9 to 12
    of the paper. Hyper-parameters are probed for by lines alone.
    """
    zoo, sanes = setting.zoo(name), [setting.sane(name, fold) for fold in range(FOLDS)]
    names = [known for known in REPRESENTATIONS if known != "hyper" or name in WITH_HYPER]
    folds = make_folds(zoo, SHARES, sanes, Choice(names), folds=FOLDS, seed=SEED)
    folds = [Fold(fold.parts, [computed_once(represent) for represent in fold.representations]) for fold in folds]
    rows = []
    for model in MODELS:
        drawn = find_targets(zoo).hyper_parameters if model == "linear" else []
        compared = compare_representations(folds, TARGETS, hyper_parameters=drawn, model=model, seed=SEED)
        rows += [{"model": model, **row} for row in named(compared, name, zoo)]
    return rows


def unbounded(setting: Setting, name: str) -> list[Row]:
    """Lines whose features are not bounded, as they were published: what bounding does to the verdicts."""
    sanes = [setting.sane(name, fold) for fold in range(FOLDS)]
    choice = Choice(("s(W)", "t(W)", "r(W)", "mean", "readout"))
    folds = make_folds(setting.zoo(name), SHARES, sanes, choice, folds=FOLDS, seed=SEED)
    with mock.patch.object(regressions, "Bound", partial(Bound, width=math.inf)):
        compared = compare_representations(folds, TARGETS, seed=SEED)
    return [{"model": "linear, unbounded", **row} for row in named(compared, name, setting.zoo(name))]


def computed_once(represent: Represent) -> Represent:
    """A representation that keeps what it has computed, for probes of several kinds."""
    computed: list[list[Embeddings]] = []

    def once(parts: Sequence[Zoo]) -> list[Embeddings]:
        if not computed:
            computed.append(represent(parts))
        return computed[0]

    return once


JOINED = ("s(W)", "r(W)", "readout", "readout+r(W)")


def joined(setting: Setting, name: str) -> list[Row]:
    """What SANE makes of responses: seen beside the weights, predicted from weights alone, or merely side by side.

    And what is left of networks that the three models decode: their weights, and the accuracy on validation images.
    """
    zoo, folds = setting.zoo(name), []
    for fold in range(FOLDS):
        parts = setting.parts(name, fold)
        embedded = {one: represent(parts, one, setting.sane(name, fold)) for one in JOINED}
        embedded["s(W)+r(W)"] = beside(embedded["s(W)"], embedded["r(W)"])
        for responses in HEARING:
            sane = setting.hearing(name, fold, responses)
            embedded[responses] = [sane.embed(part, "readout") for part in parts]
        folds.append(Fold(parts, [partial(given, each) for each in embedded.values()]))
    rows = []
    for model in MODELS:
        compared = compare_representations(folds, TARGETS, model=model, seed=SEED)
        rows += [{"model": model, **row} for row in named(compared, name, zoo)]
    return rows + decoded(setting, name)


def given(embedded: list[Embeddings], _: Sequence[Zoo]) -> list[Embeddings]:
    return embedded


def beside(first: list[Embeddings], second: list[Embeddings]) -> list[Embeddings]:
    """Two representations of the same parts, side by side."""
    return [
        replace(
            one,
            features=np.concatenate([one.features, two.features], axis=1),
            representation=Representation(f"{one.representation.label} + {two.representation.label}"),
        )
        for one, two in zip(first, second, strict=True)
    ]


def decoded(setting: Setting, name: str) -> list[Row]:
    """R² of decoded weights and the accuracy they keep, on the test members' last checkpoints."""
    rows = []
    ways: dict[str, Callable[[str, int], SANE]] = {"none": setting.sane}
    ways |= {responses: partial(setting.hearing, responses=responses) for responses in HEARING}
    for responses, model in ways.items():
        for fold in range(FOLDS):
            sane = model(name, fold)
            last = setting.parts(name, fold)[2].last()
            images = recorded_images(last)
            kept = measure_fidelity(sane, last, images.validation if images is not None else None)
            row = {"r2": kept.overall_r2, "original": kept.original, "reconstructed": kept.reconstructed}
            rows.append({"zoo": name, "decoded": responses, "fold": fold, **row})
    return rows


def bounds(setting: Setting, name: str) -> list[Row]:
    """R² on validation members of lines whose features are bounded at several widths: no test member is looked at.

    The mean over targets, of the best ridge strength of each; folds scored together.
    """
    rows = []
    names = ("s(W)", "spectra", "r(W)", "t(W)", "mean+spread", "readout")
    for representation in names:
        folds = [
            represent(setting.parts(name, fold)[:2], representation, setting.sane(name, fold)) for fold in range(FOLDS)
        ]
        for width in (None, *WIDTHS):
            scores = [validation_r2(folds, target, width) for target in TARGETS]
            label = folds[0][0].representation.label
            rows.append({"zoo": name, "representation": label, "width": width, "validation_r2": float(np.mean(scores))})
    return rows


def validation_r2(folds: Sequence[Sequence[Embeddings]], target: str, width: float | None) -> float:
    """Of the best ridge strength, over the validation members of all folds together."""
    true, predicted = [], []
    for train, validation in folds:
        steps = ([Bound(width)] if width else []) + [StandardScaler(), Ridge(np.array(RIDGE_STRENGTHS))]
        targets = np.tile(train.table[target].to_numpy()[:, None], len(RIDGE_STRENGTHS))
        line = fit_quietly(make_pipeline(*steps), train.features.astype(np.float64), targets)
        predicted.append(line.predict(validation.features.astype(np.float64)))
        true.append(validation.table[target].to_numpy())
    return max(r2_score(np.concatenate(true), column) for column in np.concatenate(predicted).T)


def named(found: ReadingComparison, name: str, zoo: Zoo) -> list[Row]:
    """Rows with the name of their zoo, and the epoch they are of."""
    last = int(zoo.table["epoch"].max())
    return [{"zoo": name, "epoch": "all" if row.subset == "pooled" else last, **row.to_json()} for row in found.rows]


def control(setting: Setting, name: str) -> list[Row]:
    """Labels shuffled over the checkpoints of every part: nothing can be read."""

    def shuffled(represent: Callable[[Zoo], Embeddings]) -> Callable[[Sequence[Zoo]], list[Embeddings]]:
        return lambda parts: [mix(represent(part), number) for number, part in enumerate(parts)]

    def mix(part: Embeddings, number: int) -> Embeddings:
        order = np.random.default_rng([SEED, number]).permutation(len(part.table))
        labels = {target: part.table[target].to_numpy()[order] for target in TARGETS}
        return Embeddings(part.features, part.table.assign(**labels), part.representation, part.trained_on)

    folds = []
    for fold in range(FOLDS):
        sane = setting.sane(name, fold)
        both = [shuffled(layer_statistics), shuffled(partial(sane.embed, aggregation="readout"))]
        folds.append(Fold(setting.parts(name, fold), both))
    rows = named(compare_representations(folds, TARGETS, seed=SEED), name, setting.zoo(name))
    return [{**row, "labels": "shuffled"} for row in rows if "chosen" not in row]


SMALLER = ("s(W)", "t(W)", "mean", "readout", "r(W)", "readout+r(W)")


def read(sane: SANE, parts: Sequence[Zoo]) -> list[list[Embeddings]]:
    """The parts of one fold in every representation that the smaller tables compare, s(W) first."""
    return [represent(parts, name, sane) for name in SMALLER]


def models_for(target: str) -> tuple[ProbeModel, ...]:
    """Trees, which take long, for the accuracy alone."""
    return MODELS if target == "test_accuracy" else ("linear",)


def rows_of(results: dict[str, list[ProbeResult]], **about: Any) -> list[Row]:
    """Pooled folds of several representations of one task, s(W) first."""
    pooled = {name: pool_folds(folded, SEED) for name, folded in results.items()}
    rows = []
    for name, result in pooled.items():
        fields = ("target", "r2", "r2_low", "r2_high", "tau", "members")
        row = {**about, "representation": name, **{field: getattr(result, field) for field in fields}}
        if name != "s(W)":
            difference = r2_difference(result, pooled["s(W)"], SEED)
            row |= {f"over_statistics{end}": v for end, v in zip(("", "_low", "_high"), difference, strict=True)}
        rows.append(row)
    return rows


def few(setting: Setting, name: str) -> list[Row]:
    """Probes trained on 10, 30 or all training members; the SANE has seen all of them without labels."""
    rows, last = [], int(setting.zoo(name).table["epoch"].max())
    embedded = []
    for fold in range(FOLDS):
        parts, sees = setting.parts(name, fold), setting.hearing(name, fold, "seen")
        embedded.append([*read(setting.sane(name, fold), parts), [sees.embed(part, "readout") for part in parts]])
    most = embedded[0][0][0].table["member"].nunique()
    tasks = [(target, epoch) for target in TARGETS for epoch in ("all", last) if target != "epoch" or epoch == "all"]
    for target, epoch in tasks:
        for model in models_for(target):
            for count in (*FEW, most):
                results: dict[str, list[ProbeResult]] = {}
                for told in (told for fold in embedded for told in fold):
                    cut = told if epoch == "all" else [part.last_epochs() for part in told]
                    result = probe(first_members(cut[0], count), *cut[1:], target=target, model=model, seed=SEED)
                    results.setdefault(result.representation.label, []).append(result)
                rows += rows_of(results, zoo=name, epoch=epoch, model=model, labels=count)
    return rows


def first_members(part: Embeddings, count: int) -> Embeddings:
    chosen = sorted(part.table["member"].unique())[:count]
    keep = part.table["member"].isin(chosen).to_numpy()
    return Embeddings(part.features[keep], part.table[keep], part.representation, part.trained_on)


def epochs(setting: Setting, name: str) -> list[Row]:
    """Checkpoints of epochs that pre-training never saw: probes trained and tested on the second half of training."""
    folds = []
    for fold in range(FOLDS):
        parts = [late_epochs(part) for part in setting.parts(name, fold)]
        early = setting.early(name, fold)
        labelled = [(embedded[-1].representation.label, embedded) for embedded in read(setting.sane(name, fold), parts)]
        for kind in ("mean", "readout"):
            labelled.append((f"SANE of early epochs ({kind})", [early.embed(part, kind) for part in parts]))
        folds.append(labelled)
    rows = []
    for target in TARGETS:
        results: dict[str, list[ProbeResult]] = {}
        for label, embedded in (pair for labelled in folds for pair in labelled):
            results.setdefault(label, []).append(probe(*embedded, target=target, seed=SEED))
        rows += rows_of(results, zoo=name, epoch="second half")
    return rows


def across(setting: Setting) -> list[Row]:
    """Probes trained on one zoo and tested on another; one SANE of four zoos."""
    sane = setting.multi(0)
    embedded = {name: [of_zoo(parts, name) for parts in read(sane, setting.parts(name, 0))] for name in SMALL}
    rows = []
    for target, source, tested in product(TARGETS, SMALL, SMALL):
        results = {}
        for known, asked in zip(embedded[source], embedded[tested], strict=True):
            result = probe(known[0], known[1], asked[2], target=target, seed=SEED)
            results[result.representation.label] = [result]
        rows += rows_of(results, zoo=tested, trained_on=source, epoch="all")
    return rows


def of_zoo(parts: list[Embeddings], name: str) -> list[Embeddings]:
    """Members by the names of zoo and member, as zoos share names."""
    return [
        Embeddings(part.features, part.table.assign(member=name + "/" + part.table["member"]), part.representation)
        for part in parts
    ]


TABLES: dict[str, tuple[Callable[..., list[Row]], tuple[str, ...]]] = {
    "properties": (properties, ZOOS),
    "unbounded": (unbounded, ZOOS),
    "joined": (joined, ZOOS),
    "few": (few, ("mnist-cnn-s", "usps-cnn-s")),
    "control": (control, ("mnist-cnn-s", "cifar10-resnet18w8")),
    "bounds": (bounds, ("mnist-raytune", "usps-cnn-s")),
    "epochs": (epochs, ("mnist-cnn-s",)),
}


def write(path: Path, rows: list[Row], setting: Setting, zoos: Sequence[str], table: str) -> None:
    about = {
        "table": table,
        "command": f"{COMMAND} {table}",
        "seed": SEED,
        "date": date.today().isoformat(),
        "folds": FOLDS,
        "shares": SHARES,
        "zoos": {name: hash_input(setting.zoos / name) for name in zoos},
    }
    path.write_text(to_json({**about, "rows": rows}, indent=1) + "\n")
    print(f"{path}: {len(rows)} rows", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"{', '.join(TABLES)}, across; all if none is named")
    parser.add_argument("--zoos", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="these zoos alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(options.zoos, options.models)
    for table in options.tables or [*TABLES, "across"]:
        if table == "across":
            path = options.out / "reading-across.json"
            if not path.exists():
                write(path, across(setting), setting, SMALL, table)
            continue
        compute, zoos = TABLES[table]
        for name in zoos:
            path = options.out / f"reading-{table}-{name}.json"
            if not path.exists() and (not options.only or name in options.only):
                write(path, compute(setting, name), setting, [name], table)


if __name__ == "__main__":
    main()
