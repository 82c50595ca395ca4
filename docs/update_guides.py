"""Run the commands of the guides and write down what they print: `python docs/update_guides.py [NAME ...]`.

A block after `<!-- run -->` is run in a folder of the guide's own, in which `examples/` is at hand; what it prints on
standard output is put into the block of text after it, cut to its last lines where the comment says `last N`. Pictures
named after `<!-- keep FILE -->` are copied beside the guide.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "pages" / "guides"
BLOCK = re.compile(r"(<!-- run(?: last (\d+))? -->\n```(bash|python)\n(.*?)```\n)(?:```text\n.*?```\n)?", re.DOTALL)
KEPT = re.compile(r"<!-- keep (\S+) -->")


def run(language: str, code: str, folder: Path, last: str | None) -> str:
    """What a block prints."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=folder, env={**os.environ, "PATH": binaries}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{code}\n{done.stdout}{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.strip().splitlines()]
    return "\n".join(lines[-int(last) :] if last else lines)


def rewrite(guide: Path) -> None:
    """Run one guide from the first block to the last."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        (folder / "examples").symlink_to(ROOT / "examples")

        def replace(found: re.Match[str]) -> str:
            printed = run(found[3], found[4], folder, found[2])
            return f"{found[1]}```text\n{printed}\n```\n" if printed else found[1]

        text = BLOCK.sub(replace, guide.read_text())
        for name in KEPT.findall(text):
            shutil.copyfile(folder / name, GUIDES / name)
    guide.write_text(text)


def main(names: list[str]) -> None:
    """Rewrite the guides of these names, or all."""
    for guide in sorted(GUIDES.glob("*.md")):
        if not names or guide.stem in names:
            rewrite(guide)


if __name__ == "__main__":
    main(sys.argv[1:])
