"""The floors, the sizes and the manners of the house."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import GenericAlias

import pytest
import torch
from safetensors.torch import save_file

import weightspace

PACKAGE = Path(weightspace.__file__).parent
ROOT = Path(__file__).parent.parent
FLOORS = [
    {"plain_text"},
    {"errors", "randomness", "progress", "interrupting", "exposing"},
    {"remote"},
    {"fetching"},
    {"inputs"},
    {"outputs", "spreading", "devices", "user_code"},
    {"archives"},
    {"weights", "images", "graphs", "machine"},
    {"supervised", "batch_norms"},
    {"linear_paths", "side_by_side"},
    {"symmetry", "tokens", "zoo", "responses"},
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
FILES = [path for path in MODULES if path.name != "__init__.py"]
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
# Nouns that say nothing: a function may hold one of them.
PLACEHOLDERS = {"own", "found", "made", "known", "place", "other"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(("weightspace", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(tree: ast.AST) -> set[str]:
    """Modules of the package that a module imports from, type-checking and late imports included."""
    modules = {module_of(path) for path in MODULES}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & modules) or {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "weightspace"}


def functions() -> Iterator[tuple[Path, Function]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield path, node


def body_lines(node: Function) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_modules_import_only_from_floors_below_and_never_the_root() -> None:
    for path, tree in TREES.items():
        for module in imports_of(tree):
            assert module != "weightspace" or room_of(path) == "cli", f"{name_of(path)} imports the package root"
            room = module.split(".")[1] if "." in module else room_of(path)
            assert room == room_of(path) or FLOOR_OF[room] < FLOOR_OF[room_of(path)], f"{name_of(path)} imports {room}"


def test_no_file_imports_itself_in_a_circle() -> None:
    edges = {module_of(path): imports_of(tree) - {module_of(path)} for path, tree in TREES.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} == set(FLOOR_OF)


def test_files_are_few_and_neither_large_nor_tiny() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert len(FILES) <= 212
    assert not {name: length for name, length in lengths.items() if length > 400}
    assert sum(length < 50 for length in lengths.values()) <= 12


def test_functions_are_small() -> None:
    assert not [f"{name_of(path)}: {node.name}" for path, node in functions() if body_lines(node) > 50]
    commands = [node for path, node in functions() if room_of(path) == "cli" and not node.name.startswith("_")]
    assert not [node.name for node in commands if body_lines(node) > 20]


def bindings(node: Function) -> Iterator[str]:
    """Names that a function binds, arguments included; not those of functions inside it."""
    arguments = node.args
    yield from (argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
    inner = {
        id(part)
        for child in ast.walk(node)
        if isinstance(child, Function) and child is not node
        for part in ast.walk(child)
    }
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and id(part) not in inner:
            yield part.id


def test_nouns_say_what_they_are() -> None:
    """At most one of the placeholders a function."""
    crowded = []
    for path, node in functions():
        held = set(bindings(node)) & PLACEHOLDERS
        if len(held) > 1:
            crowded.append(f"{name_of(path)}: {node.name} ({', '.join(sorted(held))})")
    assert not crowded


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_never_imports_torch() -> None:
    code = (
        "import sys\nfrom weightspace.cli import main\n"
        "for words in (['--help'], ['pretrain', '--help'], ['grow', '--help-all'], ['demo', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "False False"


def test_looking_imports_no_figures_and_no_probes(tmp_path: Path, zoo_folder: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for path in (first, second):
        save_file({"layer.weight": torch.randn(8, 4), "layer.bias": torch.randn(8)}, path)
    lines = [["inspect", str(tmp_path)], ["diff", str(first), str(second)], ["zoo", str(zoo_folder)]]
    heavy = {"sklearn", "scipy.optimize", "matplotlib", "jinja2", "torch._dynamo"}
    code = (
        "import sys\nfrom weightspace.cli import main\n"
        f"for words in {lines}:\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_importing_changes_no_random_state() -> None:
    code = (
        "import torch\nbefore = torch.get_rng_state()\nimport weightspace\n"
        "[getattr(weightspace, name) for name in weightspace.__all__]\n"
        "print(torch.equal(before, torch.get_rng_state()))"
    )
    assert run_python(code).strip() == "True"


def public() -> Iterator[tuple[str, object]]:
    """Every public name with what it stands for; rooms are namespaces with names of their own."""
    for name in weightspace.__all__:
        value = getattr(weightspace, name)
        if hasattr(value, "__path__"):
            yield from ((f"{name}.{inner}", getattr(value, inner)) for inner in value.__all__)
        else:
            yield name, value


def test_public_names_are_few_and_documented() -> None:
    assert len(weightspace.__all__) <= 44
    assert not [name for name, value in public() if not value.__doc__]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = weightspace.nothing  # type: ignore[attr-defined] # that is the point


def test_every_public_name_has_an_api_page() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "pages" / "api").glob("*.md"))
    listed = set(re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE))
    missing = []
    for name, value in public():
        if isinstance(value, GenericAlias):  # of types there is nothing to say
            continue
        address = f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', name)}"
        if address not in listed and getattr(value, "__module__", "") not in listed:
            missing.append(name)
    assert not missing


def test_every_command_stands_in_the_index_of_the_docs() -> None:
    from weightspace.cli.app import COMMANDS

    index = (ROOT / "docs" / "pages" / "index.md").read_text()
    names = [command.__name__.rstrip("_") for commands in COMMANDS.values() for command in commands]
    assert not [name for name in names if f"`{name}`" not in index]


def test_every_field_of_a_configuration_has_a_docstring() -> None:
    for path in PACKAGE.rglob("config.py"):
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                fields = [n for n, child in enumerate(node.body) if isinstance(child, ast.AnnAssign)]
                for number in fields:
                    after = node.body[number + 1] if number + 1 < len(node.body) else None
                    assert isinstance(after, ast.Expr), f"{path}: a field of {node.name} has no docstring"


def test_the_page_of_the_house_is_that_of_the_code() -> None:
    import runpy

    update = runpy.run_path(str(ROOT / "docs" / "update_house.py"))
    assert (ROOT / "docs" / "pages" / "house.md").read_text() == update["house_page"](), "python docs/update_house.py"


@pytest.mark.parametrize("room", ["symmetry", "tokens", "weights", "samplers", "responses"])
def test_a_room_opens_before_anything_else_was_imported(room: str) -> None:
    code = f"import weightspace as ws; print(len(dir(ws.{room})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr
