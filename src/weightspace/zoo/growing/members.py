"""Draw the members of a zoo: each one's hyper-parameters, from generators of its own."""

import math
from typing import Any, NamedTuple

import torch

from weightspace.errors import MOST, InputError, require_between
from weightspace.randomness import derive_generator
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.networks import make_activation, require_scheme
from weightspace.zoo.growing.recipes import Recipe

ACTIVATIONS = "tanh,relu"
INITIALIZATIONS = "kaiming_uniform,kaiming_normal,xavier_uniform,xavier_normal"
OPTIMIZERS = ("adam", "sgd")
NUMBERS = ("learning_rate", "weight_decay", "dropout")


class Member(NamedTuple):
    """One network to be: its name and what was drawn for it; None where its network has no such choice."""

    name: str
    activation: str | None
    initialization: str
    learning_rate: float
    weight_decay: float
    dropout: float | None
    optimizer: str


def draw_members(config: GrowConfig, recipe: Recipe) -> list[Member]:
    """Draw every member's hyper-parameters, each from a generator of its own.

    Raises:
        InputError: malformed ranges, unknown names, or a choice that the network does not have.
    """
    require_between("members", config.members, 1, MOST)
    choices = _choices(config, recipe)
    return [_draw_member(config.seed, f"member-{number:04d}", choices) for number in range(config.members)]


def draw(choices: str, generator: torch.Generator) -> Any:
    """Draw from `a,b,c` (uniformly), from `low..high`, or from `log:low..high`.

    Raises:
        InputError: a range that is not two increasing numbers.
    """
    share = float(torch.rand((), generator=generator, dtype=torch.float64))
    if ".." not in choices:
        listed = [choice.strip() for choice in choices.split(",")]
        return listed[int(share * len(listed))]
    logarithmic = choices.startswith("log:")
    ends = choices.removeprefix("log:").split("..")
    try:
        low, high = (float(end) for end in ends)
    except ValueError as error:
        raise InputError(f"expected a range such as log:1e-3..1e-2, found '{choices}'") from error
    if not low < high or (logarithmic and low <= 0):
        raise InputError(f"expected an increasing range, positive if logarithmic, found '{choices}'")
    if logarithmic:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _choices(config: GrowConfig, recipe: Recipe) -> dict[str, str]:
    fixed = [name for name in ("activation", "dropout") if name not in recipe.choices]
    for name in fixed:
        if getattr(config, name) not in ("", "0"):
            raise InputError(f"expected no {name} for {recipe.name}, which has its own, found {getattr(config, name)}")
    choices = {
        "activation": config.activation or ACTIVATIONS,
        "initialization": config.initialization or (INITIALIZATIONS if recipe.ours else "default"),
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "dropout": config.dropout,
        "optimizer": config.optimizer,
    }
    return {name: text for name, text in choices.items() if name not in fixed}


def _draw_member(seed: int, name: str, choices: dict[str, str]) -> Member:
    drawn = {field: draw(text, derive_generator(seed, name, field)) for field, text in choices.items()}
    for field in NUMBERS:
        if field in drawn:
            drawn[field] = _number(drawn[field], field)
    if "dropout" in drawn:
        drawn["dropout"] = float(f"{drawn['dropout']:g}")  # as it stands in the architecture's id
    require_between("the learning rate", drawn["learning_rate"], 1e-12)
    require_between("the weight decay", drawn["weight_decay"], 0)
    require_between("the dropout rate", drawn.get("dropout", 0), 0, 0.99)
    require_scheme(drawn["initialization"])
    if "activation" in drawn:
        make_activation(drawn["activation"])
    if drawn["optimizer"] not in OPTIMIZERS:
        raise InputError(f"expected an optimizer among {', '.join(OPTIMIZERS)}, found '{drawn['optimizer']}'")
    return Member(name, **{"activation": None, "dropout": None, **drawn})


def _number(value: Any, field: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"expected numbers for {field}, found '{value}'") from error
