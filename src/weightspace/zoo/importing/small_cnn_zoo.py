"""The Small CNN Zoo (Unterthiner et al. 2020): one matrix of weights, a row per checkpoint.

Three files: `weights.npy` `[checkpoints, numbers]`, `metrics.csv.gz` (a line a row: settings, `modeldir`, `step`,
which counts epochs, accuracies and losses) and `layout.csv` (`varname`, `start_idx`, `end_idx`, `shape`: which
columns are which tensor, in TensorFlow's axis order).
"""

import ast
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from weightspace.errors import InputError
from weightspace.inputs import MOST_TABLE
from weightspace.weights.values import Weights
from weightspace.zoo.growing.networks import ACTIVATIONS
from weightspace.zoo.growing.recipes import cnn_recipe
from weightspace.zoo.importing.properties import named, number, whole
from weightspace.zoo.importing.reader import Entry, Kind, Listing, Load, Loaded
from weightspace.zoo.importing.source import Source, inside, parent_of

MATRIX, METRICS, LAYOUT = "weights.npy", "metrics.csv.gz", "layout.csv"
COLUMNS = ("varname", "start_idx", "end_idx", "shape")
# Our names of its four layers, in the order of their position in the network.
LAYERS = ("module_list.0", "module_list.2", "module_list.4", "module_list.8")
IMAGE_SIZE = 32


class SmallCnnZooReader:
    """Reads rows of the matrix; kernels change from TensorFlow's axis order to PyTorch's."""

    layout = "Small CNN Zoo (Unterthiner et al.)"
    files = (MATRIX, METRICS, LAYOUT)

    def __init__(self, source: Source) -> None:
        self.source = source
        folders = _complete_folders(source.files)
        if len(folders) > 1:
            raise InputError(
                f"expected one data set of the Small CNN Zoo, found {', '.join(folders)}: import each by itself, and "
                "weightspace.concatenate joins them"
            )
        self._folder = folders[0]

    @staticmethod
    def recognizes(files: Sequence[str]) -> bool:
        """Whether the three files lie in one folder."""
        return bool(_complete_folders(files))

    def scan(self) -> Listing:
        """One entry per line of the metrics."""
        metrics = self._table(METRICS, compression="gzip")
        missing = [name for name in ("modeldir", "step") if name not in metrics.columns]
        if missing:
            raise InputError(f"expected the columns modeldir and step in {METRICS}, found none named {missing[0]}")
        names = {folder: f"member-{place:05d}" for place, folder in enumerate(dict.fromkeys(metrics["modeldir"]))}
        plain = metrics.rename(columns=lambda name: name.removeprefix("config."))
        listing = Listing(ignored={"modeldir"})
        for path in self.source.files:
            if path.rpartition("/")[2] not in self.files or parent_of(path) != self._folder:
                listing.leave_out(path, "no part of the Small CNN Zoo beside it")
        size = self.source.size(inside(self._folder, MATRIX)) // max(1, len(metrics))
        rows = plain.drop(columns=["modeldir", "step"]).to_dict("records")
        for row, values in enumerate(rows):
            member, epoch = names[metrics["modeldir"].iloc[row]], whole(metrics["step"].iloc[row])
            if epoch is None:
                listing.leave_out(f"row {row}", f"expected a whole number as step, found {metrics['step'].iloc[row]}")
                continue
            properties = named({str(key): value for key, value in values.items() if value == value})
            listing.entries.append(Entry(member, epoch, properties, _kind(properties), str(row), size))
        listing.entries.sort(key=lambda entry: (entry.member, entry.epoch or 0))
        return listing

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Rows are read from the matrix where it lies; it is never in memory as a whole."""
        plan = self._plan()
        with self.source.local(inside(self._folder, MATRIX)) as path:
            try:
                matrix = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise InputError(f"expected a numpy matrix in {MATRIX}, found none ({error})") from error
            if matrix.ndim != 2 or matrix.shape[1] != plan[-1][2]:
                raise InputError(
                    f"expected {plan[-1][2]} columns in {MATRIX}, as {LAYOUT} says, found shape {matrix.shape}"
                )
            yield lambda entry: Loaded(_tensors(_row(matrix, int(entry.path)), plan), {})

    def _plan(self) -> list[tuple[str, int, int, tuple[int, ...]]]:
        """`(our name, start, end, TensorFlow's shape)` of every tensor, ordered by place in the row."""
        layout = self._table(LAYOUT)
        missing = [name for name in COLUMNS if name not in layout.columns]
        if missing:
            raise InputError(f"expected the columns {', '.join(COLUMNS)} in {LAYOUT}, found none named {missing[0]}")
        layers: dict[str, str] = {}
        plan = []
        for row in layout.itertuples():
            layer, _, part = str(row.varname).removesuffix(":0").rpartition("/")
            own = layers.setdefault(layer, LAYERS[len(layers)] if len(layers) < len(LAYERS) else layer)
            name = f"{own}.{'weight' if part == 'kernel' else part}"
            plan.append((name, int(row.start_idx), int(row.end_idx), _shape(row.shape)))
        if not plan:
            raise InputError(f"expected tensors in {LAYOUT}, found none")
        for name, start, end, shape in plan:
            if math.prod(shape) != end - start:
                raise InputError(f"expected {end - start} numbers in {name}, as {LAYOUT} says, found shape {shape}")
        return sorted(plan, key=lambda place: place[1])

    def _table(self, name: str, **options: str) -> pd.DataFrame:
        try:
            return pd.read_csv(io.BytesIO(self.source.read(inside(self._folder, name), MOST_TABLE)), **options)
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"expected a table in {name}, found something else ({error})") from error


def _complete_folders(files: Sequence[str]) -> list[str]:
    """Folders that hold all three files."""
    folders = [parent_of(path) for path in files if path.rpartition("/")[2] == MATRIX]
    return [folder for folder in folders if all(inside(folder, name) in files for name in (METRICS, LAYOUT))]


def _kind(properties: dict[str, object]) -> Kind:
    activation = str(properties.get("activation", ""))
    if activation not in ACTIVATIONS:
        return Kind("small-cnn", None, activation or None, note="the activation is not one of this package's")
    recipe = cnn_recipe("small-cnn", 1, 10, IMAGE_SIZE)
    note = "strides and padding are not part of the publication"
    return Kind("small-cnn", recipe, activation, number(properties.get("dropout")), note)


def _shape(text: object) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in ast.literal_eval(str(text)))
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"expected shapes such as (3, 3, 1, 16) in {LAYOUT}, found '{text}'") from error


def _row(matrix: np.ndarray, row: int) -> np.ndarray:
    if row >= len(matrix):
        raise InputError(f"expected as many rows in {MATRIX} as lines in {METRICS}, found {len(matrix)}")
    return np.array(matrix[row], dtype=np.float32)


def _tensors(row: np.ndarray, plan: list[tuple[str, int, int, tuple[int, ...]]]) -> Weights:
    """Tensors in PyTorch's axis order: kernels `[height, width, in, out]` and `[in, out]` are turned around."""
    weights = {}
    for name, start, end, shape in plan:
        tensor = torch.from_numpy(row[start:end].reshape(shape))
        turned = {4: (3, 2, 0, 1), 2: (1, 0)}.get(tensor.ndim)
        weights[name] = (tensor.permute(turned) if turned else tensor).contiguous()
    return weights
