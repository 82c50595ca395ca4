"""Where a foreign zoo lies: a folder, an archive, or any address that fsspec knows."""

import contextlib
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from weightspace.archives import TAR_ENDINGS, Archive, Entry, copy_entry, open_archive, read_entry, require_room
from weightspace.errors import InputError
from weightspace.fetching import fetched
from weightspace.inputs import MOST_PACKED, MOST_SETTINGS, read_settings, require_bytes
from weightspace.remote import HUB, RemotePath, address_of, answering
from weightspace.weights.adapters.opening import CONFIG, FILES
from weightspace.weights.values import natural_key

ARCHIVES = (".zip", *TAR_ENDINGS)
MOST_NAME = 200  # bytes; file systems take 255
# Files that hold one network; `.pth.tar` is no archive.
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar")


class Found(NamedTuple):
    """Files by their path, and entries that cannot be read with the reason."""

    entries: Mapping[str, Entry]
    refused: Mapping[str, str]


@lru_cache(maxsize=1)
def _open_once(path: Path, size: int, changed: int) -> Archive:
    """An archive, which stays open: a worker is handed its source anew with every task, and to unpack a compressed one
    takes minutes.
    """
    return open_archive(path)


class Source:
    """Files under one address; their paths are relative to it, with forward slashes.

    Args:
        address: a folder, a `.zip` or `.tar` file (a compressed one is unpacked into a temporary file), one file of
            weights, or an fsspec URL.
        paths: only these; all if None.
    """

    def __init__(self, address: str | Path, paths: Sequence[str] | None = None) -> None:
        place = Path(address)
        if paths is None and place.name.endswith(WEIGHTS) and place.is_file():
            address, paths = place.parent, [place.name]
        self.address, self._only = address_of(address) or str(address), paths

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "_only": self._only}

    @cached_property
    def _archive(self) -> Archive | None:
        path = Path(self.address)
        if not path.is_file() or path.suffix not in ARCHIVES:
            return None
        about = path.stat()
        return _open_once(path, about.st_size, about.st_mtime_ns)

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """A file system of fsspec, and where in it, for all that lies behind an address."""
        there = RemotePath(self.address)
        return there.fs, there.path

    @cached_property
    def files(self) -> list[str]:
        """All files, in natural order; hidden ones, and those in `refused`, are left away."""
        present = self._only if self._only is not None else self._entries
        return sorted((path for path in present if not _hidden(path)), key=natural_key)

    @property
    def refused(self) -> list[dict[str, str]]:
        """Entries that cannot be read, and why: `{"what": ..., "why": ...}`."""
        if self._only is not None:
            return []
        return [{"what": what, "why": why} for what, why in self._found.refused.items() if not _hidden(what)]

    @cached_property
    def is_local(self) -> bool:
        """Whether files can be opened where they are."""
        return self._archive is None and "://" not in self.address

    def size(self, path: str) -> int:
        """Bytes of a file, or of a folder's files."""
        return sum(self._entries[name].size for name in self._below(path))

    def changed(self, path: str) -> str:
        """When a file, or the last of a folder's files, was changed, as far as the place tells."""
        if not self.is_local:
            return ""
        return max((str(Path(self._full(name)).stat().st_mtime) for name in self._below(path)), default="")

    def _below(self, path: str) -> Sequence[str]:
        """A file, or all files of a folder."""
        return [path] if path in self._entries else self._folders.get(path, [])

    @cached_property
    def _folders(self) -> Mapping[str, list[str]]:
        """All files below each folder; the empty name is the top."""
        folders: dict[str, list[str]] = {"": list(self._entries)}
        for name in self._entries:
            for place, letter in enumerate(name):
                if letter == "/":
                    folders.setdefault(name[:place], []).append(name)
        return folders

    @property
    def _entries(self) -> Mapping[str, Entry]:
        return self._found.entries

    @cached_property
    def _found(self) -> Found:
        """Every file's name there and its size, and what cannot be read."""
        if self._archive is not None:
            return Found(self._archive.entries, self._archive.refused)
        if not self.is_local:
            return self._remote()
        folder = Path(self.address)
        if not folder.is_dir():
            there = "a file" if folder.exists() else "nothing there"
            raise InputError(f"expected a folder, a .zip or a .tar at {self.address}, found {there}")
        if self._only is None:
            return walk(folder)
        return Found({path: Entry((folder / path).stat().st_size, str(folder / path)) for path in self._only}, {})

    def _remote(self) -> Found:
        fs, root = self._place
        base = root.rstrip("/") + "/" if root else ""
        if (alone := RemotePath(self.address, fs=fs, path=root)).is_file():
            return Found({alone.name: Entry(alone.stat().st_size, root)}, {})
        if not alone.exists():
            raise InputError(f"expected a file or folder at {alone}, found nothing there")
        with answering(self.address):
            details = fs.find(root, detail=True)
        names = {path: posixpath.normpath(path.removeprefix(base).lstrip("/")) for path in details}
        return Found({names[path]: Entry(int(about.get("size") or 0), path) for path, about in details.items()}, {})

    def read(self, path: str, most: int = MOST_SETTINGS) -> bytes:
        """A whole file of settings or results.

        Raises:
            InputError: it cannot be read, or is larger than `most` bytes.
        """
        if self._archive is not None:
            return read_entry(self._archive, path, min(most, MOST_PACKED))
        if self.is_local:
            return read_settings(Path(self._full(path)), most)
        require_bytes(self.size(path), path, most)
        with answering(path), self._place[0].open(self._full(path), "rb") as file:
            held = file.read(most + 1)
        require_bytes(len(held), path, most)
        return held

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A file or folder on this machine: itself, or a copy that lasts as long as the block.

        Raises:
            InputError: it cannot be read, or there is no room for it.
        """
        if self.is_local:
            yield Path(self._full(path))
            return
        if self.address.startswith(f"{HUB}://"):  # which has a cache
            yield self._fetched(path)
            return
        is_file = path in self._entries
        with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
            # A folder's own files are enough for a model; names from an archive never lead out of the folder.
            beside = inside(parent_of(path), CONFIG) if _is_adapters(path) else path
            alone = dict.fromkeys(name for name in (path, beside) if name in self._entries)
            for name in alone if is_file else [name for name in self._below(path) if parent_of(name) == path]:
                self._copy(name, Path(folder) / _short_name(name))
            yield Path(folder) / _short_name(path) if is_file else Path(folder)

    def _fetched(self, path: str) -> Path:
        """A file of the hub's, or a folder with what a model there consists of, in the hub's cache."""
        if path in self._entries:
            names = [path, inside(parent_of(path), CONFIG)] if _is_adapters(path) else [path]
            places = [fetched(self.there(name)) for name in names if name in self._entries]
            return places[0]
        own = [name for name in self._below(path) if parent_of(name) == path]
        whole = [name for name in own if name.endswith((".safetensors", ".json"))]
        if not any(name.endswith(".safetensors") for name in whole):
            whole = own
        places = [fetched(self.there(name)) for name in whole]
        return places[0].parent

    def there(self, path: str) -> RemotePath:
        """A file or folder where it is, behind the address."""
        fs, root = self._place
        address = self.address if self._full(path) == root else f"{self.address.rstrip('/')}/{path}"
        return RemotePath(address, fs=fs, path=self._full(path))

    @property
    def is_remote(self) -> bool:
        """Whether it is behind an address, so that reading it takes its time."""
        return "://" in self.address

    def unpacked(self, paths: Sequence[str], folder: Path) -> "Source":
        """The same files in a folder of this machine; itself if it is there already."""
        if self.is_local:
            return self
        for path in paths:
            target = folder / PurePosixPath(path)
            if not target.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"expected files inside {self.address}, found a reference to {path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._copy(path, target)
        return Source(folder, paths)

    def _copy(self, path: str, target: Path) -> None:
        if self._archive is not None:
            copy_entry(self._archive, path, target)
            return
        require_room(self.size(path), target.parent, path)
        with answering(path):
            self._place[0].get_file(self._full(path), str(target))

    def _full(self, path: str) -> str:
        if path in self._entries:
            return str(self._entries[path].handle)
        root = self.address if self.is_local else self._place[1]
        return f"{root.rstrip('/')}/{path}" if root else path


def walk(folder: Path) -> Found:
    """All files below a folder; what is no regular file is refused.

    Links are followed, after all that lies there itself, and no folder is listed twice: a few folders with links to
    each other have very many paths.
    """
    entries: dict[str, Entry] = {}
    refused: dict[str, str] = {}
    listed: set[tuple[int, int]] = set()
    waiting, links = [""], list[str]()
    while waiting or links:
        below = waiting.pop() if waiting else links.pop()
        try:
            about = (folder / below).stat()
            if (about.st_dev, about.st_ino) in listed:
                refused[below] = "a link to a folder that is there already"
                continue
            listed.add((about.st_dev, about.st_ino))
            items = sorted(os.scandir(folder / below), key=lambda item: item.name)
        except OSError as error:
            refused[below or "."] = f"cannot be read ({error.strerror})"
            continue
        for item in items:
            name = inside(below, item.name)
            wrong, size = _look_at(item)
            if size is None and not wrong:
                (links if item.is_symlink() else waiting).append(name)
            elif wrong:
                refused[name] = wrong
            else:
                entries[name] = Entry(size or 0, item.path)
    return Found(entries, refused)


def _look_at(item: "os.DirEntry[str]") -> tuple[str, int | None]:
    """What is wrong with an entry of a folder, and its size; None for a folder."""
    try:
        item.name.encode()
        about = item.stat()
    except UnicodeEncodeError:
        return "its name is no UTF-8", None
    except OSError as error:
        return f"cannot be read ({error.strerror})", None
    if stat.S_ISDIR(about.st_mode):
        return "", None
    return ("", about.st_size) if stat.S_ISREG(about.st_mode) else ("no regular file", None)


def _is_adapters(path: str) -> bool:
    """Whether a file is called as PEFT calls an adapter's, beside which its configuration lies."""
    return path.rpartition("/")[2] in FILES


def _short_name(path: str) -> str:
    """A file's name; of a very long one the start and the ending."""
    name = PurePosixPath(path).name
    return name if len(name.encode()) <= MOST_NAME else name[:40] + name[-20:]


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
