"""Settings and tables that others wrote: bounded, and refused in one sentence; the counterpart of `outputs`."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from weightspace.errors import InputError
from weightspace.remote import Place

if TYPE_CHECKING:
    import pandas as pd

Config = TypeVar("Config")
MEBIBYTE = 2**20
# Of settings or results as text: in a file of their own, and in an archive, which may hold far more than its size.
MOST_SETTINGS, MOST_PACKED = 256 * MEBIBYTE, 32 * MEBIBYTE
# Of a table in memory: bytes, and entries that are objects there, each of some 60 bytes.
MOST_TABLE, MOST_OBJECTS = 512 * MEBIBYTE, 16 * 2**20
BATCH_ROWS, BATCH_ENTRIES, BATCH_BYTES = 65_536, 2**20, 64 * MEBIBYTE
SUMS_KEY = b"weightspace.sums"


def read_settings(path: Place, most: int = MOST_SETTINGS) -> bytes:
    """A whole file of settings.

    Raises:
        InputError: it cannot be read, is no file, or is larger than `most` bytes.
    """
    try:
        if not path.is_file():
            raise InputError(f"expected a file at {path}, found {'something else' if path.exists() else 'nothing'}")
        with path.open("rb") as file:
            held = file.read(most + 1)
    except OSError as error:
        raise InputError(f"expected a file that can be read at {path}, found none ({error.strerror})") from error
    require_bytes(len(held), str(path), most)
    return held


def require_bytes(size: int, where: str, most: int = MOST_SETTINGS) -> None:
    """Raise `InputError` for more bytes than are read whole."""
    if size > most:
        raise InputError(f"expected at most {most // MEBIBYTE} MiB in {where}, found more")


def parse_json(text: bytes | str, where: str, objects: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """JSON, of any depth that can be read.

    Args:
        text: what is read.
        where: it stands, for refusals.
        objects: what is made of the pairs of each object; a dict without.

    Raises:
        InputError: it is none, or is nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=objects)
    except RecursionError as error:
        raise InputError(f"expected JSON in {where}, found it nested too deep") from error
    except (ValueError, MemoryError) as error:
        raise InputError(f"expected JSON in {where}, found something else ({error})") from error


def read_json(path: Place, most: int = MOST_SETTINGS) -> Any:
    """The JSON in a file.

    Raises:
        InputError: nothing there, something else, nested too deep, or more than `most` bytes.
    """
    return parse_json(read_settings(path, most), str(path))


def read_object(path: Place) -> dict[str, Any]:
    """The JSON object in a file; see `read_json`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object in {path}, found a {type(value).__name__}")
    return value


def read_table(file: Path | io.BytesIO, where: str = "") -> "pd.DataFrame":
    """A Parquet table; checksums of its pages are compared, where it has them.

    Raises:
        InputError: no such table, a damaged one, or more than 512 MiB of it in memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = where or str(file)
    damage = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError, pa.ArrowException)
    try:
        with (
            file.open("rb") if isinstance(file, Path) else file as held,
            pq.ParquetFile(held, page_checksum_verification=True) as stored,
        ):
            _require_bounded(stored, held, where)
            table = stored.read()
        frame = table.to_pandas()
        _compare_sums(frame, table.schema.metadata or {}, where)
    except InputError:
        raise
    except damage as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise InputError(f"expected a Parquet table at {where}, found a damaged file ({reason})") from error
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"expected every column of {where} once, found '{twice[0]}' twice")
    return frame


def column_sums(frame: "pd.DataFrame") -> dict[str, str]:
    """A checksum of the values of every column, which a Parquet table may hold beside them."""
    return {str(name): _sum_of(frame[name]) for name in frame.columns}


def _sum_of(column: "pd.Series") -> str:
    import numpy as np

    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        held = column.to_numpy().tobytes()
    else:
        texts = ["" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
        held = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(held, digest_size=8).hexdigest()


def _compare_sums(frame: "pd.DataFrame", metadata: dict[bytes, bytes], where: str) -> None:
    """Refuse columns that are not as they were written; of those that were added later nothing is known."""
    if SUMS_KEY not in metadata:
        return
    sums = parse_json(metadata[SUMS_KEY], where)
    found = column_sums(frame[[name for name in frame.columns if name in sums]])
    changed = [name for name, digest in found.items() if sums[name] != digest]
    if changed:
        raise InputError(
            f"expected the column {changed[0]} of {where} as it was written, found it damaged or changed: to change it "
            f"write the table without the metadata {SUMS_KEY.decode()}"
        )


def _require_bounded(stored: Any, file: Any, where: str) -> None:
    """Refuse a table that is larger in memory than a table may be: a few bytes can stand for very many.

    Texts are not written out for it: how often each is there is enough.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, about = stored.schema_arrow, stored.metadata
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    texts = [field.name for field in schema if field.type in kinds]
    plain = [field for field in schema if field.name in texts or pa.types.is_primitive(field.type)]
    objects = len(schema) - sum(pa.types.is_primitive(field.type) for field in schema)
    if objects * about.num_rows > MOST_OBJECTS:
        raise InputError(f"expected at most {MOST_OBJECTS:,} texts in {where}, found {objects * about.num_rows:,}")
    rows = max(1, min(BATCH_ROWS, BATCH_ENTRIES // max(1, len(schema))))
    if len(plain) < len(schema):  # of lists one row may be all that there is
        largest = max((about.row_group(number).total_byte_size for number in range(about.num_row_groups)), default=1)
        rows = max(1, min(rows, BATCH_BYTES // max(1, largest)))
    size = 0
    for batch in pq.ParquetFile(file, read_dictionary=texts).iter_batches(batch_size=rows):
        size += sum(map(_bytes_of, batch.columns))
        require_bytes(size, where, MOST_TABLE)


def _bytes_of(column: Any) -> int:
    """What a column takes in memory, its texts written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return 8 * len(column) + (pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def config_from(kind: type[Config], value: Any, where: str) -> Config:
    """A configuration from JSON; every field has the type that it says, and checks what else it asks for.

    Raises:
        InputError: unknown fields, or values of another type or range.
    """
    hints = get_type_hints(kind)
    if not isinstance(value, dict) or not value.keys() <= hints.keys():
        raise InputError(f"expected the fields of a {kind.__name__} in {where}, found {value!r:.80}")
    fields = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    for name, item in fields.items():
        if not _fits(item, hints[name]):
            raise InputError(f"expected another type of {name} in {where}, found {item!r:.80}")
    return kind(**fields)


def _fits(item: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type, as far as configurations have types."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return item in inner
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(item, one) for one in inner)
    if get_origin(hint) is tuple:
        kinds = inner[:1] * len(item) if isinstance(item, tuple) and Ellipsis in inner else inner
        return isinstance(item, tuple) and len(kinds) == len(item) and all(map(_fits, item, kinds))
    if hint is float:
        return type(item) in (int, float)
    return type(item) is hint
