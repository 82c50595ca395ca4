"""What is probed for, and how two networks are aligned."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from weightspace.errors import MOST, require_between

TARGETS = "test_accuracy,epoch,generalization_gap"


def usual_targets(properties: Collection[str]) -> list[str]:
    """Those of the usual properties that a zoo has: a validation accuracy stands in for a test accuracy."""
    usual = TARGETS.split(",")
    if usual[0] not in properties:
        usual[0] = "validation_accuracy"
    return [name for name in usual if name in properties]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is probed for, in which representations, on which members."""

    representations: str = "standard"
    """Separated by commas: W, s(W), spectra, views, r(W) (what networks do when they are asked), s(W)+r(W), aligned,
    t(W), hyper, untrained, mean, mean+spread, readout, sequence, readout+s(W), readout+r(W); standard for all but
    spectra, views, s(W)+r(W) and hyper; or all."""

    targets: str = TARGETS
    """Properties to predict, separated by commas, or all."""

    model: Literal["linear", "trees"] = "linear"
    """linear (ridge regression, as in the paper) or trees (gradient boosting)."""

    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of members for training, validation and test."""

    folds: int = 0
    """So many splits, each with other test members; 0 for as many as test every member at most once. Of one SANE,
    those that it has seen test members of are left out."""

    seed: int = 0
    """Seed of the split: the one the SANE was trained with, so that it has not seen the test members."""

    allow_overlap: bool = False
    """Probe all the same if the SANE was trained on test members."""

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("folds", self.folds, 0)


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What is told of the end of a training, from its first checkpoints."""

    target: str = "test_accuracy"
    """The property whose last value is forecast."""

    so_far: str = "validation_accuracy"
    """The property whose values so far are the obvious thing to know; where a zoo lacks it, the target's own."""

    model: Literal["linear", "trees"] = "linear"
    """linear (ridge regression) or trees (gradient boosting)."""

    level: float = 0.9
    """The share of ends that intervals should hold."""

    split: tuple[float, float, float] = (0.6, 0.15, 0.25)
    """Shares of members that are fitted on, that calibrate intervals, and that are tested."""

    seed: int = 0
    """Seed of the split."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("level", self.level, 0.5, 0.99)


@dataclass(frozen=True, kw_only=True)
class DiffConfig:
    """What two networks are compared by, beside their weights."""

    other_parent: str = ""
    """A third network: is the second on the line from the first to it, as averages of them are?"""

    data: str = ""
    """Images to score both on, as for grow; needs --architecture, or members of zoos."""

    test_images: int = 2_000
    """Use the first so many test images."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("the number of test images", self.test_images, 1, MOST)


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How two networks are aligned and compared."""

    data: str = ""
    """Images to measure the loss with, as for grow; without them there is no figure."""

    points: int = 25
    """Networks on the line between the two, the ends included."""

    test_images: int = 2_000
    """Use the first so many test images."""

    by: Literal["weights", "activations"] = "weights"
    """What says which units belong together: their weights, or what they answer to the inputs that networks are asked
    with."""

    restarts: int | None = None
    """Match weights again from so many random starts, and keep the best; by default ten for networks of at most 100,000
    numbers, and none for larger ones."""

    seed: int = 0
    """Of the matching's order and restarts."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("points", self.points, 3)
        require_between("restarts", self.restarts or 0, 0)
