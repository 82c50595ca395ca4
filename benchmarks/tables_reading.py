"""The tables of reading networks; see tables_reading.sh, which runs this.

A SANE is pre-trained for every zoo and fold on the fold's training members alone; four folds test every member once.
Each table is a file of rows with the command, the seed, the date and the hashes of the zoos it was made from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.autoencoder.pretraining import pretrain
from weightspace.autoencoder.sane import SANE
from weightspace.outputs import partial_path
from weightspace.zoo.concatenating import concatenate
from weightspace.zoo.zoo import Zoo

SMALL = ("mnist-cnn-s", "usps-cnn-s", "scene_digits-cnn-s", "cifar10-cnn-s")
ZOOS = (*SMALL, "mnist-raytune", "cifar10-cnn-l", "cifar10-resnet18w8")
TOO_LONG = ("cifar10-resnet18w8",)  # for a hyper-representation, which attends over all tokens at once
SHARES, FOLDS, SEED = (0.6, 0.15, 0.25), 4, 0
TARGETS = ("test_accuracy", "epoch", "generalization_gap")
TRAINING = TrainConfig(steps=300, batch_size=32, statistics_weight=1.0, seed=SEED)
MULTI = TrainConfig(steps=900, batch_size=32, statistics_weight=1.0, seed=SEED)
EARLY = 0.5
FEW = (10, 30, 60)
Row = dict[str, Any]


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

    def multi(self, fold: int) -> SANE:
        """Trained on the training members of four zoos of one architecture."""
        return self._trained(
            f"four-fold{fold}", lambda: concatenate([self.parts(name, fold)[0] for name in SMALL]), MULTI
        )

    def _trained(self, name: str, members: Callable[[], Zoo], training: TrainConfig) -> SANE:
        out = self.models / name
        if not out.exists():
            self.models.mkdir(parents=True, exist_ok=True)
            mode = ["resume"] if partial_path(out).exists() else []
            pretrain(members(), SANEConfig(), training, out=out, mode=mode)
        return SANE.open(out)


def first_epochs(zoo: Zoo) -> Zoo:
    return zoo.where(lambda table: table["epoch"] <= EARLY * table["epoch"].max())


def late_epochs(zoo: Zoo) -> Zoo:
    return zoo.where(lambda table: table["epoch"] > EARLY * table["epoch"].max())
