"""Commands that end at any moment: nothing half-written under the final name, and no worker outlives its parent."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.inputs import read_table
from weightspace.outputs import Finished, new_files, new_folder, partial_path, write_manifest
from weightspace.zoo.zoo import Zoo

COMMAND = Path(sys.executable).with_name("weightspace")
MOMENTS = 20
KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SMALL = ("--model-width", "16", "--latent-width", "8", "--heads", "2", "--layers", "1", "--save-every", "5")


def test_outputs_are_settled_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "second").touch()
    with pytest.raises(InputError, match="expected nothing at"), new_files(tmp_path / "first", tmp_path / "second"):
        pytest.fail("work was begun")
    with pytest.raises(InputError, match="different names"), new_files(tmp_path / "a", tmp_path / "a"):
        pytest.fail("work was begun")
    with new_files(tmp_path / "first", tmp_path / "third") as paths:
        paths[0].touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_finished_work_is_not_resumed(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", resumable="state", scratch=("parts",)) as folder:
        (folder / "parts").mkdir()
        (folder / "parts" / "one").touch()
        write_manifest(folder, configuration={}, seed=0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    with pytest.raises(Finished, match="is finished"), new_folder(tmp_path / "out", existing="resume"):
        pytest.fail("work was begun")


def test_the_folders_of_others_are_no_finished_work(tmp_path: Path) -> None:
    (tmp_path / "thesis" / "parts").mkdir(parents=True)
    (tmp_path / "thesis" / "parts" / "one.txt").touch()
    (tmp_path / "thesis" / "manifest.json").write_text('{"name": "an extension of a browser"}')
    resumed = new_folder(tmp_path / "thesis", existing="resume", resumable="parts", scratch=("parts",))
    with pytest.raises(InputError, match="expected nothing at"), resumed:
        pytest.fail("work was begun")
    assert (tmp_path / "thesis" / "parts" / "one.txt").exists()


def test_an_interrupted_replacement_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with (
        pytest.raises(KeyboardInterrupt),
        new_folder(tmp_path / "out", existing="replace", resumable="state") as folder,
    ):
        (folder / "state").touch()
        raise KeyboardInterrupt
    with new_folder(tmp_path / "out", existing="resume", resumable="state", scratch=("state",)) as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_what_was_to_be_replaced_comes_back(tmp_path: Path) -> None:
    """A process that was killed between the two renames of a replacement."""
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "result").touch()
    with pytest.raises(InputError, match="expected nothing at"), new_folder(tmp_path / "out"):
        pytest.fail("work was begun")
    assert (tmp_path / "out" / "result").exists()


def test_one_process_writes_an_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time\nfrom weightspace.outputs import new_folder\n"
        f"with new_folder({str(out)!r}) as folder:\n    print('begun', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "begun\n"
        with pytest.raises(InputError, match="expected no other process to write"), new_folder(out):
            pytest.fail("work was begun")
        other.kill()
    with new_folder(out) as folder:
        (folder / "result").touch()
    assert (out / "result").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.slow
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    words = ["grow", "mlp:64", "--data", "digits", "--members", 64, "--epochs", 2_000, "--workers", 2, "--out", "zoo"]
    for kind in KINDS:
        with start(words, tmp_path) as running:
            deadline = time.monotonic() + 60
            while len(workers := living(running.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(0.5)
            workers = living(running.pid)
            running.send_signal(kind)
            status = running.wait(30)
        assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[kind]
        deadline = time.monotonic() + 10
        while any(map(alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert workers and not any(map(alive, workers))
        assert not (tmp_path / "zoo").exists()


def start(words: list[Any], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([str(COMMAND), *map(str, words)], cwd=folder, env=environment, **quiet)


def living(parent: int) -> list[int]:
    """Processes of a parent, those of its own included."""
    pairs = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            pairs.append(int(status.parent.name))
    return pairs


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Of every long command: its words, what opens its output, and whether it goes on with --resume.
LONG: dict[str, tuple[list[Any], Any, bool]] = {
    "grow": (
        ["grow", "mlp:8", "--data", "digits", "--members", 8, "--epochs", 3, "--workers", 1, "--out", "out"],
        Zoo.open,
        True,
    ),
    "import": (["import", "NETS", "--out", "out"], Zoo.open, True),
    "pretrain": (["pretrain", "ZOO", "--steps", 40, *SMALL, "--out", "out"], SANE.open, True),
    "distill": (["distill", "SANE", "ZOO", "--steps", 20, "--save-every", 5, "--out", "out"], SANE.open, True),
    "generate": (["generate", "SANE", "--anchors", "ZOO", "--best", 4, "--count", 4, "--out", "out"], Zoo.open, False),
    "publish": (["publish", "ZOO", "--out", "out"], Zoo.open, False),
    "embed": (["embed", "SANE", "ZOO", "--out", "out.parquet"], read_table, False),
}


@pytest.fixture(scope="module")
def nets(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from weightspace.weights.files import write_weights

    folder = tmp_path_factory.mktemp("nets")
    for row in range(len(zoo)):
        write_weights(folder / f"{row}.safetensors", zoo.weights(row))
    return folder


@pytest.fixture(scope="module")
def trained(zoo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sane")
    with start(["pretrain", zoo_folder, "--steps", 20, *SMALL, "--out", "sane"], folder) as running:
        assert running.wait(300) == 0
    return folder / "sane"


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_twenty_moments_of_a_command(
    name: str,
    zoo_folder: Path,
    trained: Path,
    nets: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    given, opened, resumes = LONG[name]
    places = {"ZOO": zoo_folder, "SANE": trained, "NETS": nets}
    words = [places.get(word, word) for word in given]
    out = tmp_path / str(given[-1])
    began = time.monotonic()
    with start(words, tmp_path) as whole:
        assert whole.wait(300) == 0
    seconds, right = time.monotonic() - began, content(out)
    chance, outcomes = random.Random(name), {"whole": 0, "nothing": 0, "resumed": 0}  # no secrets
    for moment in range(MOMENTS):
        clear(tmp_path)
        with start(words, tmp_path) as running:
            # Half of them late, where work is merged and renamed.
            share = chance.uniform(0, 1) if moment % 2 else chance.uniform(0.8, 1.02)
            time.sleep(share * seconds)
            running.send_signal(KINDS[moment % len(KINDS)])
            status = running.wait(60)
        if out.exists():
            assert content(out) == right, "half-written under the final name"
            outcomes["whole"] += 1
        else:
            assert status in (130, 143, -9, -2, -15), status
            outcomes["nothing"] += 1
        if resumes and (out.exists() or partial_path(out).exists()):
            with start([*words, "--resume"], tmp_path) as running:
                status = running.wait(300)
            # Work of which nothing was worth keeping yet is begun anew, as the refusal says.
            assert status == 0 or (status == 2 and not out.exists())
            if status == 0:
                outcomes["resumed"] += 1
                assert content(out) == right
                opened(out)
    clear(tmp_path)
    with start(words, tmp_path) as running:
        assert running.wait(300) == 0 and content(out) == right
    record_property("counted", f"{name}: {outcomes} of {MOMENTS} moments")


def content(out: Path) -> dict[str, bytes]:
    """All bytes of an output but those that say when and how it was made."""
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
    if (out / "model.safetensors").is_file():  # what else there is comes later, and says how long steps took
        files = [out / "model.safetensors"]
    held = {str(path.relative_to(out)): path.read_bytes() for path in files if path.name != "manifest.json"}
    for path, text in held.items():
        if path == "zoo.json":
            about = json.loads(text)
            about.pop("plan", None)  # how fast this machine was
            held[path] = json.dumps(about).encode()
    return held


def clear(folder: Path) -> None:
    import shutil

    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
