"""Where a foreign zoo lies: a folder, an archive, or any address that fsspec knows."""

import contextlib
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from weightspace.errors import InputError
from weightspace.weights.values import natural_key

ARCHIVES = {".zip": "zip", ".tar": "tar", ".tgz": "tar", ".gz": "tar", ".xz": "tar", ".bz2": "tar"}
# Files that hold one network; `.pth.tar` is no archive.
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar")


class Source:
    """Files under one address; their paths are relative to it, with forward slashes.

    Args:
        address: a folder, a `.zip` or `.tar` file (a compressed tar is slow: unpack it first), one file of weights, or
            an fsspec URL.
        paths: only these; all if None.
    """

    def __init__(self, address: str | Path, paths: Sequence[str] | None = None) -> None:
        place = Path(address)
        if paths is None and place.name.endswith(WEIGHTS) and place.is_file():
            address, paths = place.parent, [place.name]
        self.address, self._only = str(address), paths

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_only": self._only}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        path = Path(self.address)
        try:
            if path.is_file() and path.suffix in ARCHIVES:
                return fsspec.filesystem(ARCHIVES[path.suffix], fo=str(path)), ""
            if "://" not in self.address and not path.is_dir():
                found = "a file" if path.exists() else "nothing there"
                raise InputError(f"expected a folder, a .zip or a .tar at {self.address}, found {found}")
            return fsspec.core.url_to_fs(self.address)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"expected a readable archive or address at {self.address}, found none ({reason})"
            ) from error

    @cached_property
    def files(self) -> list[str]:
        """All files, in natural order; hidden ones, and names that lead out of an archive, are left away."""
        found = self._only if self._only is not None else self._entries
        return sorted((path for path in found if not _hidden(path)), key=natural_key)

    @property
    def is_local(self) -> bool:
        """Whether files can be opened where they are."""
        return "file" in (protocols := self._place[0].protocol) or protocols == "file"

    def size(self, path: str) -> int:
        """Bytes of a file, or of a folder's files."""
        if path in self._entries:
            return self._entries[path][1]
        return sum(size for name, (_, size) in self._entries.items() if not path or name.startswith(f"{path}/"))

    def changed(self, path: str) -> str:
        """When a file, or the last of a folder's files, was changed, as far as the place tells."""
        paths = [path] if path in self._times else [name for name in self._times if name.startswith(f"{path}/")]
        return max((self._times[name] for name in paths), default="")

    @cached_property
    def _times(self) -> dict[str, str]:
        fs, _ = self._place
        if not self.is_local:
            return {}
        return {name: str(fs.info(full).get("mtime", "")) for name, (full, _) in self._entries.items()}

    @cached_property
    def _entries(self) -> dict[str, tuple[str, int]]:
        """Every file's name there and its size."""
        fs, root = self._place
        base = root.rstrip("/") + "/" if root else ""
        if self._only is not None and self.is_local:  # a folder may hold very many others
            details = {f"{base}{path}": fs.info(f"{base}{path}") for path in self._only}
        else:
            details = fs.find(root, detail=True)
        names = {path: posixpath.normpath(path.removeprefix(base).lstrip("/")) for path in details}
        return {names[path]: (path, int(entry.get("size") or 0)) for path, entry in details.items()}

    def read(self, path: str) -> bytes:
        """A whole file."""
        fs, _ = self._place
        with fs.open(self._full(path), "rb") as file:
            return file.read()

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A file or folder on this machine: itself, or a copy that lasts as long as the block."""
        if self.is_local:
            yield Path(self._full(path))
            return
        fs, _ = self._place
        is_file = path in self._entries
        with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
            # A folder's own files are enough for a model; names from an archive never lead out of the folder.
            for name in [path] if is_file else [name for name in self.files if parent_of(name) == path]:
                fs.get_file(self._full(name), str(Path(folder) / PurePosixPath(name).name))
            yield Path(folder) / PurePosixPath(path).name if is_file else Path(folder)

    def unpacked(self, paths: Sequence[str], folder: Path) -> "Source":
        """The same files in a folder of this machine; itself if it is there already."""
        if self.is_local:
            return self
        fs, _ = self._place
        for path in paths:
            target = folder / PurePosixPath(path)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"expected files inside {self.address}, found a reference to {path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(self._full(path), str(target))
        return Source(folder, paths)

    def _full(self, path: str) -> str:
        if path in self._entries:
            return self._entries[path][0]
        _, root = self._place
        return f"{root.rstrip('/')}/{path}" if root else path


def parent_of(path: str) -> str:
    """The folder of a path, empty at the top."""
    return str(PurePosixPath(path).parent) if "/" in path else ""


def inside(folder: str, name: str) -> str:
    """A path in a folder, which may be the top."""
    return f"{folder}/{name}" if folder else name


def without_common_parent(folders: Sequence[str]) -> dict[str, str]:
    """Names of folders without the parents that all of them share, so that an archive gives the same names."""
    parents = {parent_of(folder) for folder in folders}
    if len(parents) != 1:
        return {folder: folder or "." for folder in folders}
    return {folder: PurePosixPath(folder).name or "." for folder in folders}


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
