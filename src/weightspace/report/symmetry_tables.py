"""A symmetry as two tables: what moves, and what stands still and why."""

from collections.abc import Sequence

from weightspace.report.tables import Table
from weightspace.symmetry.axes import Symmetry

SHOWN = 4


def symmetry_tables(symmetry: Symmetry, *, every: bool = False) -> list[Table]:
    """Groups with their sizes and the axes they move; operations with the axes they freeze.

    Args:
        symmetry: of a network.
        every: name every axis; without it, a few of each.
    """
    moving = Table(
        "What moves",
        "Each group may be permuted by itself; an axis is written tensor[number].",
        ["group", "size", "axes", "which"],
        [
            [group, str(symmetry.groups[group]), str(len(places)), _some(places, every)]
            for group, places in symmetry.places().items()
        ],
        words=("which",),
    )
    still = Table(
        "What stands still",
        "An operation without a rule freezes what it touches.",
        ["because of", "axes", "which"],
        [[reason, str(len(places)), _some(places, every)] for reason, places in symmetry.frozen.items()],
        words=("which",),
    )
    return [table for table in (moving, still) if table.rows]


def _some(places: Sequence[str], every: bool) -> str:
    shown = places if every else places[:SHOWN]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
