"""Configurations by name: for small machines, for writing networks, and the paper's.

The paper's have the sizes of the published configurations, which differ in places from its table 8 (it has window 32
and 4 layers for CNNs); the number of steps is 50 passes over as many windows as the paper's zoos give. `writing` is
what reconstructed small CNNs best; its embeddings read worse (LOG.md, "What the statistics head costs").
"""

from typing import Any, Literal, NamedTuple

from weightspace.autoencoder.config import SANEConfig, TrainConfig
from weightspace.corpus.config import PreparationConfig

PresetName = Literal["small", "writing", "paper-cnn", "paper-resnet18"]

_PAPER: dict[str, Any] = {
    "latent_width": 128,
    "layers": 8,
    "positions": "learned",
    "projection": "flatten",
    "initial_std": 0.02,
    "batch_size": 32,
    "balance": False,
    "learning_rate": 1e-4,
    "clip": 0.0,
    "statistics_weight": 0.0,
    "noise": 0.1,
    "noise_kind": "multiplicative",
    "denoise": False,
}

PRESETS: dict[PresetName, dict[str, Any]] = {
    "small": {},
    "writing": {
        "linear_path": True,
        "token_width": 51,
        "window": 128,
        "contrastive_weight": 0.0,
        "statistics_weight": 0.0,
        "noise": 0.0,
    },
    "paper-cnn": {
        **_PAPER,
        "model_width": 1024,
        "heads": 8,
        "position_limits": (100, 10, 40, 10),
        "window": 64,
        "token_width": 289,
        "steps": 16_400,
    },
    "paper-resnet18": {
        **_PAPER,
        "model_width": 2048,
        "heads": 16,
        "position_limits": (55_000, 100, 550, 20),
        "window": 256,
        "token_width": 288,
        "steps": 10_900,
    },
}


class Configurations(NamedTuple):
    """What `pretrain` takes."""

    sane: SANEConfig
    training: TrainConfig
    preparation: PreparationConfig


def preset(name: PresetName) -> Configurations:
    """The configurations of a preset; change what you like with `dataclasses.replace`."""
    values = PRESETS[name]
    kinds = (SANEConfig, TrainConfig, PreparationConfig)
    own = ({field: value for field, value in values.items() if field in kind.__dataclass_fields__} for kind in kinds)
    return Configurations(*(kind(**fields) for kind, fields in zip(kinds, own, strict=True)))


def preset_options(name: PresetName) -> dict[str, list[str]]:
    """A preset as options of the command line: name -> the option and its values."""
    options = {}
    for field, value in PRESETS[name].items():
        option = "--" + field.replace("_", "-")
        if isinstance(value, bool):
            options[option] = [option if value else option.replace("--", "--no-", 1)]
        else:
            values = value if isinstance(value, tuple) else (value,)
            options[option] = [option, *map(str, values)]
    return options
