"""What README says of files, commands and Python is so."""

import re
import runpy
from pathlib import Path

import pytest

from weightspace.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
update = runpy.run_path(str(ROOT / "docs" / "update_readme.py"))


@pytest.mark.parametrize("name", ["files", "quickstart"])
def test_written_blocks_are_up_to_date(name: str) -> None:
    content = {"files": update["file_tree"], "quickstart": update["quickstart_source"]}[name]()
    assert content in README, "run: python docs/update_readme.py runs/demo"


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^weightspace (\w+)", README, re.MULTILINE))
    known = {name for name in app.resolved_commands() if not name.startswith("-")}
    assert listed == known


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
