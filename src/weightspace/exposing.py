"""Public names of a room, loaded when they are first used, from the stub beside it that is the list of them."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any


def expose(package: ModuleType) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose `__init__.pyi` says `from HOME import NAME as NAME`.

    Nothing is imported before a name is asked for, not even what reads the stub.
    """
    homes: dict[str, str] = {}

    def load() -> None:
        import ast
        from pathlib import Path

        for node in ast.parse(Path(str(package.__file__)).with_suffix(".pyi").read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                homes.update({alias.name: node.module for alias in node.names})

    def find(name: str) -> Any:
        if not homes and not name.startswith("_"):
            load()
        if name == "__all__":
            return names()
        if name not in homes:
            raise AttributeError(f"module '{package.__name__}' has no attribute '{name}'")
        home = importlib.import_module(homes[name])
        if home is not package and hasattr(home, name):
            return getattr(home, name)
        return importlib.import_module(f"{homes[name]}.{name}")  # a room

    def names() -> list[str]:
        load()
        return sorted(homes)

    return find, names
