"""A table of results beside files of weights: which row belongs to which file, and by what evidence.

Names are compared as text, with their zeros, with or without suffix and folders. A column of row numbers, which says
nothing of files that merely have numbers for names, is never chosen; of two columns that would name files otherwise,
neither is.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from weightspace.errors import InputError
from weightspace.inputs import parse_json
from weightspace.inputs import read_table as read_parquet
from weightspace.weights.files import WEIGHT_SUFFIXES
from weightspace.zoo.importing.properties import flatten, plain, whole

# What stands where nothing is known.
NOTHING = ("", "NA", "N/A", "NaN", "nan", "null", "None", "<NA>")
# Columns that say which moment of a member a row is of.
EPOCHS = ("epoch", "epochs")
STEPS = ("step", "steps", "iteration", "training_iteration", "global_step")
KINDS = (".csv", ".tsv", ".parquet", ".json", ".jsonl")
MOST_ROWS, MOST_COLUMNS = 2_000_000, 10_000


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
    by_place = _match_places(name, table, places or {}, by)
    if by_place is not None:
        return by_place
    owners = _Owners(paths)
    owner_of = {column: [owners.find(text) for text in table[column]] for column in ([by] if by else table.columns)}
    if not by:
        # Words and numbers hit upon names by chance: most of what could be named is, by what names files.
        enough = min(len(table), len(paths)) / 2
        named = {
            column: files
            for column, files in owner_of.items()
            if sum(map(owners.knows, table[column])) > enough and _hits(files) and not _is_no_name(table, column)
        }
        owner_of = {column: files for column, files in named.items() if _once(files)} or named
    if not any(_hits(files) for files in owner_of.values()):
        numbers = [column for column in table.columns if _is_nameless(column)]
        more = f" but its row numbers ({numbers[0]})" if numbers and not by else ""
        return Matched({}, {}, why=f"none of its columns names files{more}")
    most = max(_hits(files) for files in owner_of.values())
    best = {column: files for column, files in owner_of.items() if _hits(files) == most}
    first, *others = best
    rival = next((column for column in others if best[column] != best[first]), None)
    if rival is not None:
        raise _ask(name, first, rival)
    return _matched(name, table, first, best[first], owners)


def _match_places(name: str, table: pd.DataFrame, places: Mapping[str, tuple[str, int]], by: str) -> Matched | None:
    """Rows by the member that a column names and by the epoch; None if no column names members and a row is not of one
    file alone.
    """
    epochs = next((column for column in table.columns if column.lower() in EPOCHS), None)
    if epochs is None or not places:
        return None
    files = {(member, epoch): path for path, (member, epoch) in places.items()}
    members = {member for member, _ in files}
    columns = [column for column in ([by] if by else table.columns) if column != epochs and not _is_nameless(column)]
    numbered = {int(member): member for member in members if member.isdecimal()}
    member_of = {column: [_member(value, members, numbered) for value in table[column]] for column in columns}
    hits = {column: sum(map(bool, named)) for column, named in member_of.items()}
    best = [column for column in columns if hits[column] == max(hits.values()) > len(table) / 2]
    if not best:
        return None
    column, *others = best
    rival = next((name for name in others if member_of[name] != member_of[column]), None)
    if rival is not None:
        raise _ask(name, column, rival)
    finished = [whole(value) for value in table[epochs]]
    if _shifted({key for key in zip(member_of[column], finished, strict=True) if None not in key}, set(files)):
        why = "its epochs and those of the files are one apart: which of them counts from 0 it does not say"
        return Matched({}, {}, why=why)
    rows, lines, strange = {}, {}, []
    places_of = zip(member_of[column], finished, table.to_dict("records"), strict=True)
    for line, (member, epoch, values) in enumerate(places_of, start=2):
        del values[column], values[epochs]
        file = files.get((member, epoch)) if member is not None and epoch is not None else None
        if file is None:
            strange.append((f"{member} at epoch {epoch}", "no file"))
        elif file in rows:
            raise InputError(f"expected one row for each member and epoch, found {member} at epoch {epoch} twice")
        else:
            rows[file] = {str(key): plain(value) for key, value in values.items() if not _empty(value)}
            lines[file] = line
    return Matched(rows, lines, f"{column} and {epochs}", strange) if rows else None


def _ask(name: str, first: str, rival: str) -> InputError:
    return InputError(
        f"expected one column of {name} to name the files, found that {first} and {rival} fit equally well and say "
        f"otherwise: --by {first} or --by {rival}"
    )


def _member(value: Any, members: set[str], numbered: Mapping[int, str]) -> str | None:
    """The member that a value names: as text, or as a number that has lost its zeros."""
    text = str(value).strip()
    return text if text in members else numbered.get(int(text)) if text.isdecimal() else None


def _shifted(rows: set[Any], files: set[tuple[str, int]]) -> bool:
    """Whether rows and files have other epochs that would be the same, were one of them counted from 1 higher."""
    known = {(member, epoch) for member, epoch in rows if member in {name for name, _ in files}}
    if files <= known:
        return False
    return any({(member, epoch + shift) for member, epoch in known} >= files for shift in (-1, 1))


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
    """Which file a text names: the two paths are the same as far as both go, with or without the suffix."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._named: dict[str, set[str]] = {}
        self._whole: dict[str, set[str]] = {}
        for path in paths:
            for key in _keys(path):
                self._named.setdefault(key, set()).add(path)
            for key in {path, stem_of(path)}:
                self._whole.setdefault(key, set()).add(path)
        self._numbered: dict[int, set[str]] = {}
        for key, files in self._named.items():
            if key.isdecimal():
                self._numbered.setdefault(int(key), set()).update(files)

    def find(self, text: Any) -> str | None:
        files = self._candidates(text)
        return next(iter(files)) if len(files) == 1 else None

    def knows(self, text: Any) -> bool:
        return bool(self._candidates(text))

    def why_not(self, text: Any) -> str:
        return "several files" if self.knows(text) else "no file"

    def _candidates(self, text: Any) -> set[str]:
        if _empty(text):
            return set()
        words = str(text).strip().replace("\\", "/").removeprefix("./").rstrip("/")
        for name in (words, stem_of(words)):
            if name in self._named:
                return self._named[name]
            parts = name.split("/")
            for start in range(1, len(parts)):
                if files := self._whole.get("/".join(parts[start:])):
                    return files
        # Numbers lose their zeros where a program took them for numbers.
        number = words.removesuffix(".0")
        return self._numbered.get(int(number), set()) if number.isdecimal() else set()


