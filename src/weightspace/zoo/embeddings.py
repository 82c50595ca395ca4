"""One vector per checkpoint, whatever made it: baselines and learned ones alike."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from weightspace.errors import InputError
from weightspace.zoo.zoo import Zoo

Source = Literal["baseline", "sane", "both"]


class Representation(NamedTuple):
    """What vectors are.

    Attributes:
        label: for tables, such as `SANE (readout)`.
        source: `sane` if a trained SANE alone made them, `baseline` if none did, `both` for the two side by side.
    """

    label: str
    source: Source = "baseline"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector per checkpoint, with the checkpoints' rows of the zoo's table.

    Attributes:
        features: in the order of `table`.
        representation: what the vectors are.
        trained_on: members of the table that whatever made the vectors was trained on.
        left_out: networks that have no vector, and why.
        notes: what is to be said of all of them; passes: forward passes that one of them cost, if it was asked.

    Examples:
        >>> table = pd.DataFrame({"member": ["a", "b"], "epoch": [0, 0]})
        >>> Embeddings(np.eye(2), table, Representation("W")).to_table().columns.tolist()
        ['member', 'epoch', 'z0', 'z1']
    """

    features: Float[np.ndarray, "checkpoints features"]
    table: pd.DataFrame
    representation: Representation
    trained_on: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    passes: int = 0

    def forgetting(self) -> "Embeddings":
        """The same without a record of what they were trained on, so that no probe refuses."""
        return replace(self, trained_on=frozenset())

    def last_epochs(self) -> "Embeddings":
        """Those of every member's last checkpoint."""
        last = self.table.groupby("member")["epoch"].transform("max")
        keep = (self.table["epoch"] == last).to_numpy()
        return replace(self, features=self.features[keep], table=self.table[keep])

    def to_table(self) -> pd.DataFrame:
        """The zoo's table with the vectors as columns `z0, z1, ...`."""
        columns = [f"z{number}" for number in range(self.features.shape[1])]
        vectors = pd.DataFrame(self.features, columns=columns, index=self.table.index)
        return pd.concat([self.table, vectors], axis=1)


def rows_in_order(
    zoo: Zoo, parts: Iterable[tuple[np.ndarray, pd.DataFrame]], what: str
) -> Float[np.ndarray, "checkpoints features"]:
    """Rows that are computed part by part, each with its rows of the zoo's table, in the order of that table.

    They are in memory once, and one part of them.

    Raises:
        InputError: rows of different widths, which `what` cannot have.
    """
    place = pd.Series(range(len(zoo.table)), index=zoo.table.index)
    ordered: np.ndarray | None = None
    for rows, table in parts:
        if ordered is None:
            ordered = np.empty((len(zoo.table), rows.shape[1]), rows.dtype)
        if rows.shape[1] != ordered.shape[1]:
            raise InputError(
                f"expected networks with the same layers for {what}, found several: choose one architecture"
            )
        ordered[place[table.index].to_numpy()] = rows
    return ordered if ordered is not None else np.empty((0, 0), np.float32)
