"""One self-contained HTML page from the results of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from weightspace.analysis.inspecting.studying import FolderStudy
from weightspace.analysis.pairs.diffing import Diff
from weightspace.analysis.probing.comparing import ProbeRow
from weightspace.errors import InputError
from weightspace.evaluation.comparing import WritingRow
from weightspace.inputs import read_object
from weightspace.outputs import called_as, installed_versions
from weightspace.plain_text import markdown_cell, one_line
from weightspace.report.figures import Drawn, draw_figures, to_svg
from weightspace.report.pairs import diff_tables
from weightspace.report.plots import draw_diff, draw_lineage
from weightspace.report.result_tables import reading_tables, writing_tables
from weightspace.report.tables import Table, folder_tables

MOST_ROWS = 1_000
RESULT_KEYS = ("title", "summary", "story", "findings", "reading", "writing", "made")
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
    return render_page(results, results_tables(results), draw_figures(figures))


def results_tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of a run's results.

    Raises:
        InputError: rows of another kind.
    """
    try:
        reading = [ProbeRow.from_json(row) for row in results["reading"]]
        writing = [WritingRow(**row) for row in results["writing"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"expected the rows of a run of this version in its results, found others ({error})"
        ) from error
    return [*reading_tables(reading), *writing_tables(writing)]


def render_page(about: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[Drawn] = ()) -> str:
    """One self-contained page that tells a story first: `title`, `summary`, and the sentences of `about["story"]`, each
    with its figure; then, folded away, `findings`, the other figures, the tables, and how it was `made`.

    Without a story everything is open.
    """
    named = {figure.name: figure for figure in figures}
    story = [(part["sentence"], named.get(part["figure"])) for part in about.get("story", [])]
    told = {part["figure"] for part in about.get("story", [])}
    others = [figure for figure in figures if figure.name not in told]
    template = templates(autoescape=True).get_template("page.html.jinja")
    return template.render(results=about, story=story, figures=others, tables=tables)


def templates(*, autoescape: bool) -> jinja2.Environment:
    """The templates of this room; a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("weightspace.report", "."),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": markdown_cell, "shown": one_line}
    return environment


def read_results(run: Path) -> Mapping[str, Any]:
    """`results.json` of a run's folder."""
    return read_run_file(run / RESULTS_FILE)


def read_run_file(path: Path) -> Mapping[str, Any]:
    """A JSON file of a run's folder."""
    try:
        return read_object(path)
    except InputError as error:
        raise InputError(f"expected the results of a run at {path}, found none that can be read ({error})") from error


def render_inspection(study: FolderStudy) -> str:
    """What is in a folder of checkpoints, as one self-contained page of at most 1,000 rows a table."""
    trees = study.families()
    figures = []
    if trees:
        sentence = "Each checkpoint beside the one it is nearest to; dashed where the two had to be aligned first."
        figures.append(Drawn("Families", sentence, to_svg(draw_lineage(trees), "lineage")))
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    about = {
        "title": f"What is in {study.folder.rstrip('/').rpartition('/')[2]}",
        "summary": f"{study.summary()}.",
        "findings": study.notes(),
        "made": {"command": called_as(), "versions": versions},
    }
    return render_page(about, folder_tables(study, MOST_ROWS), figures)


def render_diff(diff: Diff) -> str:
    """Two checkpoints side by side, as one self-contained page of at most 1,000 rows a table."""
    verdict = diff.verdict
    figures = []
    if any(not entry.change.equal and not entry.aside for entry in diff.seen.traces):
        sentence = (
            "Every tensor that may have been learned, in the order of the first. Red: rows at the same places have "
            "nothing in common any more."
        )
        sentence += " Below: how far the activations of both are apart." if diff.answers else ""
        figures.append(Drawn("What changed", sentence, to_svg(draw_diff(diff), "diff")))
    findings = [*verdict.evidence, *([f"It would be wrong if {verdict.wrong_if}."] if verdict.wrong_if else [])]
    findings += [f"{diff.guess()}."] if verdict.guessed else []
    findings += [str(diff.answers)] if diff.answers else []
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    about = {
        "title": f"{verdict.relation}: {verdict.kind}" if verdict.kind != verdict.relation else verdict.relation,
        "summary": f"{diff}.",
        "findings": [*findings, *diff.notes],
        "made": {"command": called_as(), "versions": versions},
    }
    return render_page(about, diff_tables(diff, MOST_ROWS), figures)
