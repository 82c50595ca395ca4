"""How a zoo is grown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from weightspace.errors import InputError

SHORT = {"lr": "learning_rate", "wd": "weight_decay", "init": "initialization"}
VARIES = ("learning_rate", "weight_decay", "activation", "initialization", "dropout", "optimizer")


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """What a zoo's members are and how they are trained.

    What varies between members is a number or name, a list `1e-3,1e-2`, or a range `0..1` (`log:1e-3..1e-2` for a
    logarithmic one) that each member draws from.

    Examples:
        >>> GrowConfig(members=200, epochs=25).members
        200
    """

    members: int = 200
    """How many networks."""

    epochs: int = 10
    """Passes over the training images."""

    keep: tuple[int, ...] = ()
    """Epochs whose weights are kept, 0 being the initialisation; all of them if none is named."""

    learning_rate: str = "log:1e-3..1e-2"
    """Learning rate; varies."""

    weight_decay: str = "log:1e-5..1e-3"
    """L2 weight decay; varies."""

    activation: str = ""
    """Activation; varies, each makes an architecture of its own. tanh,relu if none is named."""

    initialization: str = ""
    """Initialisation; varies. All kinds of kaiming and xavier if none is named; the module's own for your modules."""

    dropout: str = "0"
    """Dropout rate; varies, each makes an architecture of its own."""

    optimizer: str = "adam"
    """Optimiser, adam or sgd (momentum 0.9); varies."""

    batch_size: int = 64
    """Images a step."""

    seed: int = 0
    """Every member's randomness derives from this seed and the member's name."""

    plan: Literal["auto", "stacked", "alone", "channels-last", "side-by-side", "unfolded"] = "auto"
    """Train many at once (stacked; or unfolded, with convolutions as matrix products), a few in grouped convolutions
    (side-by-side), one by one (alone), or one by one in the memory format channels-last. The choice changes how fast it
    goes, and numbers by rounding only. auto measures for two seconds."""

    together: int = 200
    """At most so many networks are stacked; bounds the memory."""

    workers: int = 0
    """Processes of one thread each; 0: one for each core if the work is long enough."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in it on a GPU whose networks are large enough to be trained one by one (--plan alone or
    channels-last); weights stay in fp32."""

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""


def apply_choices(config: GrowConfig, choices: Sequence[str]) -> GrowConfig:
    """The configuration with choices such as `lr=log:1e-4..1e-2` or `activation=tanh,relu`.

    Raises:
        InputError: no such choice.
    """
    fields: dict[str, Any] = {}
    for choice in choices:
        name, equals, text = choice.partition("=")
        field = SHORT.get(name, name)
        if not equals or not text or field not in VARIES:
            raise InputError(
                f"expected name=choices with a name among {', '.join((*SHORT, *VARIES))}, found '{choice}'"
            )
        fields[field] = text
    return replace(config, **fields)
