"""Plain folders: a file, or a Hugging Face style folder, for every checkpoint.

Who a checkpoint belongs to and what is known of it comes from a pattern on its path, from a table, and from the
file's own metadata, the first of these counting most.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

from weightspace.errors import InputError
from weightspace.weights.files import INDEX_FILES, SINGLE_FILES
from weightspace.weights.values import natural_key
from weightspace.zoo.importing.properties import flatten, named, whole
from weightspace.zoo.importing.reader import Entry, Kind, Listing, Load, load_file
from weightspace.zoo.importing.source import Source, inside, parent_of
from weightspace.zoo.zoo import ZOO_FILE

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
TABLES = (".csv", ".tsv", ".parquet", ".json", ".jsonl")
CONFIG = "config.json"
# Files that training scripts leave beside the weights.
NO_WEIGHTS = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "training_args.bin", "rng_state.pth", "scaler.pt")


class PlainReader:
    """Reads every file of weights below a folder; folders with a `config.json` and a model count as one."""

    layout = "plain files"

    def __init__(self, source: Source, pattern: str = "", table: str = "") -> None:
        self.source, self.pattern, self.table = source, pattern, table
        self._compiled = _compile(pattern)

    def scan(self) -> Listing:
        """Every checkpoint, by member and epoch."""
        listing = Listing()
        paths = self._checkpoints(listing)
        rows = self._rows(paths, listing)
        for path in paths:
            parsed = self._parse(path, listing)
            if parsed is None:
                continue
            values = {**rows.get(path, {}), **parsed}
            member = str(values.pop("member", "") or _stem(path))
            epoch = _epoch(values.pop("epoch", None), listing)
            size = self.source.size(path)
            listing.entries.append(Entry(member, epoch, named(flatten(values)), self._kind(path, listing), path, size))
        listing.entries.sort(key=lambda entry: (natural_key(entry.member), entry.epoch or 0))
        if listing.entries and all(entry.epoch is None for entry in listing.entries):
            listing.note("no epochs are known but from the files: every file is a member, unless --pattern tells more")
        return listing

    @contextmanager
    def loading(self) -> Iterator[Load]:
        """Files are loaded one by one."""
        yield lambda entry: load_file(self.source, entry.path)

    def _checkpoints(self, listing: Listing) -> list[str]:
        """Files of weights, and folders that are one model, in natural order."""
        files = self.source.files
        present = set(files)
        models = {
            parent_of(path)
            for path in files
            if path.rpartition("/")[2] in (*SINGLE_FILES, *INDEX_FILES) and inside(parent_of(path), CONFIG) in present
        }
        zoos = [parent_of(path) for path in files if path.rpartition("/")[2] == ZOO_FILE]
        for zoo in zoos:
            listing.leave_out(zoo, "a zoo of this package already")
        alone = []
        for path in files:
            if any(path.startswith(f"{zoo}/") for zoo in zoos):
                continue
            name = path.rpartition("/")[2]
            if parent_of(path) in models or not name.endswith(SUFFIXES):
                continue
            if name in NO_WEIGHTS or "optim" in name:
                listing.leave_out(path, "the state of an optimizer or the like, not weights")
            else:
                alone.append(path)
        return [*sorted(models, key=natural_key), *alone]

    def _parse(self, path: str, listing: Listing) -> dict[str, Any] | None:
        if self._compiled is None:
            return {}
        found = self._compiled.parse(path)
        if found is None:
            listing.leave_out(path, f"its path does not fit the pattern {self.pattern}")
            return None
        return dict(found.named)

    def _rows(self, paths: list[str], listing: Listing) -> dict[str, dict[str, Any]]:
        """What a table says of each path; the column with file names is the one that names most of them."""
        name = self.table or self._lonely_table()
        if not name:
            return {}
        table = _read_table(name, self._table_bytes(name))
        owners: dict[str, set[str]] = {}
        for path in paths:
            for key in _keys(path):
                owners.setdefault(key, set()).add(path)
        keys = {key: next(iter(own)) for key, own in owners.items() if len(own) == 1}
        hits = {column: table[column].astype(str).isin(owners).sum() for column in table.columns}
        column = max(hits, key=lambda column: hits[column], default="")
        if not hits or not hits[column]:
            if not self.table:
                return {}
            raise InputError(f"expected a column of {name} to name files below the folder, found none that does")
        rows: dict[str, dict[str, Any]] = {}
        for values in table.to_dict("records"):
            key = str(values.pop(column))
            owner = keys.get(key)
            if owner is None:
                why = "several files" if key in owners else "no file"
                listing.leave_out(f"{name}: {key}", f"a row of the table that names {why}")
            elif owner in rows:
                raise InputError(f"expected one row of {name} per file, found {key} twice")
            else:
                rows[owner] = {str(name): value for name, value in values.items() if not _missing(value)}
        without = sum(path not in rows for path in paths)
        listing.note(f"properties were read from {name.rpartition('/')[2]}, matched by its column {column}", len(rows))
        if without:
            listing.note(f"a file has no row in {name.rpartition('/')[2]}", without)
        return rows

    def _lonely_table(self) -> str:
        """The table at the top of the folder, if there is just one."""
        found = [path for path in self.source.files if "/" not in path and path.endswith((".csv", ".tsv", ".parquet"))]
        return found[0] if len(found) == 1 else ""

    def _table_bytes(self, name: str) -> bytes:
        if name in self.source.files:
            return self.source.read(name)
        try:
            with open(name, "rb") as file:  # noqa: PTH123  (the one place where a path is the user's own)
                return file.read()
        except OSError as error:
            raise InputError(f"expected a table at {name}, found nothing readable there") from error

    def _kind(self, path: str, listing: Listing) -> Kind:
        """For a folder with a configuration, the architecture's name as that states it."""
        config = inside(path, CONFIG)
        if config not in self.source.files:
            return Kind()
        try:
            value = json.loads(self.source.read(config))
            name = (value.get("architectures") or [value.get("model_type") or "network"])[0]
        except (ValueError, AttributeError, IndexError, TypeError):
            listing.note("a config.json cannot be read")
            return Kind()
        listing.ignored |= {f"config.json: {key}" for key in value}
        return Kind(name=re.sub(r"[^A-Za-z0-9]+", "-", str(name)).strip("-").lower() or "network")


