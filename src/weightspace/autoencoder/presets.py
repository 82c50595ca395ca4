"""One dial for sizes: what each sets, by the name of the field; whatever is not named keeps its default.

The paper's have the sizes of the published configurations, which differ in places from its table 8 (it has window 32
and 4 layers for CNNs); the number of steps is 50 passes over as many windows as the paper's zoos give.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.corpus.config import PreparationConfig

SizeName = Literal["small", "medium", "paper", "paper-resnet"]

# How the published code trains, whatever the size.
PUBLISHED: dict[str, Any] = {
    "linear_path": False,
    "positions": "learned",
    "projection": "flatten",
    "initial_std": 0.02,
    "batch_size": 32,
    "balance": False,
    "learning_rate": 1e-4,
    "rate_by_width": False,
    "clip": 0.0,
    "statistics_weight": 0.0,
    "noise": 0.1,
    "noise_kind": "multiplicative",
    "denoise": False,
}
_PAPER: dict[str, Any] = {**PUBLISHED, "latent_width": 128, "layers": 8}

SIZES: Mapping[str, dict[str, Any]] = {
    "small": {},
    "medium": {
        "latent_width": 64,
        "model_width": 256,
        "layers": 4,
        "heads": 8,
        "steps": 4_000,
        "window": 128,
    },
    "paper": {
        **_PAPER,
        "model_width": 1024,
        "heads": 8,
        "position_limits": (100, 10, 40, 10),
        "window": 64,
        "token_width": 289,
        "steps": 16_400,
    },
    "paper-resnet": {
        **_PAPER,
        "model_width": 2048,
        "heads": 16,
        "position_limits": (55_000, 100, 550, 20),
        "window": 256,
        "token_width": 288,
        "steps": 10_900,
    },
}

# Nothing but reconstruction: networks come back a little better, embeddings read worse (docs/tables/learning.json).
WRITING: dict[str, Any] = {"contrastive_weight": 0.0, "statistics_weight": 0.0, "noise": 0.0}


class Configurations(NamedTuple):
    """What `pretrain` takes."""

    sane: SANEConfig
    training: TrainConfig
    preparation: PreparationConfig


def sized(size: SizeName, *, writing: bool = False) -> Configurations:
    """The configurations of a size; change what you like with `dataclasses.replace`.

    Args:
        size: `small` and `medium` for a CPU and a GPU; `paper` (CNNs) and `paper-resnet` as published.
        writing: as reconstructs networks best, for writing them.
    """
    values = {**SIZES[size], **(WRITING if writing else {})}

    def of(kind: Any) -> Any:
        return kind(**{field: value for field, value in values.items() if field in kind.__dataclass_fields__})

    return Configurations(of(SANEConfig), of(TrainConfig), of(PreparationConfig))
