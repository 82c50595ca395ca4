"""Write the parts of README.md that a program can write: `python docs/update_readme.py runs/demo`.

The demo's tables and figure come from a run's folder, the quickstart and its output from running it, and the file
tree from the first line of every room's docstring. The support table is written by its test.
"""

import ast
import contextlib
import io
import runpy
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from weightspace.analysis.probing.comparing import ProbeRow
from weightspace.evaluation.comparing import WritingRow
from weightspace.report import tables
from weightspace.report.figures import draw_figures
from weightspace.report.page import FIGURES_FILE, read_results, read_run_file

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "weightspace"
FIGURE = ROOT / "docs" / "demo.svg"
INK = "#6b7280"  # readable on light and dark pages alike


def demo_output(run: Path) -> str:
    """What the demo prints after its stages."""
    results = read_results(run)
    reading = [ProbeRow.from_json(row) for row in results["reading"]]
    writing = [WritingRow(**row) for row in results["writing"]]
    console = Console(width=tables.WIDTH, file=io.StringIO(), record=True)
    for table in [*tables.reading_tables(reading), *tables.writing_tables(writing)]:
        console.print(tables.draw_table(table))
        console.print()
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    return "\n".join([*lines, *results["findings"]])


def quickstart_output() -> str:
    """What the quickstart prints."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        runpy.run_path(str(ROOT / "examples" / "quickstart.py"))["main"](Path(folder))
    return printed.getvalue().strip()


def quickstart_source() -> str:
    """The body of the quickstart's main function."""
    source = (ROOT / "examples" / "quickstart.py").read_text()
    (main,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    lines = source.splitlines()[main.body[1].lineno - 1 : main.end_lineno]
    head = ["import pathlib", "", "import weightspace as ws", "", 'folder = pathlib.Path("runs/quickstart")']
    return "\n".join(head) + "\n" + "\n".join(line.removeprefix("    ") for line in lines)


def file_tree() -> str:
    """Every room with the first line of its docstring, floor by floor, as the data flows."""
    floors: list[set[str]] = runpy.run_path(str(ROOT / "tests" / "test_house.py"))["FLOORS"]
    names = [name for floor in floors for name in sorted(floor)]
    rooms = [path for path in (PACKAGE / name for name in names) if path.is_dir()]
    lines = [f"  {room.name + '/':16}{purpose(room)}" for room in rooms]
    return "\n".join(["src/weightspace/", *lines, "tests/  examples/  docs/  benchmarks/  LOG.md"])


def purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    source = path / "__init__.py" if path.is_dir() else path
    return (ast.get_docstring(ast.parse(source.read_text())) or "").splitlines()[0]


def replace_block(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of a block."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    start = text.index(begin) + len(begin)
    return text[:start] + content + "\n" + text[text.index(end) :]


def main(run: Path) -> None:
    """Rewrite all blocks."""
    figures = read_run_file(run / FIGURES_FILE)
    (drawn,) = draw_figures({"map": figures["map"]})
    FIGURE.write_text(drawn.svg.replace("currentColor", INK))
    readme = ROOT / "README.md"
    text = readme.read_text()
    text = replace_block(text, "figure", f"![{drawn.title}](docs/demo.svg)\n\n*{drawn.sentence}*")
    text = replace_block(text, "demo output", f"```\n{demo_output(run)}\n```")
    text = replace_block(text, "quickstart", f"```python\n{quickstart_source()}\n```")
    text = replace_block(text, "quickstart output", f"```\n{quickstart_output()}\n```")
    text = replace_block(text, "files", f"```\n{file_tree()}\n```")
    readme.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
