"""Render what `diff` tells of pairs, and what it costs: `python docs/update_pairs.py`.

From `docs/tables/pairs.json` (`benchmarks/pairs.py`) and `docs/tables/diff.json` (`benchmarks/diff.py`).
"""

import json
from pathlib import Path
from typing import Any

from update_reading import markdown
from update_readme import replace_block

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "results" / "pairs.md"


def confusion(table: dict[str, Any]) -> str:
    """A row for each truth: how often it was said, and what else was."""
    rows = []
    for truth, counts in table["confusion"].items():
        total = sum(counts.values())
        others = [f"{kind} ({count})" for kind, count in counts.items() if kind != truth]
        rows.append([truth, str(total), f"{counts.get(truth, 0) / total:.1%}", ", ".join(others) or "–"])
    return markdown(["what it is", "pairs", "said", "said instead"], rows)


def strengths(table: dict[str, Any]) -> str:
    """Those that were not always right."""
    wrong = {name: hits for name, hits in table["right"].items() if hits[0] < hits[1]}
    if not wrong:
        return "At every strength all were right."
    return markdown(["wrong at", "right", "of"], [[name, str(hits[0]), str(hits[1])] for name, hits in wrong.items()])


def parents(table: dict[str, Any]) -> str:
    """How often the parent was the right one."""
    rows = []
    for name, (right, count) in table["parents"].items():
        how = "a guess" if "guessed" in name else "seen"
        rows.append([name.removesuffix(" (guessed)"), how, f"{right / count:.0%}", str(count)])
    return markdown(["kind", "which came first is", "right", "pairs"], rows)


def costs(measured: dict[str, Any]) -> str:
    """Seconds beside those of reading both files once."""
    rows = []
    for name, own in measured["diff"].items():
        for where, run in own.items() if name != "numbers" else ():
            seconds = [f"{run[part]:.1f} s" for part in ("read", "seconds")]
            rows.append([name, where, *seconds, f"{run['ratio']:.1f}", f"{run['MiB']:,.0f} MiB"])
    columns = ["the second file is", "files come", "reading both once", "`diff`", "ratio", "memory"]
    inspected = measured["inspect"]
    told = (
        f"`inspect` of {inspected['checkpoints']:,} checkpoints of {inspected['numbers_each']:,} numbers, in families "
        f"of ten: {inspected['seconds']:.0f} s, {inspected['MiB']:,.0f} MiB."
    )
    count = f"Two files of {measured['diff']['numbers']:,} numbers in single precision, two tensors at a time:"
    return "\n\n".join([count, markdown(columns, rows), told])


def main() -> None:
    """Rewrite the page's blocks."""
    pairs = json.loads((ROOT / "tables" / "pairs.json").read_text())
    text = PAGE.read_text()
    alarms, count = pairs["tested"]["false_alarms"]
    said = f"Of {count} pairs of strangers {alarms} were called relatives."
    blocks = {
        "tested": "\n\n".join([confusion(pairs["tested"]), strengths(pairs["tested"]), said]),
        "fitted": "\n\n".join([confusion(pairs["fitted"]), strengths(pairs["fitted"])]),
        "parents": parents(pairs["tested"]),
        "costs": costs(json.loads((ROOT / "tables" / "diff.json").read_text())),
    }
    for name, block in blocks.items():
        text = replace_block(text, name, block)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
