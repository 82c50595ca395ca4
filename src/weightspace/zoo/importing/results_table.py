"""A table of results beside files of weights: which row belongs to which file, and by what evidence.

Names are compared as text, with their zeros, with or without suffix and folders. A column of row numbers, which says
nothing of files that merely have numbers for names, is never chosen; of two columns that would name files otherwise,
neither is.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from weightspace.errors import InputError
from weightspace.zoo.importing.properties import flatten, number, plain, whole
from weightspace.zoo.importing.reader import SUFFIXES

# Columns that say which moment of a member a row is of.
EPOCHS = ("epoch", "epochs")
KINDS = (".csv", ".tsv", ".parquet", ".json", ".jsonl")


class Matched(NamedTuple):
    """What a table says of files.

    Attributes:
        rows: file -> its properties, under the table's names.
        lines: file -> which line of the table that is, from 1 with the head's.
        column: that which names the files.
        strange: values of that column that name no file or several, with the reason.
        why: if no column names files, why not.
    """

    rows: dict[str, dict[str, Any]]
    lines: dict[str, int]
    column: str = ""
    strange: Sequence[tuple[str, str]] = ()
    why: str = ""


def match_table(
    name: str, data: bytes, paths: Sequence[str], by: str = "", places: Mapping[str, tuple[str, int]] | None = None
) -> Matched:
    """Give every file its row.

    Args:
        name: of the table, by whose suffix it is read.
        data: its bytes.
        paths: of the files.
        by: the column that names them; found if empty.
        places: member and epoch of files, where their paths tell: for tables with a row for every epoch of a member.

    Raises:
        InputError: no readable table, no such column, a file with two rows, or two columns that fit equally well.
    """
    table = read_table(name, data)
    if by and by not in table.columns:
        raise InputError(f"expected a column of {name} among {', '.join(table.columns)}, found '{by}'")
    by_place = _match_places(table, places or {}, by)
    if by_place is not None:
        return by_place
    owners = _Owners(paths)
    owner_of = {column: [owners.find(text) for text in table[column]] for column in ([by] if by else table.columns)}
    if not by:
        enough = min(len(table), len(paths)) / 2
        named = {
            column: files
            for column, files in owner_of.items()
            if _hits(files) > (enough if _numbers(table[column]) else 0) and not _counts(table, column)
        }
        owner_of = {column: files for column, files in named.items() if _once(files)} or named
    if not any(_hits(files) for files in owner_of.values()):
        numbers = [column for column in table.columns if _counts(table, column)]
        more = f" but its row numbers ({numbers[0]})" if numbers and not by else ""
        return Matched({}, {}, why=f"none of its columns names files{more}")
    most = max(_hits(files) for files in owner_of.values())
    best = {column: files for column, files in owner_of.items() if _hits(files) == most}
    first, *others = best
    rival = next((column for column in others if best[column] != best[first]), None)
    if rival is not None:
        raise InputError(
            f"expected one column of {name} to name the files, found that {first} and {rival} fit equally well and "
            f"say otherwise: --by {first} or --by {rival}"
        )
    return _matched(name, table, first, best[first], owners)


def _match_places(table: pd.DataFrame, places: Mapping[str, tuple[str, int]], by: str) -> Matched | None:
    """Rows by the member that a column names and by the epoch; None if no column names members and a row is not of one
    file alone.
    """
    epochs = next((column for column in table.columns if column.lower() in EPOCHS), None)
    if epochs is None or not places:
        return None
    files = {(member, epoch): path for path, (member, epoch) in places.items()}
    members = {member for member, _ in files}
    columns = [column for column in ([by] if by else table.columns) if column != epochs]
    column = max(columns, key=lambda column: table[column].astype(str).isin(members).sum(), default=None)
    if column is None or not table[column].astype(str).isin(members).any():
        return None
    rows, lines, strange = {}, {}, []
    for line, values in enumerate(table.to_dict("records"), start=2):
        member, epoch = str(values.pop(column)), whole(values.pop(epochs))
        file = files.get((member, epoch)) if epoch is not None else None
        if file is None:
            strange.append((f"{member} at epoch {epoch}", "no file"))
        elif file in rows:
            raise InputError(f"expected one row for each member and epoch, found {member} at epoch {epoch} twice")
        else:
            rows[file] = {str(key): plain(value) for key, value in values.items() if not _empty(value)}
            lines[file] = line
    return Matched(rows, lines, f"{column} and {epochs}", strange) if rows else None


def _matched(name: str, table: pd.DataFrame, column: str, files: list[str | None], owners: "_Owners") -> Matched:
    rows, lines, strange = {}, {}, []
    for place, (file, values) in enumerate(zip(files, table.to_dict("records"), strict=True)):
        text = values.pop(column)
        if file is None:
            strange.append((str(text), owners.why_not(text)))
        elif file in rows:
            raise InputError(f"expected one row of {name} per file, found {text} twice")
        else:
            rows[file] = {str(key): plain(value) for key, value in values.items() if not _empty(value)}
            lines[file] = place + 2
    return Matched(rows, lines, column, strange)


class _Owners:
    """Which file a text names: by as much of its path as there is, with or without the suffix; the longest first."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._named: dict[str, set[str]] = {}
        for path in paths:
            for key in _keys(path):
                self._named.setdefault(key, set()).add(path)
        self._numbered: dict[int, set[str]] = {}
        for key, own in self._named.items():
            if key.isdecimal():
                self._numbered.setdefault(int(key), set()).update(own)

    def find(self, text: Any) -> str | None:
        own = self._candidates(text)
        return next(iter(own)) if len(own) == 1 else None

    def why_not(self, text: Any) -> str:
        return "several files" if len(self._candidates(text)) > 1 else "no file"

    def _candidates(self, text: Any) -> set[str]:
        if _empty(text):
            return set()
        words = str(text).strip().replace("\\", "/").removeprefix("./").rstrip("/")
        parts = words.split("/")
        for start in range(len(parts)):
            own = self._named.get("/".join(parts[start:]))
            if own:
                return own
        stem = stem_of(parts[-1])
        if stem != parts[-1] and stem in self._named:
            return self._named[stem]
        # Numbers lose their zeros where a program took them for numbers.
        number = stem.removesuffix(".0")
        return self._numbered.get(int(number), set()) if number.isdecimal() else set()


