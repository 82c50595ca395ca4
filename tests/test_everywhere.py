"""The command line in bare surroundings: no home, no terminal, few letters, few files, little memory."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("weightspace")
PLAIN = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR", "OMP_NUM_THREADS")}
BARE: dict[str, tuple[dict[str, str], Callable[[], None] | None]] = {
    "no home": ({}, None),
    "a home that is not there": ({"HOME": "/nowhere/at/all"}, None),
    "a dumb terminal": ({"TERM": "dumb", "FORCE_COLOR": "1"}, None),
    "twenty columns": ({"COLUMNS": "20", "LINES": "5"}, None),
    "the C locale": ({"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, None),
    "ASCII alone": ({"PYTHONIOENCODING": "ascii"}, None),
    "an odd time zone": ({"TZ": "Pacific/Chatham"}, None),
    "a time zone that is not there": ({"TZ": "Nowhere/City"}, None),
    "few open files": ({}, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))),
    "4 GB of addresses": ({}, lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)),
}


def call(
    words: Sequence[object], folder: Path, environment: dict[str, str], before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    given = [str(COMMAND), *map(str, words)]
    return subprocess.run(
        given, cwd=folder, env=PLAIN | environment, capture_output=True, stdin=subprocess.DEVNULL, preexec_fn=before
    )


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", BARE)
def test_commands_work_in(surroundings: str, zoo_folder: Path, sane_folder: Path, tmp_path: Path) -> None:
    environment, before = BARE[surroundings]
    # A name with a space, and letters that not every output can write.
    place = tmp_path / "ein Örtchen 🌿"
    place.mkdir()
    (place / "zoo").symlink_to(zoo_folder)
    for words in (
        ["zoo", "zoo", "--plot", "figure.svg"],
        ["embed", sane_folder, "zoo", "--out", "embeddings.parquet"],
        ["inspect", "zoo/shards", "--out", "page.html"],
    ):
        done = call(words, place, environment, before)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert {"figure.svg", "embeddings.parquet", "page.html"} <= {path.name for path in place.iterdir()}


def test_names_that_cannot_be_written_are_spelled(zoo_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "Örtchen"
    place.symlink_to(zoo_folder)
    done = call(["zoo", place.name], tmp_path, {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and rb"\xd6rtchen: 24 members" in done.stdout


def test_a_working_folder_that_was_deleted_is_one_sentence(zoo_folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; exec {COMMAND} publish {zoo_folder} --out out"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "weightspace: expected a working folder, found that it was deleted\n"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; exec {COMMAND} zoo --help"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "what is in a zoo" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_is_one_sentence(zoo_folder: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = call(["publish", zoo_folder, "--out", locked / "out"], tmp_path, {})
    assert done.returncode == 2 and b"expected permission to write" in done.stderr


def test_a_full_disk_is_one_sentence(zoo_folder: Path, tmp_path: Path) -> None:
    """Files may not grow beyond some kilobytes, which the system tells in the way that it tells of a full disk."""

    def little() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    # What Python compiles on its way would be cut as well, and stay.
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    done = call(["publish", zoo_folder, "--out", tmp_path / "out"], tmp_path, environment, little)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    assert b"expected room on the disk" in done.stderr and b"nothing is kept" in done.stderr
    assert not list(tmp_path.iterdir())