def _keys(path: str) -> Iterator[str]:
    """All that a text may be of a path: its end, from any folder on."""
    parts = path.split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        yield from {tail, stem_of(tail)} - {""}


def stem_of(path: str) -> str:
    """A path without the suffix of a file of weights."""
    return (
        next((path.removesuffix(suffix) for suffix in reversed(WEIGHT_SUFFIXES) if path.endswith(suffix)), path)
        or "model"
    )


def _hits(files: list[str | None]) -> int:
    return sum(file is not None for file in files)


def _once(files: list[str | None]) -> bool:
    """Whether a column names no file twice."""
    named = [file for file in files if file is not None]
    return len(set(named)) == len(named)


def _is_nameless(column: str) -> bool:
    """Whether a column has no name of its own, as row numbers have none."""
    return not column.strip() or column.startswith("Unnamed:") or column in ("index", "level_0", "__index_level_0__")


def _is_no_name(table: pd.DataFrame, column: str) -> bool:
    """Whether a column names no files, whatever it hits upon: row numbers, in order or not, and counts of epochs."""
    if column.lower() in (*EPOCHS, *STEPS):
        return True
    return _is_nameless(column) and all(whole(value) is not None for value in table[column].dropna())


def read_table(name: str, data: bytes) -> pd.DataFrame:
    """A table with its columns named as text; a csv's values as text, an index with a name as a column."""
    readers = {
        ".csv": lambda file: _read_lines(file, ","),
        ".tsv": lambda file: _read_lines(file, "\t"),
        ".parquet": _read_parquet,
        ".json": _read_json,
        ".jsonl": lambda file: pd.DataFrame([flatten(parse_json(line, name)) for line in file if line.strip()]),
    }
    suffix = next((suffix for suffix in readers if name.endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"expected a table as {', '.join(KINDS)}, found {name}")
    try:
        table = readers[suffix](io.BytesIO(data))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"expected a readable table in {name}, found none ({error})") from error
    return table.rename(columns=str)


def _read_lines(file: io.BytesIO, separator: str) -> pd.DataFrame:
    """A table of text, every value as it is written; lines may end in a separator, but have no more than the head."""
    text = file.read().decode("utf-8-sig", errors="replace")
    head = next(csv.reader(io.StringIO(text), delimiter=separator), [])
    if len(head) == 1 and ";" in head[0]:
        separator = ";"
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if line]
    if not lines:
        raise ValueError("it is empty")
    if len(lines) > MOST_ROWS or max(map(len, lines)) > MOST_COLUMNS:
        raise ValueError(f"it has more than {MOST_ROWS:,} lines, or more than {MOST_COLUMNS:,} values in one")
    named = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(lines[0])]
    columns = [name if name not in named[:place] else f"{name}.{place}" for place, name in enumerate(named)]
    for number, line in enumerate(lines[1:], start=2):
        if any(value.strip() for value in line[len(columns) :]):
            raise ValueError(f"line {number} has more values than the head has names")
    rows = [[None if value in NOTHING else value for value in line[: len(columns)]] for line in lines[1:]]
    padded = [row + [None] * (len(columns) - len(row)) for row in rows]
    return pd.DataFrame(padded, columns=columns, dtype=object)


def _read_parquet(file: io.BytesIO) -> pd.DataFrame:
    table = read_parquet(file, "the table")
    unnamed = table.index.names == [None] and isinstance(table.index, pd.RangeIndex)
    return table if unnamed else table.reset_index()


def _read_json(file: io.BytesIO) -> pd.DataFrame:
    """A list of objects with the file's name in one of them, or `{file name: {property: value}}`."""
    value = parse_json(file.read(), "the table")
    by_column = isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values())
    if by_column and value and all(key.isdecimal() for item in value.values() for key in item):
        return pd.DataFrame(value)  # as pandas writes a table unless it is told otherwise
    if isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
        return pd.DataFrame([{"file": key, **flatten(item)} for key, item in value.items()])
    return pd.DataFrame([flatten(item) for item in value])


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA
