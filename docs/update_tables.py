"""Render the tables of `docs/pages/pretraining.md` from `docs/tables/`: `python docs/update_tables.py`."""

import json
from pathlib import Path
from typing import Any

from update_readme import replace_block

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "pretraining.md"
COLUMNS = {
    "choice": "choice",
    "latents_per_weight": "latents per weight",
    "r2": "R² of weights",
    "reconstructed_accuracy": "accuracy kept",
    "mean test_accuracy": "test accuracy (mean)",
    "mean epoch": "epoch (mean)",
    "readout test_accuracy": "test accuracy (readout)",
    "readout epoch": "epoch (readout)",
}
WINDOWS = ("window 8", "window 16", "window 32", "window 64")


def cell(rows: list[dict[str, Any]], column: str) -> str:
    """The values of one choice, one for each seed."""
    if column == "choice":
        return str(rows[0]["choice"])
    values = [f"{row[column]:.{2 if column == 'latents_per_weight' else 3}f}" for row in rows]
    return values[0] if column == "latents_per_weight" else ", ".join(values)


def choices(found: dict[str, Any]) -> str:
    """All choices of one zoo; several seeds side by side."""
    groups: dict[str, list[dict[str, Any]]] = {}
    tables = list(dict.fromkeys(row["table"] for row in found["rows"]))
    for row in sorted(found["rows"], key=lambda row: tables.index(row["table"])):
        groups.setdefault(row["choice"], []).append(row)
    accuracy = ", ".join(f"{row['original_accuracy']:.3f}" for row in groups["default"])
    lines = [
        f"`{found['command']}`. The held-out networks as they are: {accuracy}.",
        "",
        f"| {' | '.join(COLUMNS.values())} |",
        "|---" * len(COLUMNS) + "|",
        *(f"| {' | '.join(cell(rows, column) for column in COLUMNS)} |" for rows in groups.values()),
    ]
    return "\n".join(lines)


def windows(found: list[dict[str, Any]]) -> str:
    """The paper's figure 6: windows of training down, of inference across."""
    lines = [
        f"| zoo, window of training | {' | '.join(name.removeprefix('window ') for name in WINDOWS)} |",
        "|---" * (len(WINDOWS) + 1) + "|",
    ]
    for zoo in found:
        rows = [row for row in zoo["rows"] if WINDOWS[0] in row and row["seed"] == 0]
        for row in sorted(rows, key=lambda row: WINDOWS.index(row["choice"]) if row["choice"] in WINDOWS else 9):
            name = row["choice"].removeprefix("window ") if row["choice"] in WINDOWS else "64"
            lines.append(f"| {zoo['zoo']}, {name} | {' | '.join(f'{row[window]:.3f}' for window in WINDOWS)} |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite all tables."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "tables").glob("choices-*.json"))]
    text = PAGE.read_text()
    for zoo in found:
        text = replace_block(text, zoo["zoo"], choices(zoo))
    PAGE.write_text(replace_block(text, "windows", windows(found)))


if __name__ == "__main__":
    main()
