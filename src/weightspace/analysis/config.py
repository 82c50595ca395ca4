"""How two networks are aligned and compared."""

from dataclasses import dataclass

from weightspace.errors import require_between


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How two networks are aligned and compared."""

    data: str = ""
    """Images to measure the loss with, as for grow; without them there is no figure."""

    points: int = 25
    """Networks on the line between the two, the ends included."""

    test_images: int = 2_000
    """Use the first so many test images."""

    restarts: int = 0
    """Match again from so many random starts, and keep the best."""

    seed: int = 0
    """Of the matching's order and restarts."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("points", self.points, 3)
        require_between("restarts", self.restarts, 0)
