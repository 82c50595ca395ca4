"""Files behind addresses (`hf://`, `s3://`, `https://` and what else fsspec knows), read in parts; and uploads."""

import contextlib
import io
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from weightspace.errors import InputError

HUB = "hf"
# A scheme of fsspec's; of the two slashes one is lost in a `Path`. A single letter is a drive.
_ADDRESS = re.compile(r"^(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]+):/{1,2}(?=[^/])")
# What addresses may hold that nobody else is to see; one of their slashes may be lost.
_SECRETS = re.compile(r"(?<=:/)(/?)[^/@\s'\"]+@|\bhf_[A-Za-z0-9]{8,}")
_QUERY = re.compile(r"(:/{1,2}[^\s?'\")]*)\?[^\s'\")]*")


def address_of(name: str | Path) -> str | None:
    """A name as an address, also out of a `Path`, which spoils it; None for a place on this machine.

    Examples:
        >>> address_of(Path("hf://org/name")), address_of("nets/a.pt")
        ('hf://org/name', None)
    """
    text = str(name)
    found = _ADDRESS.match(text)
    if found is None or ("://" not in text and Path(text).exists()):  # of a path two slashes are one
        return None
    return f"{found['scheme'].lower()}://{text[found.end() :]}"


def without_secrets(text: str) -> str:
    """A text that others may read: no passwords, tokens and signatures of the addresses in it."""
    return _QUERY.sub(r"\1", _SECRETS.sub(lambda found: found[1] or "", text))


def with_revision(address: str, revision: str) -> str:
    """An address of the hub at a revision: a branch, a tag or a commit; one that names another revision stays.

    Examples:
        >>> with_revision("hf://org/name/model.safetensors", "v1.0")
        'hf://org/name@v1.0/model.safetensors'
    """
    scheme, _, path = address.partition("://")
    path, colon, member = path.partition(":")
    count = 3 if path.startswith(("datasets/", "spaces/", "models/")) else 2
    parts = path.split("/")
    if scheme != HUB or len(parts) < count or "@" in path:
        return address
    repository = f"{'/'.join(parts[:count])}@{revision.replace('/', '%2F')}"
    return f"{scheme}://{'/'.join([repository, *parts[count:]])}{colon}{member}"


@contextlib.contextmanager
def answering(what: str) -> Iterator[None]:
    """Whatever a file system of fsspec raises, as one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 # each file system has errors of its own
        raise InputError(
            f"expected {without_secrets(what)} to be readable, found that it is not ({_why(error)})"
        ) from None


def _why(error: Exception) -> str:
    """The reason in a few words; of a file that is not there a file system often says its name alone."""
    text = without_secrets(next((line.strip() for line in str(error).splitlines() if line.strip()), ""))
    kind = type(error).__name__
    status = getattr(getattr(error, "response", error), "status_code", getattr(error, "status", None))
    if status in (401, 403) or kind == "GatedRepoError" or "repository not found" in text:
        return "no such repository, or one that needs a token which may read it: `hf auth login` keeps one"
    if isinstance(error, FileNotFoundError):
        return f"nothing there: {text}" if text else "nothing there"
    return text or kind


class _Stat(NamedTuple):
    st_size: int


class RemotePath:
    """A file or folder behind an address, with as much of a `Path` as reading weights takes.

    Reads fetch the bytes that are asked for and no others.
    """

    def __init__(self, address: str, *, fs: Any = None, path: str = "") -> None:
        self.address = address
        if fs is None:
            import fsspec

            with answering(address):
                fs, path = fsspec.core.url_to_fs(address)
        self.fs, self.path = fs, path.rstrip("/")

    def __str__(self) -> str:
        return without_secrets(self.address)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.address.rstrip('/')}/{name}", fs=self.fs, path=f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self._place).name

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self._place).suffix

    @property
    def _place(self) -> str:
        """Its path without what is asked for there, such as a signature."""
        return self.path.partition("?")[0] if self.address.startswith("http") else self.path

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in."""
        return RemotePath(posixpath.dirname(self.address.rstrip("/")), fs=self.fs, path=posixpath.dirname(self.path))

    @cached_property
    def _about(self) -> dict[str, Any]:
        try:
            with answering(str(self)):
                return dict(self.fs.info(self.path))
        except InputError as refusal:
            if "nothing there" in str(refusal):
                return {}
            raise

    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self._about)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._about.get("type") == "file"

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._about.get("type") == "directory"

    def stat(self) -> _Stat:
        """Its size."""
        return _Stat(int(self._about.get("size") or 0))

    def iterdir(self) -> "Iterator[RemotePath]":
        """What is in the folder."""
        with answering(str(self)):
            names = [posixpath.basename(entry["name"].rstrip("/")) for entry in self.fs.ls(self.path, detail=True)]
        return iter([self / name for name in sorted(names)])

    def open(self, mode: str = "rb", buffering: int = -1) -> io.RawIOBase:
        """The file, of which every read fetches its own bytes."""
        return _Ranges(self)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from one place to another."""
        with answering(str(self)):
            if self._file is None:
                self._file = self.fs.open(self.path, "rb", cache_type="none")
            self._file.seek(start)
            return bytes(self._file.read(stop - start)) if stop > start else b""

    _file: Any = None


# What weights are read from.
Place = Path | RemotePath


def located(name: str | Place) -> Place:
    """Where a name leads: a path on this machine, or what stands for one behind an address."""
    if isinstance(name, RemotePath):
        return name
    address = address_of(name)
    return Path(name) if address is None else RemotePath(address)


def require_here(target: str | Path) -> Path:
    """A place to write to; raises `InputError` for an address."""
    if address_of(target) is not None:
        raise InputError(f"expected an output on this machine, found {without_secrets(str(target))}")
    return Path(target)


class _Ranges(io.RawIOBase):
    """A file to read, of which only what is read is fetched."""

    def __init__(self, place: RemotePath) -> None:
        self.place, self.at = place, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = (0, self.at, self.place.stat().st_size)[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self.place.stat().st_size - self.at)
        held = self.place.read(self.at, self.at + (rest if size < 0 else min(size, rest)))
        self.at += len(held)
        return held

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        held = self.place.read(self.at, min(self.at + len(view), self.place.stat().st_size))
        view[: len(held)] = held
        self.at += len(held)
        return len(held)


def require_repository(address: str) -> None:
    """Raise `InputError` for an address to upload to that is no repository of the hub; nothing is no address."""
    parsed = _repository(address) if address else None
    if address and parsed is None:
        raise InputError(f"expected an address such as hf://datasets/org/name, found {without_secrets(address)}")


def _repository(address: str) -> tuple[str, str, str | None] | None:
    """Kind, name and revision of a repository."""
    found = re.fullmatch(r"hf:/{1,2}((?:models|datasets|spaces)/)?([^/@]+/[^/@]+)(?:@([^/]+))?/?", address)
    return None if found is None else ((found[1] or "models/")[:-2], found[2], found[3])


def upload(folder: Path, address: str) -> str:
    """Upload a folder to a repository of the hub by the hub's own client, with the token that it keeps.

    Args:
        folder: all of it goes up, in one commit.
        address: `hf://datasets/org/name`, or of a model `hf://org/name`, which is made if there is none, private.

    Returns:
        Where it is.

    Raises:
        InputError: no such address, no `huggingface_hub` here, or no token that may write there.
    """
    require_repository(address)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(
            "expected huggingface_hub to upload with (pip install weightspace[hub]), found none"
        ) from error
    kind, name, revision = _repository(address) or ("", "", None)
    with answering(address):
        api = HfApi()
        api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type=kind, revision=revision, folder_path=str(folder))
    return address
