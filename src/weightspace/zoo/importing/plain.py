"""Plain folders: a file, or a Hugging Face style folder, for every checkpoint.

Who a checkpoint belongs to and what is known of it comes from a pattern on its path, from a table, and from the
file's own metadata, the first of these counting most.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.inputs import read_settings
from weightspace.weights.files import SINGLE_FILES, WEIGHT_SUFFIXES, is_index
from weightspace.weights.sources import DISTRIBUTED, SHARDS
from weightspace.weights.values import natural_key
from weightspace.zoo.checking import ZOO_FILE
from weightspace.zoo.importing.properties import flatten, name_of, named, whole
from weightspace.zoo.importing.reader import (
    CONFIG,
    Entry,
    FileReader,
    Listing,
    is_copy,
    is_other,
    kind_of_config,
)
from weightspace.zoo.importing.results_table import Matched, match_table, stem_of
from weightspace.zoo.importing.source import Source, inside, parent_of

# Files that hold a network, and that this package cannot read.
FOREIGN = {
    ".pt2": "a program exported by torch (as MLflow logs models)",
    ".jit": "a TorchScript archive",
    ".torchscript": "a TorchScript archive",
    ".ptl": "a TorchScript archive",
    ".h5": "an HDF5 file, as Keras writes them",
    ".hdf5": "an HDF5 file, as Keras writes them",
    ".keras": "a Keras file",
    ".onnx": "an ONNX graph",
    ".gguf": "a GGUF file",
    ".msgpack": "a Flax file",
    ".tflite": "a TensorFlow Lite file",
    ".pb": "a TensorFlow graph",
}


class PlainReader(FileReader):
    """Reads every file of weights below a folder; folders with a `config.json` and a model count as one."""

    layout = "plain files"

    def __init__(self, source: Source, pattern: str = "", table: str = "", by: str = "") -> None:
        super().__init__(source)
        self.pattern, self.table, self.by = pattern, table, by
        self._compiled = _compile(pattern)

    def scan(self) -> Listing:
        """Every checkpoint, by member and epoch."""
        listing = Listing()
        paths = self._checkpoints(listing)
        parsed_of = {path: parsed for path in paths if (parsed := self._parse(path, listing)) is not None}
        found = self._rows(list(parsed_of), parsed_of, listing)
        table = (self.table or self._lonely_table()).rpartition("/")[2]
        for path, parsed in parsed_of.items():
            values = {**found.rows.get(path, {}), **parsed}
            where = {key: f"{table}, line {found.lines.get(path)}, column {key}" for key in values}
            where |= dict.fromkeys(parsed, f"the path, by the pattern {self.pattern}")
            member = str(values.pop("member", "") or stem_of(path))
            epoch = _epoch(values.pop("epoch", None), listing)
            sources = {"epoch" if key == "epoch" else name_of(key): text for key, text in where.items()}
            listing.entries.append(
                Entry(
                    member,
                    epoch,
                    named(flatten(values)),
                    kind_of_config(self.source, path, listing)[0],
                    path,
                    self.source.size(path),
                    sources=sources,
                    copied=is_copy(path),
                )
            )
        listing.entries.sort(key=lambda entry: (natural_key(entry.member), entry.epoch or 0))
        if listing.entries and all(entry.epoch is None for entry in listing.entries):
            listing.note("no epochs are known but from the files: every file is a member, unless --pattern tells more")
        return listing

    def _checkpoints(self, listing: Listing) -> list[str]:
        """Files of weights, and folders that are one model, in natural order."""
        files = self.source.files
        present = set(files)
        models = {
            parent_of(path)
            for path in files
            if is_index(path.rpartition("/")[2])
            or (path.rpartition("/")[2] in SINGLE_FILES and inside(parent_of(path), CONFIG) in present)
        }
        zoos = [parent_of(path) for path in files if path.rpartition("/")[2] == ZOO_FILE]
        for zoo in zoos:
            listing.leave_out(zoo, "a zoo of this package already")
        alone = []
        for path in files:
            if any(path.startswith(f"{zoo}/") for zoo in zoos):
                continue
            name = path.rpartition("/")[2]
            foreign = next((what for suffix, what in FOREIGN.items() if name.endswith(suffix)), None)
            if foreign is not None:
                listing.leave_out(path, f"{foreign}, which is not read here")
            if name.endswith(DISTRIBUTED):
                listing.leave_out(path, f"a part of {SHARDS}")
            if parent_of(path) in models or not name.endswith(WEIGHT_SUFFIXES):
                continue
            if is_other(self.source, path):
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

    def _rows(self, paths: list[str], parsed: Mapping[str, Mapping[str, Any]], listing: Listing) -> Matched:
        """What a table says of each path."""
        name = self.table or self._lonely_table()
        if not name:
            return Matched({}, {})
        short = name.rpartition("/")[2]
        places = {
            path: (str(values["member"]), epoch)
            for path, values in parsed.items()
            if "member" in values and (epoch := whole(values.get("epoch"))) is not None
        }
        try:
            found = match_table(name, self._table_bytes(name), paths, self.by, places)
        except InputError as refusal:
            if self.table or self.by or "--by" in str(refusal):
                raise
            found = Matched({}, {}, why=str(refusal))
            listing.leave_out(short, found.why)
        if found.why:
            if self.table or self.by:
                raise InputError(f"expected a column of {name} to name files below the folder, found that {found.why}")
            listing.note(f"{short} was not used, as {found.why}: --by COLUMN says which does")
            return found
        for text, why in found.strange:
            listing.leave_out(f"{name}: {text}", f"a row of the table that names {why}")
        count = len(found.rows)
        listing.note(f"properties were read from {short}, matched by its column {found.column}", count)
        if count < len(paths):
            listing.note(f"a file has no row in {short}", len(paths) - count)
        return found

    def _lonely_table(self) -> str:
        """The table at the top of the folder, if there is just one."""
        found = [path for path in self.source.files if "/" not in path and path.endswith((".csv", ".tsv", ".parquet"))]
        return found[0] if len(found) == 1 else ""

    def _table_bytes(self, name: str) -> bytes:
        if name in self.source.files:
            return self.source.read(name)
        return read_settings(Path(name))


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


def _epoch(value: Any, listing: Listing) -> int | None:
    if value is None:
        return None
    epoch = whole(value)
    if epoch is None:
        listing.note("an epoch is no whole number, so it was not used")
    return epoch
