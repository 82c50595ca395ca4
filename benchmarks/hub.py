"""What is fetched from a hub: `python benchmarks/hub.py`.

A hub on this machine (that of the tests) serves a repository with a gigabyte of weights in four shards, and a torch
file. Every command runs in a process of its own; the bytes are those that the server sent. Writes
`docs/tables/hub.json`, with what commands printed.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from loopback_hub import hub_of  # noqa: E402 # of the tests
from test_remote import sharded  # noqa: E402

TENSOR = """
import weightspace as ws
print(ws.open_weights("hf://org/name")["model.layers.3.weight"].shape)
"""
INSPECT = ["-m", "weightspace", "inspect"]
COMMANDS: dict[str, list[str]] = {
    "weightspace inspect hf://org/name": [*INSPECT, "hf://org/name"],
    'ws.open_weights("hf://org/name")["model.layers.3.weight"]': ["-c", TENSOR],
    "weightspace inspect hf://org/name/torch --values": [*INSPECT, "hf://org/name/torch", "--values"],
    "the same again": [*INSPECT, "hf://org/name/torch", "--values"],
}


def main() -> None:
    """Serve, run, count, write."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "repository"
        folder.mkdir()
        total = sharded(folder)
        (folder / "torch").mkdir()
        torch.save({"weight": torch.randn(1_000, 1_000)}, folder / "torch" / "net.pt")
        rows: list[dict[str, Any]] = []
        with hub_of(folder) as hub:
            settings = {"FSSPEC_HF_ENDPOINT": hub.address, "HF_HOME": f"{place}/cache", "HF_HUB_DISABLE_XET": "1"}
            for name, words in COMMANDS.items():
                before = hub.sent
                ended = subprocess.run(
                    [sys.executable, *words],
                    env={**os.environ, **settings},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if ended.returncode:
                    raise SystemExit(ended.stderr)
                rows.append({"command": name, "bytes": hub.sent - before, "printed": ended.stdout})
                print(name, hub.sent - before)
    about = {"date": str(date.today()), "total": total, "torch": 4_000_000, "rows": rows}
    (ROOT / "docs" / "tables" / "hub.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
