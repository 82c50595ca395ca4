"""The floors, the sizes and the manners of the house."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import weightspace

PACKAGE = Path(weightspace.__file__).parent
FLOORS = [
    {"errors", "randomness", "progress", "interrupting", "exposing", "user_code"},
    {"outputs", "spreading"},
    {"weights", "images", "graphs"},
    {"supervised", "batch_norms"},
    {"symmetry", "tokens", "zoo"},
    {"corpus"},
    {"autoencoder"},
    {"analysis", "generation"},
    {"evaluation"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> set[str]:
    """Rooms of the package that a module imports from, type-checking and late imports included."""
    named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in named if name.startswith("weightspace.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    for other in imports_of(ast.parse(path.read_text())) - {room}:
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{path.name} on floor {FLOOR_OF[room]} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_small(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 50, f"{path.name}:{node.name} has {length} lines"


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} == set(FLOOR_OF)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_never_imports_torch() -> None:
    code = (
        "import sys\nfrom weightspace.cli import main\n"
        "for words in (['--help'], ['pretrain', '--help'], ['grow', '--help'], ['demo', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "False False"


def test_importing_changes_no_random_state() -> None:
    code = (
        "import torch\nbefore = torch.get_rng_state()\nimport weightspace\n"
        "[getattr(weightspace, name) for name in weightspace.__all__]\n"
        "print(torch.equal(before, torch.get_rng_state()))"
    )
    assert run_python(code).strip() == "True"


def test_every_public_name_is_found_and_documented() -> None:
    for name in weightspace.__all__:
        assert getattr(weightspace, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = weightspace.nothing


def test_every_field_of_a_configuration_has_a_docstring() -> None:
    for path in PACKAGE.rglob("config.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                fields = [n for n, child in enumerate(node.body) if isinstance(child, ast.AnnAssign)]
                for number in fields:
                    after = node.body[number + 1] if number + 1 < len(node.body) else None
                    assert isinstance(after, ast.Expr), f"{path}: a field of {node.name} has no docstring"
