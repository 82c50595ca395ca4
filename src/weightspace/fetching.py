"""Whole copies of files behind addresses, in the hub's cache or ours; what was interrupted goes on where it stopped.

Deviation: the hub's own client deletes what it has of an interrupted file and begins anew (`huggingface_hub` 2.4).
Large files therefore come here piece by piece, to the place in its cache where it looks for them.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.progress import progress_bar
from weightspace.remote import HUB, RemotePath, address_of, answering

# Where whole files go that are not on the hub, which has a cache of its own.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weightspace" / "fetched"
# Bytes that are fetched at once; of a larger file what is here already is not fetched again.
PIECE = 16 * 2**20


def nearby(name: str | Path, holding: str = "") -> Path:
    """A file or folder on this machine: itself, or a copy of what is behind an address.

    Args:
        name: of a place.
        holding: a file that a folder behind an address must have; without it nothing is fetched.

    Raises:
        InputError: an address that cannot be read, or a folder without that file.
    """
    address = address_of(name)
    if address is None:
        return Path(name)
    place = RemotePath(address)
    if holding and not (place / holding).is_file():
        raise InputError(f"expected {holding} in {place}, found none")
    return fetched(place)


def fetched(place: RemotePath) -> Path:
    """A copy on this machine of a file or folder, which lasts: in the hub's own cache, or in one of ours."""
    return _fetch_from_hub(place) if place.address.startswith(f"{HUB}://") else _fetch(place)


def is_fetched(path: Path) -> bool:
    """Whether a file or folder is a copy of what is behind an address, which nobody is to write into."""
    caches = [CACHE]
    with contextlib.suppress(ImportError):
        from huggingface_hub import constants

        caches.append(Path(constants.HF_HUB_CACHE))
    return any(path.absolute().is_relative_to(cache.absolute()) for cache in caches)


def _fetch_from_hub(place: RemotePath) -> Path:
    import huggingface_hub

    with answering(str(place)):
        told = place.fs.resolve_path(place.path)
        where = {"repo_id": told.repo_id, "repo_type": told.repo_type, "revision": told.revision}
        where |= {"endpoint": place.fs.endpoint}
        for path, about in _files_of(place).items():
            if int(about["size"] or 0) > PIECE:
                name = place.fs.resolve_path(path).path_in_repo
                _bring(place.fs, path, huggingface_hub.hf_hub_url(filename=name, **where), told)
        where |= {"token": place.fs.token}
        if place.is_file():
            return Path(huggingface_hub.hf_hub_download(filename=told.path_in_repo, **where))
        below = f"{told.path_in_repo}/*" if told.path_in_repo else None
        return Path(huggingface_hub.snapshot_download(allow_patterns=below, **where)) / told.path_in_repo


def _files_of(place: RemotePath) -> dict[str, dict[str, Any]]:
    """What a file system says of a file, or of all files in a folder, by path."""
    paths = [place.path] if place.is_file() else list(place.fs.find(place.path))
    return {path: place.fs.info(path) for path in paths}


def _bring(fs: Any, path: str, url: str, repository: Any) -> None:
    """Put a file of the hub where its client keeps it: under its hash, in the cache's folder of the repository."""
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.utils import WeakFileLock

    about = get_hf_file_metadata(url, token=fs.token)
    if not about.etag or not about.size:
        return
    folder = f"{repository.repo_type}s--{repository.repo_id.replace('/', '--')}"
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / about.etag
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / folder / f"{about.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        partial = blob.with_name(f"{blob.name}.weightspace.incomplete")
        _go_on(fs, path, partial, about.size)
        if re.fullmatch(r"[0-9a-f]{64}", about.etag) and _sha256(partial) != about.etag:
            partial.unlink()
            raise InputError(f"expected the file that the hub has as {path}, found another one in what it sent")
        partial.rename(blob)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(place: RemotePath) -> Path:
    """A file, or all files of a folder, in this machine's cache of fetched files."""
    with answering(str(place)):
        about = _files_of(place)
        told = sorted(
            (path, str(info.get("size")), str([info.get(name) for name in ("ETag", "mtime", "Last-Modified")]))
            for path, info in about.items()
        )
        folder = CACHE / hashlib.sha256(repr((place.address, sorted(told))).encode()).hexdigest()[:16]
        for path in about:
            target = folder / (place.name if place.is_file() else path.removeprefix(place.path).lstrip("/"))
            if target.is_file():
                continue
            if not target.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"expected files below {place}, found one that is elsewhere, {path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            _go_on(place.fs, path, partial, int(about[path].get("size") or 0))
            partial.rename(target)
    return folder / place.name if place.is_file() else folder


def _go_on(fs: Any, path: str, partial: Path, size: int) -> None:
    """Fetch what a part of a file lacks; what cannot be read from its middle is fetched from its beginning.

    Raises:
        InputError: the file ends before its size.
    """
    with partial.open("ab") as held, fs.open(path, "rb", cache_type="none") as source:
        with contextlib.suppress(OSError, ValueError):  # some can only be read from their beginning, and stay there
            source.seek(held.tell() if held.tell() <= size else 0)
        if source.tell() != held.tell():
            held.seek(0)
            held.truncate()
        megabytes = 2**20
        with progress_bar("MiB fetched", size // megabytes, done=held.tell() // megabytes) as advance:
            for piece in _pieces(source):
                held.write(piece)
                advance(len(piece) // megabytes)
        if size and held.tell() != size:
            raise InputError(f"expected {size:,} bytes in {path}, found {held.tell():,}")


def _pieces(source: Any) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        yield piece
