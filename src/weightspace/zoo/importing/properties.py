"""Names of properties: other people's words for what this package calls learning rate, accuracy and so on."""

import json
import math
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

# Whole numbers beyond this do not fit a column of a table; they become text.
LARGEST_INTEGER = 2**63
LARGEST_EPOCH = 10**12
NAMES = {
    "train_acc": "train_accuracy",
    "val_acc": "validation_accuracy",
    "val_accuracy": "validation_accuracy",
    "validation_acc": "validation_accuracy",
    "test_acc": "test_accuracy",
    "val_loss": "validation_loss",
    "ggap": "generalization_gap",
    "optim::lr": "learning_rate",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "optim::optimizer": "optimizer",
    "model::nlin": "activation",
    "model::dropout": "dropout",
    "model::init_type": "initialization",
    "training::batchsize": "batch_size",
    "lr": "learning_rate",
    "l2reg": "weight_decay",
    "wd": "weight_decay",
    "w_init": "initialization",
}
RESERVED = ("member", "epoch", "architecture", "shard", "row", "digest", "lineage")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, keys joined by dots; lists as JSON text, missing values left away."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}.")
        elif isinstance(item, list | tuple | np.ndarray):
            flat[name] = json.dumps(list(item), default=str)
        elif isinstance(item, bytes | date | Decimal) or (isinstance(item, int) and abs(item) >= LARGEST_INTEGER):
            flat[name] = str(item)
        elif item is not None:
            flat[name] = item
    return flat


def name_of(key: str) -> str:
    """This package's name for a property that others call `key`."""
    name = NAMES.get(key, NAMES.get(key.lower(), key))
    return f"{name}_given" if name in RESERVED or name.startswith("_") else name


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under this package's names; of several with one name the first."""
    own: dict[str, Any] = {}
    for key, value in values.items():
        own.setdefault(name_of(key), value)
    return own


def number(value: Any, default: float | None = None) -> float | None:
    """A finite number, also from text; the default for anything else."""
    if isinstance(value, str) and "_" in value:  # which Python takes for a thousands separator
        return default
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return found if math.isfinite(found) else default


def whole(value: Any) -> int | None:
    """A whole number from 0, also from text; None for anything else."""
    found = number(value)
    return int(found) if found is not None and 0 <= found < LARGEST_EPOCH and found == int(found) else None


def plain(text: Any) -> Any:
    """Text that reads as a number is that number, with a percent sign one over 1."""
    if isinstance(text, str):
        percent = number(text[:-1]) if text.endswith("%") else None
        if percent is not None:  # as a number over 1, so that it is known for what it is
            return percent if percent > 1 else percent / 100
        digits = text.strip().lstrip("+-")
        if digits.isdecimal() and len(digits) > 1 and digits.startswith("0"):
            return text  # a name, such as 007
        found = number(text)
        if found is not None and abs(found) < LARGEST_INTEGER:
            return int(text) if found == int(found) and text.strip().lstrip("+-").isdecimal() else found
    return text
