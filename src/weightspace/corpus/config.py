"""How weights are prepared for an autoencoder."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from weightspace.errors import WIDEST, InputError, require_between


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """How weights become tokens.

    Examples:
        >>> PreparationConfig(token_width=64).token_width
        64
    """

    token_width: int = 0
    """Numbers per token; 0 takes the longest row of the zoo's layers, but at most 288 (the paper's width); up to a
    quarter more where rows are packed and that makes fewer tokens."""

    token_style: Literal["rows", "packed"] = "rows"
    """`rows` puts one output row (or a chunk of one) in a token, as the paper does; `packed` several short ones."""

    standardize: Literal["tensor", "kind", "none"] = "tensor"
    """Subtract the mean and divide by the standard deviation of each tensor, of each layer kind, or not at all."""

    align: bool = True
    """Permute every member to match the reference network."""

    reference: str = "best"
    """What others are aligned to: the member `best` by validation accuracy on its last epoch, the iterated `mean` of
    all members, or a member by name."""

    rescale: Literal["none", "scale", "sign", "both"] = "none"
    """Where a network allows it, scale units to rows of length 1 (ReLU), turn signs so that no row has a negative sum
    (tanh), do both, or leave them (the paper)."""

    @property
    def rescalings(self) -> tuple[Literal["scale", "sign"], ...]:
        """The kinds of rescaling that are made canonical."""
        kinds: tuple[Literal["scale", "sign"], ...] = ("scale", "sign")
        return tuple(kind for kind in kinds if self.rescale in (kind, "both"))

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("the token width", self.token_width, 0, WIDEST)
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"expected {name} to be among {', '.join(get_args(kind))}, found '{getattr(self, name)}'"
                )
