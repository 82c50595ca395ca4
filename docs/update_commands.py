"""Write the help of every command: `python docs/update_commands.py`."""

import contextlib
import io
from pathlib import Path

from rich.console import Console

from weightspace.cli.app import COMMANDS, make_app

PAGE = Path(__file__).parent / "pages" / "commands.md"
WIDTH = 100
HEAD = """# Command line

Positional arguments are inputs, `--out` is the output and must not exist (`--force` replaces it, `--resume` goes on
with interrupted work). Every command prints the path it wrote and one line of result, [with `--json`](json.md) the
result for machines; a mistake of yours is exit status 2 with one sentence, Ctrl-C 130. Below is what `--help-all` says
of each, written by `python docs/update_commands.py`.
"""


def help_of(name: str) -> str:
    """What `weightspace NAME --help-all` prints."""
    console = Console(width=WIDTH, file=io.StringIO(), record=True, color_system=None)
    with contextlib.redirect_stdout(io.StringIO()):
        make_app(full=True).help_print([name], console=console)
    return "\n".join(line.rstrip() for line in console.export_text().strip().splitlines())


def page() -> str:
    """The page, in the order of the data's way."""
    parts = [HEAD]
    for title, commands in COMMANDS.items():
        parts.append(f"## {title}\n")
        for command in commands:
            name = command.__name__.rstrip("_")
            parts.append(f"### {name}\n\n```text\n{help_of(name)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
