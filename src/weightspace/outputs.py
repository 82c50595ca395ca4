"""Output folders and files that appear whole or not at all.

Work is written under a temporary name beside the target (`.NAME.partial`) and renamed when it is complete.
A failure removes the temporary folder, except for resumable work, which `--resume` then continues.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from safetensors import SafetensorError

from weightspace.errors import InputError
from weightspace.inputs import SUMS_KEY, column_sums, read_object
from weightspace.remote import require_here, without_secrets

if TYPE_CHECKING:
    import pandas as pd

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # elsewhere than on Unix
    fcntl = None


class Finished(Exception):  # nothing went wrong
    """Work that was to be resumed is whole already.

    Attributes:
        target: where it is.
    """

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} is finished: there is nothing to resume")
        self.target = target


Existing = Literal["refuse", "resume", "replace"]
MANIFEST = "manifest.json"
# In unfinished work that was to replace what is there (`--force`): whoever resumes it need not say so again.
REPLACING = ".replacing"
FULL_DISK_SIGNS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "inline_container",
    "PytorchStreamWriter",
)


def partial_path(target: Path) -> Path:
    """Where the unfinished form of `target` lives."""
    return target.with_name(f".{target.name}.partial")


@contextlib.contextmanager
def new_folder(
    target: str | Path,
    *,
    existing: Existing = "refuse",
    resumable: str = "",
    telling: str = "",
    scratch: Sequence[str] = (),
) -> Iterator[Path]:
    """A folder to write into, renamed to `target` when the block ends without an exception.

    Args:
        target: the folder that will exist afterwards.
        existing: what becomes of earlier work: `refuse` to touch it, `resume` in the partial folder that an interrupted
            run left behind, or `replace` an existing `target` (only once the new one is complete).
        resumable: the file that makes an unfinished folder worth keeping when the block fails.
        telling: a file that makes it worth keeping too, but from which nothing can be resumed.
        scratch: names inside that only unfinished work needs; deleted last.

    Raises:
        Finished: there is nothing to resume, because `target` is whole already.
        InputError: `target` exists and is not to be replaced; there is nothing to resume; there is unfinished resumable
            work and neither was asked for; another process writes it; no permission; a full disk.
    """
    target, resume = require_here(target).absolute(), existing == "resume"
    partial = partial_path(target)
    with _alone(target):
        if resume and not partial.exists() and _is_made(target):
            if resumable and (target / resumable).exists():
                _drop(target, scratch)
            raise Finished(target)
        _restore(target)
        replacing = resume and (partial / REPLACING).exists()
        _require_target(target, "replace" if replacing else existing, folder=True)
        with _unfinished(target, existing, resumable, telling) as folder:
            yield folder
            _replace(partial, target)
        _drop(target, (REPLACING, *scratch))


@contextlib.contextmanager
def _unfinished(target: Path, existing: Existing, resumable: str, telling: str) -> Iterator[Path]:
    partial, resume = partial_path(target), existing == "resume"
    if resumable and (partial / resumable).exists() and existing == "refuse":
        raise InputError(
            f"expected no unfinished work for {target}, found some: --resume continues it, --force drops it"
        )
    if resume and not partial.exists():
        raise InputError(f"expected unfinished work to resume for {target}, found none")
    with _plain_refusals(target, partial / resumable if resumable else None):
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            if target.exists():
                (partial / REPLACING).touch()
        try:
            yield partial
        except BaseException:
            if not any((partial / file).exists() for file in (resumable, telling) if file):
                shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def new_file(target: str | Path, *, existing: Existing = "refuse") -> Iterator[Path]:
    """A file path to write to, renamed to `target` when the block ends without an exception.

    Raises:
        InputError: `target` exists and is not to be replaced; another process writes it; no permission; a full disk.
    """
    with new_files(target, existing=existing) as (path,):
        yield path


@contextlib.contextmanager
def new_files(*targets: str | Path, existing: Existing = "refuse") -> Iterator[list[Path]]:
    """Several file paths to write to, all settled before any work and renamed together at its end.

    One that was not written to is left away.

    Raises:
        InputError: see `new_file`; or two of one name.
    """
    paths = [require_here(target).absolute() for target in targets]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"expected outputs of different names, found {twice} twice")
    # The suffix stays last: figure and table writers choose their format by it.
    partials = [path.with_name(f".partial-{path.name}") for path in paths]
    with contextlib.ExitStack() as stack:
        for path, partial in zip(paths, partials, strict=True):
            stack.enter_context(_alone(path))
            _require_target(path, existing, folder=False)
            stack.callback(partial.unlink, missing_ok=True)
            with _plain_refusals(path):
                partial.touch()
                partial.unlink()
        with _plain_refusals(paths[0] if paths else Path()):
            yield partials
        for path, partial in zip(paths, partials, strict=True):
            if partial.exists():
                with _plain_refusals(path):
                    _replace(partial, path)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Refuse while another process writes `target`; one that died holds nothing."""
    with _plain_refusals(target):
        require_apart(target, [Path.cwd()])
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock")
        file = _held(lock, target)
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _held(lock: Path, target: Path) -> IO[str]:
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(lock.open("w"))
            if _lock(file, target):
                stack.pop_all()
                return file


