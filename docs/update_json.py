"""Write what `--json` prints of every command: `python docs/update_json.py`.

The keys and their types are those of tests/golden.json, which a test holds to what the commands say.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE, SCHEMA = ROOT / "docs" / "pages" / "json.md", ROOT / "docs" / "pages" / "json-schema.json"
WRITES = ("grow", "import", "publish", "pretrain", "distill", "card", "embed", "layers", "align", "merge", "generate")
# Their keys are names: of networks, properties, types, packages.
OPEN = (
    "layers",
    "means",
    "accuracy",
    "intervals",
    "related",
    "dtypes",
    "notes",
    "distance",
    "barriers",
    "lines",
    "versions",
)
# What is empty in the tests' small run.
MAYBE = {"embed": ("assumed/[]", "left_out/NAME"), "merge": ("notes/[]",)}
TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "NoneType": "null"}
HEAD = """# What `--json` prints

Every command with `--json` prints one line of strict JSON on standard output: one object, or an array of rows; progress
and remarks go to standard error. NaN and infinite numbers are `null`. Paths stand in `out`, sizes in `bytes`. New keys
may come; a key that is here stays or is announced in the changelog. The same as a [JSON Schema](json-schema.json), with
an entry of `$defs` for each command. Written by `python docs/update_json.py` from what the tests hold the commands to;
`[]` is every row of an array, `NAME` a name (of a network, a property, a layer).
"""


def places() -> dict[str, dict[str, set[str]]]:
    """Command -> place in its JSON -> types."""
    found: dict[str, dict[str, set[str]]] = {}
    for path, value in json.loads((ROOT / "tests" / "golden.json").read_text()).items():
        command, *keys = path.strip("/").split("/")
        command = command.partition(",")[0]
        if command == "embedded" or keys[0] == "weights":
            continue  # figures of what was written, not of what was said
        general = ["[]" if key.isdigit() else key for key in keys]
        for number, key in enumerate(general[:-1]):
            if key in OPEN and general[number + 1] != "[]":
                general[number + 1] = "NAME"
        found.setdefault(command, {}).setdefault("/".join(general), set()).add(TYPES[type(value).__name__])
    for command in WRITES:
        found[command]["out"] = {"string"}
    for command, more in MAYBE.items():
        found[command] |= {place: {"string"} for place in more}
    return found


def schema_of(command: dict[str, set[str]]) -> dict[str, Any]:
    """A JSON Schema of one command's value."""
    schema: dict[str, Any] = {}
    for place, types in command.items():
        here = schema
        for key in place.split("/"):
            if key == "[]":
                here = here.setdefault("items", {})
            elif key == "NAME":
                here = here.setdefault("additionalProperties", {})
            else:
                here = here.setdefault("properties", {}).setdefault(key, {})
        here["type"] = sorted(types) if len(types) > 1 else next(iter(types))
    return schema


def page() -> str:
    """The page."""
    lines = [HEAD]
    for command, found in places().items():
        lines += [f"## {command}", "", "| place | type |", "|---|---|"]
        lines += [f"| `{place}` | {' or '.join(sorted(types))} |" for place, types in found.items()] + [""]
    return "\n".join(lines)


def schema() -> str:
    """The schema."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "weightspace COMMAND --json"}
    definitions = {command: schema_of(found) for command, found in places().items()}
    return json.dumps({**whole, "$defs": definitions}, indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEMA.write_text(schema())
