"""Render what came of other people's files from `docs/tables/real-files.json`: `python docs/update_real_files.py`."""

import json
from pathlib import Path
from typing import Any

from update_reading import markdown
from update_readme import replace_block

ROOT = Path(__file__).parent
PAGE = ROOT / "pages" / "results" / "real-files.md"
Row = dict[str, Any]


def said(value: object, words: str) -> str:
    """Words, or the sentence that refused."""
    return f"refused: {value['refused']}" if isinstance(value, dict) and "refused" in value else words


def symmetry(row: Row) -> list[str]:
    """Groups, and what became of a permuted copy."""
    own = row["symmetry"]
    if "refused" in own:
        return [own["refused"], "", ""]
    if not own["groups"]:
        return ["none", "", ""]
    found = "named equal up to order" if own["equal_up_to_order"] else "not seen to be the same"
    restored = "put back exactly" if own["restored"] == 1 else f"{own['restored']:.0%} of its tensors put back"
    return [f"{own['groups']}, over {own['coverage']:.1%}", f"{own['outputs']:.0e}", f"{found}, {restored}"]


def table(rows: list[Row]) -> str:
    """A line for each network."""
    body = [
        [
            f"{row['package'].replace('==', ' ')}: `{row['file'].rpartition('/')[2]}`",
            f"{row['numbers']:,}",
            said(row["inspect"], "yes"),
            said(row["import"], "yes"),
            said(row["embed"], f"{row['embed_seconds']:.1f} s"),
            said(row["layers"], str(row["layers"])),
            *symmetry(row),
        ]
        for row in rows
    ]
    columns = ["network", "numbers", "inspect", "import", "embed", "layers", "symmetry: groups, share of parameters"]
    return markdown([*columns, "outputs of a permuted copy differ by", "that copy"], body)


def main() -> None:
    """Rewrite the page's table."""
    rows = json.loads((ROOT / "tables" / "real-files.json").read_text())
    PAGE.write_text(replace_block(PAGE.read_text(), "real files", table(rows)))


if __name__ == "__main__":
    main()
