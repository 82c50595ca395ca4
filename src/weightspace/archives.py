"""Archives of others: what is in them, without their paths being followed, and no more of it than they may hold."""

import bz2
import contextlib
import gzip
import io
import lzma
import math
import posixpath
import shutil
import stat
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from weightspace.errors import InputError
from weightspace.inputs import MEBIBYTE, MOST_PACKED, require_bytes

if TYPE_CHECKING:
    import numpy as np

# What damaged bytes make zipfile, tarfile and what unpacks for them raise.
DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(RuntimeError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(OverflowError, RecursionError, AssertionError, MemoryError),
)
# What is packed may be so many times as large; below so many bytes nobody asks.
MOST_RATIO, FREE_BYTES = 100, 64 * MEBIBYTE
MOST_ARRAY = 4 * 1024 * MEBIBYTE
CHUNK = MEBIBYTE
ENCRYPTED, MOST_LINKS = 1, 40
# The end of a zip's directory, which a comment may follow, and that of one of 64 bits before it.
END_OF_DIRECTORY, END_OF_LARGE_DIRECTORY = b"PK\5\6", b"PK\6\6"
LONGEST_END, MANY_ENTRIES = 2**16 + 200, 0xFFFF
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
TAR_ENDINGS = (".tar", ".tgz", ".gz", ".xz", ".bz2")


class Entry(NamedTuple):
    """A file in an archive: its size when it is unpacked, and what the archive knows it by."""

    size: int
    handle: Any


@runtime_checkable
class Archive(Protocol):
    """An archive that was opened.

    Attributes:
        entries: regular files by their path, with forward slashes.
        refused: other entries, and what is wrong with them.
        packed: bytes of the archive itself.
    """

    entries: dict[str, Entry]
    refused: dict[str, str]
    packed: int

    def open(self, name: str) -> Any:
        """The bytes of an entry."""
        ...


def open_archive(path: Path) -> Archive:
    """A zip or tar file, by its ending; a compressed tar is unpacked into a temporary file first.

    Raises:
        InputError: damaged as a whole, or larger than it may be.
    """
    try:
        return TarArchive(path) if path.name.endswith(TAR_ENDINGS) else ZipArchive(path)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"expected a readable archive at {path}, found none ({_reason(error)})") from error


def read_entry(archive: Archive, name: str, most: int = MOST_PACKED) -> bytes:
    """A whole entry of at most so many bytes, whatever size it says it has; see `read_buffer`."""
    return bytes(read_buffer(archive, name, most))


def read_buffer(archive: Archive, name: str, most: int) -> bytearray:
    """`read_entry` in memory that may be written to, of which there is no second copy.

    Raises:
        InputError: damaged, or larger.
    """
    require_bytes(archive.entries[name].size, name, most)
    with _readable(name), archive.open(name) as file:
        held = bytearray()
        while chunk := file.read(CHUNK):
            held += chunk
            require_bytes(len(held), name, most)
        return held


def copy_entry(archive: Archive, name: str, target: Path) -> None:
    """Copy an entry into a file, as many bytes of it as the archive says.

    Raises:
        InputError: damaged, or more than there is room for.
    """
    size = archive.entries[name].size
    require_ratio(size, archive.packed, name)
    require_room(size, target.parent, name)
    with _readable(name), archive.open(name) as file, target.open("wb") as copy:
        while chunk := file.read(CHUNK):
            size -= len(chunk)
            if size < 0:
                raise InputError(f"expected as many bytes in {name} as the archive says, found more")
            copy.write(chunk)
    if size:
        raise InputError(f"expected as many bytes in {name} as the archive says, found fewer")


def require_room(size: int, folder: Path, name: str) -> None:
    """Raise `InputError` unless so many bytes fit on the disk of a folder."""
    room = shutil.disk_usage(folder).free
    if size > room:
        raise InputError(f"expected room for {size:,} bytes of {name} in {folder}, found {room:,}")


def require_ratio(unpacked: int, packed: int, name: str) -> None:
    """Raise `InputError` for what is so much larger than its file that it can be nothing but a trap."""
    if unpacked > max(FREE_BYTES, MOST_RATIO * packed):
        raise InputError(
            f"expected at most {MOST_RATIO} times the {packed:,} bytes of its file in {name}, found {unpacked:,}"
        )


class ZipArchive:
    """A zip file; an entry that is there twice counts as it was written last."""

    def __init__(self, file: Path | io.BytesIO) -> None:
        self._zip = zipfile.ZipFile(file)
        self.packed = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
        weakref.finalize(self, self._zip.close)
        require_all_entries(file, len(self._zip.infolist()))
        self.entries: dict[str, Entry] = {}
        self.refused: dict[str, str] = {}
        for info in self._zip.infolist():
            if info.is_dir():
                continue
            name, wrong = _plain_name(info.filename)
            wrong = wrong or _wrong_in_zip(info)
            if wrong:
                self.refused[name] = wrong
            else:
                self.entries[name] = Entry(info.file_size, info)

    def open(self, name: str) -> Any:
        """The bytes of an entry."""
        return self._zip.open(self.entries[name].handle)


def require_all_entries(file: Path | io.BytesIO, count: int) -> None:
    """Raise `BadZipFile` unless a zip's directory has as many entries as its end says: one may swallow the next."""
    held = file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getbuffer())
    with held:
        size = held.seek(0, io.SEEK_END)
        held.seek(max(0, size - LONGEST_END))
        end = held.read()
    start = end.rfind(END_OF_DIRECTORY)
    (said,) = struct.unpack_from("<H", end, start + 10)
    if said == MANY_ENTRIES and (larger := end.rfind(END_OF_LARGE_DIRECTORY)) >= 0:
        (said,) = struct.unpack_from("<Q", end, larger + 32)
    if start < 0 or said != count:
        raise zipfile.BadZipFile(f"{count:,} entries instead of {said:,}")