def _keys(path: str) -> Iterator[str]:
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield from {tail, stem_of(tail)} - {""}


def stem_of(path: str) -> str:
    """A path without the suffix of a file of weights."""
    return next((path.removesuffix(suffix) for suffix in reversed(SUFFIXES) if path.endswith(suffix)), path) or "model"


def _hits(files: list[str | None]) -> int:
    return sum(file is not None for file in files)


def _numbers(values: pd.Series) -> bool:
    """Whether a column holds numbers, which hit upon names by chance: most of what could be named should be."""
    return all(number(value) is not None for value in values.dropna())


def _once(files: list[str | None]) -> bool:
    """Whether a column names no file twice."""
    named = [file for file in files if file is not None]
    return len(set(named)) == len(named)


def _counts(table: pd.DataFrame, column: str) -> bool:
    """Whether a column has no name of its own and numbers the rows from 0 or 1."""
    nameless = not column.strip() or column.startswith("Unnamed:") or column in ("index", "__index_level_0__")
    values = [str(value) for value in table[column]]
    return nameless and any(values == [str(place + first) for place in range(len(values))] for first in (0, 1))


def read_table(name: str, data: bytes) -> pd.DataFrame:
    """A table with its columns named as text; a csv's values as text, an index with a name as a column."""
    readers = {
        ".csv": lambda file: pd.read_csv(file, dtype=str),
        ".tsv": lambda file: pd.read_csv(file, sep="\t", dtype=str),
        ".parquet": _read_parquet,
        ".json": _read_json,
        ".jsonl": lambda file: pd.DataFrame([flatten(json.loads(line)) for line in file if line.strip()]),
    }
    suffix = next((suffix for suffix in readers if name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"expected a table as {', '.join(KINDS)}, found {name}")
    try:
        table = readers[suffix](io.BytesIO(data))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"expected a readable table in {name}, found none ({error})") from error
    return table.rename(columns=str)


def _read_parquet(file: io.BytesIO) -> pd.DataFrame:
    table = pd.read_parquet(file)
    unnamed = table.index.names == [None] and isinstance(table.index, pd.RangeIndex)
    return table if unnamed else table.reset_index()


def _read_json(file: io.BytesIO) -> pd.DataFrame:
    """A list of objects with the file's name in one of them, or `{file name: {property: value}}`."""
    value = json.load(file)
    if isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
        return pd.DataFrame([{"file": key, **flatten(item)} for key, item in value.items()])
    return pd.DataFrame([flatten(item) for item in value])


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA
