"""What README says of files, commands and Python is so."""

import re
import runpy
from pathlib import Path

import pytest

from weightspace.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DIGITS = re.compile(r"[\d.,]+")
update = runpy.run_path(str(ROOT / "docs" / "update_readme.py"))


def test_written_blocks_are_up_to_date() -> None:
    for content in (update["file_tree"](), update["results"](), *map(update["snippet"], update["SNIPPETS"])):
        assert content in README, "run: python docs/update_readme.py"


@pytest.mark.slow
def test_snippets_say_what_the_scripts_say(tmp_path: Path) -> None:
    """But for digits, which another processor rounds otherwise."""
    for script in update["SNIPPETS"]:
        said = "\n".join(f"# {line}" for line in update["printed"](script, tmp_path).splitlines())
        assert DIGITS.sub("#", said) in DIGITS.sub("#", README), script


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^weightspace (\w+)", README, re.MULTILINE))
    known = {name for name in app.resolved_commands() if not name.startswith("-")}
    assert listed == known


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
