"""How a zoo is grown."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """What a zoo's members are and how they are trained."""

    members: int = 200
    """How many networks."""

    epochs: int = 10
    """Passes over the training images."""

    keep: tuple[int, ...] = ()
    """Epochs whose weights are kept, 0 being the initialisation; all of them if none is named."""

    learning_rate: str = "log:1e-3..1e-2"
    """A number, a list `1e-3,1e-2`, or a range `0..1` (`log:` for a logarithmic one) to draw from per member."""

    weight_decay: str = "log:1e-5..1e-3"
    """L2 weight decay: a number, a list or a range, as for the learning rate."""

    activation: str = "tanh,relu"
    """Activations to draw from; each makes an architecture of its own."""

    initialization: str = "kaiming_uniform,kaiming_normal,xavier_uniform,xavier_normal"
    """Initialisations to draw from."""

    batch_size: int = 64
    """Images a step."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """The optimiser of every member."""

    together: int = 200
    """At most so many networks are trained at once; bounds the memory."""

    seed: int = 0
    """Every member's randomness derives from this seed and the member's name."""
