"""One self-contained HTML page from the results of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from weightspace.errors import InputError
from weightspace.report.figures import Drawn, draw_figures
from weightspace.report.tables import Table, reading_tables, writing_tables

RESULT_KEYS = ("title", "summary", "findings", "reading", "writing", "made")
RESULTS_FILE, FIGURES_FILE, REPORT_FILE = "results.json", "figures.json", "report.html"


def render_report(run: str | Path) -> str:
    """The page of a run's folder, from its `results.json` and `figures.json`.

    Raises:
        InputError: the folder has no results.
    """
    results, figures = read_results(Path(run)), read_run_file(Path(run) / FIGURES_FILE)
    missing = [name for name in RESULT_KEYS if name not in results]
    if missing:
        raise InputError(f"expected {', '.join(RESULT_KEYS)} in {Path(run) / RESULTS_FILE}, found no {missing[0]}")
    tables = [*reading_tables(results["reading"]), *writing_tables(results["writing"])]
    return render_page(results, tables, draw_figures(figures))


def render_page(about: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[Drawn] = ()) -> str:
    """One self-contained page: `title`, `summary`, `findings` and `made` of `about`, then figures, then tables."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("weightspace.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(results=about, tables=tables, figures=figures)


def read_results(run: Path) -> Mapping[str, Any]:
    """`results.json` of a run's folder."""
    return read_run_file(run / RESULTS_FILE)


def read_run_file(path: Path) -> Mapping[str, Any]:
    """A JSON file of a run's folder."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"expected the results of a run at {path}, found none that can be read") from error
    if not isinstance(value, dict):
        raise InputError(f"expected the results of a run at {path}, found something else")
    return value
