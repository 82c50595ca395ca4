"""Write `pages/house.md`: the floors of the package with one line a file, from the docstrings."""

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "weightspace"
PAGE = ROOT / "docs" / "pages" / "house.md"
HEAD = """# The house

Every file of the package, floor by floor, with the first line of its docstring. A file imports from floors below its
own and from its own room, never in a circle; `tests/test_house.py` holds both. This page is written by
`python docs/update_house.py`.
"""


def first_line(path: Path) -> str:
    """The first sentence of a file's docstring."""
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    return lines[0].rstrip(".") if lines else ""


def file_lines(folder: Path, depth: int = 0) -> list[str]:
    """Files, then rooms inside, indented."""
    indent = "    " * depth
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    lines = [f"{indent}- `{path.stem}`: {first_line(path)}" for path in files]
    for room in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += [f"{indent}- **`{room.name}/`**: {first_line(room / '__init__.py')}", *file_lines(room, depth + 1)]
    return lines


def house_page() -> str:
    """The page as Markdown, the highest floor first."""
    floors: list[set[str]] = runpy.run_path(str(ROOT / "tests" / "test_house.py"))["FLOORS"]
    parts = [HEAD]
    for number, rooms in reversed(list(enumerate(floors))):
        parts.append(f"## Floor {number}\n")
        for room in sorted(rooms):
            folder, file = PACKAGE / room, PACKAGE / f"{room}.py"
            if folder.is_dir():
                lines = [f"**`{room}/`**: {first_line(folder / '__init__.py')}", "", *file_lines(folder), ""]
            else:
                lines = [f"**`{room}`**: {first_line(file)}", ""]
            parts.append("\n".join(lines))
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(house_page())