def _compile(pattern: str) -> Any:
    """A pattern ready for use; None for none."""
    if not pattern:
        return None
    import parse

    try:
        compiled = parse.compile(pattern)
    except ValueError:
        compiled = None
    if compiled is None or not compiled.named_fields:
        raise InputError(f"expected a pattern such as '{{member}}/epoch-{{epoch:d}}.pt', found '{pattern}'")
    return compiled


def _read_table(name: str, data: bytes) -> pd.DataFrame:
    readers = {
        ".csv": pd.read_csv,
        ".tsv": lambda file: pd.read_csv(file, sep="\t"),
        ".parquet": pd.read_parquet,
        ".json": _read_json,
        ".jsonl": lambda file: pd.read_json(file, lines=True),
    }
    suffix = next((suffix for suffix in readers if name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"expected a table as {', '.join(TABLES)}, found {name}")
    try:
        return readers[suffix](io.BytesIO(data))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"expected a readable table in {name}, found none ({error})") from error


def _read_json(file: io.BytesIO) -> pd.DataFrame:
    """A list of objects with the file's name in one of them, or `{file name: {property: value}}`."""
    value = json.load(file)
    if isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
        return pd.DataFrame([{"file": key, **flatten(item)} for key, item in value.items()])
    return pd.DataFrame([flatten(item) for item in value])


def _keys(path: str) -> set[str]:
    """How a table may name a file: with or without its folder and its suffix."""
    name = path.rpartition("/")[2]
    return {path, _stem(path), name, _stem(name)} - {""}


def _stem(path: str) -> str:
    return next((path.removesuffix(suffix) for suffix in SUFFIXES if path.endswith(suffix)), path) or "model"


def _epoch(value: Any, listing: Listing) -> int | None:
    if value is None or _missing(value):
        return None
    epoch = whole(value)
    if epoch is None:
        listing.note("an epoch is no whole number, so it was not used")
    return epoch


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
