"""Growing and importing on a Ray cluster of two workers, one of which is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from weightspace.zoo.growing.networks import mlp
from weightspace.zoo.zoo import Zoo

pytest.importorskip("ray", reason="needs the extra weightspace[ray]")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow

GROW = ("grow", "mlp:16", "--data", "digits", "--members", "8", "--epochs", "12", "--keep", "0,12", "--plan", "alone")


def run(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "weightspace", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and standard error."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def kill_a_busy_worker(process: subprocess.Popen[str], seconds: float = 120) -> bool:
    """Kill a process that works on a task of this run, once there is one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if "ray::_call" in " ".join(child.cmdline()) or child.name().startswith("ray::_call"):
                    os.kill(child.pid, signal.SIGKILL)
                    return True
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        time.sleep(0.02)
    return False


def test_growing_survives_the_death_of_a_worker(tmp_path: Path) -> None:
    process = run(*GROW, "--together", 2, "--workers", 2, "--ray", "local", "--out", tmp_path / "cluster")
    killed = kill_a_busy_worker(process)
    out, err = process.communicate(timeout=300)
    assert killed and process.returncode == 0, err
    assert "8 members, 16 checkpoints" in out
    assert ended(run(*GROW, "--workers", 1, "--out", tmp_path / "here")) == (0, "")
    first, second = (Zoo.open(tmp_path / name) for name in ("cluster", "here"))
    assert first.table.equals(second.table)
    assert torch.equal(first.weights(3)["module_list.1.weight"], second.weights(3)["module_list.1.weight"])


def test_importing_on_a_cluster_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    for number in range(12):
        torch.save(mlp([4, 3, 2]).state_dict(), tmp_path / "nets" / f"{number}.pt")
    for name, more in (("cluster", ("--ray", "local", "--workers", 2)), ("here", ())):
        assert ended(run("import", tmp_path / "nets", "--out", tmp_path / name, *more))[0] == 0
    first, second = (Zoo.open(tmp_path / name) for name in ("cluster", "here"))
    assert first.table.equals(second.table) and first.members == [str(number) for number in range(12)]


def test_a_cluster_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    status, err = ended(run(*GROW, "--ray", "127.0.0.1:1", "--out", tmp_path / "zoo"))
    assert status == 2 and "expected a Ray cluster at '127.0.0.1:1', found none that answers" in err
    assert err.count("weightspace:") == 1