class TarArchive:
    """A tar file, of which what comes before any damage can be read."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self.refused: dict[str, str] = {}
        members: dict[str, tarfile.TarInfo] = {}
        self.packed = path.stat().st_size
        plain, damage = _plain_tar(path)
        weakref.finalize(self, plain.close)
        self._tar = tarfile.open(fileobj=plain, mode="r:")  # noqa: SIM115 # open as long as the archive is
        try:
            for info in self._tar:
                members[_plain_name(info.name)[0]] = info
        except DAMAGE as error:
            damage = damage or _reason(error)
        if damage:
            self.refused[path.name] = f"damaged from {len(members):,} entries on ({damage})"
        for name, info in members.items():
            wrong = _plain_name(info.name)[1]
            target = wrong or _follow(name, members)
            if isinstance(target, str):
                self.refused[name] = target
            elif target.isreg():
                self.entries[name] = Entry(target.size, target)
            elif not target.isdir():
                self.refused[name] = "no regular file"

    def open(self, name: str) -> Any:
        """The bytes of an entry."""
        file = self._tar.extractfile(self.entries[name].handle)
        if file is None:
            raise KeyError(name)
        return file


def _follow(name: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | str:
    """The entry that a link leads to, or what is wrong with it."""
    for _ in range(MOST_LINKS):
        info = members.get(name)
        if info is None:
            return "a link to nothing"
        if not (info.issym() or info.islnk()):
            return info
        parent = posixpath.dirname(name) if info.issym() else ""
        name = posixpath.normpath(posixpath.join(parent, info.linkname))
        if name.startswith(("/", "..")):
            return "a link that leads out of the archive"
    return "a link in a circle"


def _plain_name(name: str) -> tuple[str, str]:
    """An entry's path, and what is wrong with it."""
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith("/") or path[1:2] == ":" or path.split("/")[0] == "..":
        return path, "its name leads out of the archive"
    try:
        path.encode()
    except UnicodeEncodeError:
        return path, "its name is no UTF-8"
    return path, ""


def _wrong_in_zip(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.compress_type not in COMPRESSIONS:
        return f"compressed in a way that is not known ({info.compress_type})"
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "no regular file" if kind not in (0, stat.S_IFREG) else ""


def _plain_tar(path: Path) -> tuple[IO[bytes], str]:
    """A tar that is not compressed, and what was wrong with a compressed one.

    What is unpacked goes into a temporary file that is gone with the process.
    """
    with path.open("rb") as file:
        first = file.read(6)
    opener = next((opener for magic, opener in COMPRESSED.items() if first.startswith(magic)), None)
    if opener is None:
        return path.open("rb"), ""
    packed, size = path.stat().st_size, 0
    plain = tempfile.TemporaryFile()  # noqa: SIM115 # open as long as the archive is
    damage = ""
    try:
        with opener(path, "rb") as stream:
            while chunk := stream.read1(CHUNK):
                size += len(chunk)
                require_ratio(size, packed, path.name)
                require_room(len(chunk), Path(tempfile.gettempdir()), path.name)
                plain.write(chunk)
    except InputError:
        raise
    except DAMAGE as error:  # what came before can be read
        damage = _reason(error)
    plain.seek(0)
    return plain, damage


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        reason = _reason(error)
        raise InputError(f"expected a whole entry at {name}, found one that cannot be read ({reason})") from error


def _reason(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class NumpyArchive:
    """Arrays in an `.npz`, each read when it is asked for.

    Attributes:
        names: of the arrays.

    Raises:
        InputError: no such archive, or one that holds far more than its size.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._archive = path, open_archive(path)
        packed = path.stat().st_size
        for name, why in self._archive.refused.items():
            raise InputError(f"expected arrays that can be read in {path}, found {name}: {why}")
        require_ratio(sum(entry.size for entry in self._archive.entries.values()), packed, path.name)
        self.names = [name.removesuffix(".npy") for name in self._archive.entries]

    def read(self, name: str) -> "np.ndarray":
        """An array, in this machine's order of bytes; nothing is unpickled.

        Raises:
            InputError: no array, one of objects, or one whose header says another size than it has.
        """
        stored = name if name in self._archive.entries else f"{name}.npy"
        held = read_buffer(self._archive, stored, MOST_ARRAY)
        try:
            return parse_array(held)
        except InputError as error:
            raise InputError(f"{error} in {name} of {self._path}") from error


def parse_array(held: bytes | bytearray) -> "np.ndarray":
    """The array in the bytes of an `.npy` file, without a copy where this machine has the same order of bytes.

    Raises:
        InputError: anything but numbers of the size that the header says.
    """
    import numpy as np

    file = io.BytesIO(held)
    try:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_column, dtype = headers[version](file)
    except Exception as error:  # a header is an expression of Python, and fails as such
        raise InputError(f"expected an array, found none that can be read ({_reason(error)})") from error
    if dtype.kind not in "fiubcSU" or any(size < 0 for size in shape):
        raise InputError(f"expected an array of numbers, found {dtype} of shape {list(shape)}")
    first = file.tell()
    if math.prod(shape) * dtype.itemsize != len(held) - first:
        raise InputError(f"expected {len(held) - first:,} bytes, as there are, found {dtype} of shape {list(shape)}")
    array = np.frombuffer(held, dtype, offset=first) if len(held) > first else np.empty(0, dtype)
    return array.reshape(shape, order="F" if by_column else "C").astype(dtype.newbyteorder("="), copy=False)
