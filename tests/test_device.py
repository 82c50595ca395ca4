"""benchmarks/device.py, which proves an accelerator, runs on a CPU too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "device.py"


def run(out: Path, *options: str) -> dict[str, dict[str, object]]:
    # The command line, which other tests call in this process, keeps a script's folder from being importable.
    free = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    words = [sys.executable, str(SCRIPT), "--dry", "--minutes", "90", "--out", str(out), *options]
    done = subprocess.run(words, env=free, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["stages"]


def test_every_path_gives_the_numbers_of_the_cpu(tmp_path: Path) -> None:
    checks = run(tmp_path / "device.json", "--only", "sanity")["sanity"]["result"]
    assert isinstance(checks, dict)
    assert len(checks) == 13
    assert all(check["right"] for check in checks.values()), checks


@pytest.mark.slow
def test_a_stage_without_time_is_skipped_and_one_with_a_result_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "device.json"
    assert "skipped" in run(out, "--only", "sanity", "--minutes", "0")["sanity"]
    first = run(out, "--only", "sanity")
    assert run(out, "--only", "sanity", "--minutes", "0") == first


@pytest.mark.slow
def test_every_stage_has_a_result(tmp_path: Path) -> None:
    stages = run(tmp_path / "device.json")
    assert [name for name, stage in stages.items() if "result" not in stage] == []
