"""How a foreign folder is read."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How a foreign folder is read."""

    pattern: str = ""
    """For plain files: what their paths tell, such as '{member}/epoch-{epoch:d}.pt'."""

    table: str = ""
    """For plain files: a .csv, .parquet or .json with one row per file. A single one at the top is found by itself."""

    by: str = ""
    """For plain files: the column of the table that names them, where several could."""

    largest_weight: float = math.inf
    """Leave out checkpoints with a weight beyond this."""

    workers: int = 0
    """Processes; 0: as many as it is worth."""
