"""The demo, and reports of runs."""

import logging
import sys
from pathlib import Path
from typing import Annotated

from weightspace.cli.shared import Force, Json, Out, existing, options, prepare_torch, print_json, print_result, say
from weightspace.demo.config import DemoConfig


def demo(
    *,
    out: Out = Path("runs/demo"),
    config: Annotated[DemoConfig, options("Size")] = DemoConfig(),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Tell the whole story on scikit-learn's digits, ending in report.html."""
    prepare_torch()
    _log_stages("weightspace.demo")
    from weightspace.demo.story import run_demo
    from weightspace.report.page import results_tables
    from weightspace.report.tables import print_table

    results = run_demo(out, config, existing=existing(force))
    if as_json:
        print_json(results)
        return
    for table in results_tables(results):
        print()
        print_table(table)
    print()
    say(*results["findings"])
    print()
    say(f"{out / 'report.html'}: {results['seconds']:.0f} seconds; open it in a browser")


def doctor(*, as_json: Json = False) -> None:
    """Print versions, processors, devices and extras, and whether a GPU would be used."""
    prepare_torch()
    from weightspace.machine import EXTRAS, describe_machine

    machine = describe_machine()
    if as_json:
        print_json(machine._asdict())
        return
    for name, version in machine.versions.items():
        say(f"{name} {version}")
    say(f"{machine.processors} processors, of which torch uses {machine.threads} (WEIGHTSPACE_THREADS asks for more)")
    half = "; training takes bf16" if machine.half_precision else ""
    say(f"--device auto takes {machine.device}{half}")
    for extra, installed in machine.extras.items():
        say(f"weightspace[{extra}] {installed or 'is not installed'}: {EXTRAS[extra][1]}")


def report(run: Path, /, *, out: Out, force: Force = False, as_json: Json = False) -> None:
    """Render the page of a run again from its results.

    Parameters
    ----------
    run
        Folder of a run, with results.json and figures.json.
    """
    from weightspace.outputs import new_file, require_apart
    from weightspace.report.page import render_report

    require_apart(out, [run])
    with new_file(out, existing=existing(force)) as path:
        path.write_text(render_report(run), encoding="utf-8")
    size = out.stat().st_size
    print_result(out, f"{size:,} bytes", {"bytes": size}, as_json)


def _log_stages(name: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
