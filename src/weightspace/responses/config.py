"""How networks are asked."""

from dataclasses import dataclass

from weightspace.errors import WIDEST, require_between


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """What networks are asked with, for representations of what they do.

    Examples:
        >>> AskConfig(inputs=64).inputs
        64
    """

    inputs: int = 128
    """Noise images (or vectors, or sequences of tokens) that every network is asked with, half of them white and half
    smooth; each is asked a second time, perturbed."""

    ask_with: str = "noise"
    """noise, or images to ask with, as for grow: their labels are not used."""

    ask_seed: int = 0
    """Of the noise: the same for all networks that are compared."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("the number of inputs to ask with", self.inputs, 4, WIDEST)