def _lock(file: IO[str], target: Path) -> bool:
    """Lock an open file; False if it is another by now, since whoever held it was done with it."""
    if fcntl is None:  # where there are no such locks, nobody is refused
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"expected no other process to write {target}, found one that does") from error
    except OSError:  # a file system without locks
        return True
    try:
        return os.fstat(file.fileno()).st_ino == Path(file.name).stat().st_ino
    except FileNotFoundError:
        return False


def _is_made(target: Path) -> bool:
    """Whether a folder is the whole work of a command of ours."""
    try:
        return "weightspace" in read_object(target / MANIFEST)
    except InputError:
        return False


def _restore(target: Path) -> None:
    """What was to be replaced when a process was killed in between."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)


def _drop(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)


def require_apart(target: str | Path, inputs: Sequence[Path]) -> None:
    """Raise `InputError` if writing `target` would replace one of the inputs."""
    place = Path(target).resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise InputError(f"expected an --out apart from the inputs, found {target}, which is or holds {path}")


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: keys in the order given, NaN and infinities as null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented."""
    path.write_text(without_secrets(to_json(value, indent=2)) + "\n")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a Parquet table without its index; `read_table` knows by checksums whether any of it was changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = pa.Table.from_pandas(table, preserve_index=False)
    sums = to_json(column_sums(stored.to_pandas())).encode()
    metadata = {**(stored.schema.metadata or {}), SUMS_KEY: sums}
    with path.open("wb") as file:  # pyarrow itself takes some names for addresses
        pq.write_table(stored.replace_schema_metadata(metadata), file, write_page_checksum=True)


def write_manifest(
    folder: Path, *, configuration: Mapping[str, Any], seed: int, inputs: Sequence[Path] = (), public: bool = False
) -> None:
    """Write `manifest.json`: what made this folder (command, configuration, versions, hashes of the inputs).

    What is `public` goes to others, and does not tell them the command, which names folders of this machine.
    """
    write_json(
        folder / MANIFEST,
        {
            **({} if public else {"command": called_as()}),
            "weightspace": version("weightspace"),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": installed_versions(),
            "seed": seed,
            "configuration": dict(configuration),
            "inputs": {str(path): hash_input(path) for path in inputs},
        },
    )


def called_as() -> str:
    """The command line of this process, without the secrets of addresses."""
    return without_secrets(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def installed_versions() -> dict[str, str]:
    """The versions that decide the numbers."""
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def hash_input(path: Path) -> str:
    """SHA-256 of a file; of a folder, over its JSON and Parquet files and the names and sizes of all others."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for entry in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{entry.relative_to(path)}:{entry.stat().st_size}".encode())
        if entry.suffix in (".json", ".parquet") and entry.name != MANIFEST:
            digest.update(entry.read_bytes())
    return digest.hexdigest()


def _require_target(path: Path, existing: Existing, *, folder: bool) -> None:
    """Raise `InputError` unless an output may be written."""
    if existing not in get_args(Existing):
        raise InputError(f"expected existing to be among {', '.join(get_args(Existing))}, found '{existing}'")
    force = existing == "replace"
    with _plain_refusals(path):
        exists = path.exists()
    if exists and force and path.is_dir() != folder:
        kinds = ("file", "folder") if folder else ("folder", "file")
        raise InputError(
            f"expected nothing or a {kinds[1]} at {path}, found a {kinds[0]}, which --force does not replace"
        )
    if exists and not force:
        raise InputError(f"expected nothing at {path}, found something: choose another --out, or --force replaces it")


def _replace(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; an old folder is moved aside first and deleted last."""
    _open_to_others(partial)
    if not target.is_dir():
        partial.replace(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    partial.rename(target)
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)


def _open_to_others(partial: Path) -> None:
    """Give files the usual permissions: safetensors makes them for the owner's eyes only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in partial.rglob("*") if partial.is_dir() else [partial]:
        if path.is_file():
            path.chmod(0o666 & ~mask)


@contextlib.contextmanager
def _plain_refusals(target: Path, state: Path | None = None) -> Iterator[None]:
    """What the system refuses, as a sentence; `state` is what `--resume` continues from, if it is there."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.EACCES: "expected permission to write",
            errno.EPERM: "expected permission to write",
            errno.EROFS: "expected a writable file system",
            errno.ENOSPC: "expected room on the disk",
            errno.EDQUOT: "expected room on the disk",
            errno.EFBIG: "expected room on the disk",
            errno.ENAMETOOLONG: "expected a shorter name",
            errno.ENOTDIR: "expected a folder as parent",
            errno.EEXIST: "expected a folder as parent",
        }
        if error.errno not in reasons or isinstance(error, InterruptedError):
            raise
        where = error.filename or target
        found = os.strerror(error.errno)
        raise InputError(f"{reasons[error.errno]} for {target}, found '{found}' at {where}{_kept(state)}") from error
    except (RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk in exceptions of their own.
        if not any(sign in str(error) for sign in FULL_DISK_SIGNS):
            raise
        raise InputError(f"expected room on the disk for {target}, found none left{_kept(state)}") from error


def _kept(state: Path | None) -> str:
    """What became of the work that the system stopped."""
    if state is not None and state.exists():
        return "; what was done is kept: --resume continues it"
    return "; nothing is kept"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
