"""Code of the user's own: a `module:name` that was named by hand, imported from the working folder if need be."""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from weightspace.errors import InputError


@contextlib.contextmanager
def working_folder_last() -> Iterator[None]:
    """The working folder is importable, behind everything that is installed, while the block lasts.

    Nowhere else is it: a file of a downloaded folder that is called like a library must not be taken for it.
    """
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def import_named(address: str) -> Any:
    """What `package.module:name`, or `folder/file.py:name`, stands for.

    Raises:
        ImportError, AttributeError, ValueError: there is no such module or name, or the address is malformed.
    """
    module, _, name = address.rpartition(":")
    with working_folder_last():
        return getattr(_import_file(Path(module)) if module.endswith(".py") else importlib.import_module(module), name)


def call_named(address: str) -> Any:
    """What the callable `package.module:name` returns.

    Raises:
        InputError: it cannot be imported, or fails.
    """
    try:
        called = import_named(address)
    except (ImportError, AttributeError, ValueError, SyntaxError, OSError) as error:
        raise InputError(f"expected an importable package.module:callable, found '{address}' ({error})") from error
    try:
        return called()
    except Exception as error:  # of any kind: it is the user's own code
        raise InputError(f"expected {address} to return, found {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """A file of code as a module, once; what lies beside it can be imported by it, behind everything installed."""
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no file {path.name} there")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def split_arguments(address: str) -> tuple[str, dict[str, Any]]:
    """`my_nets:Net?width=8&deep=true`, or `my_nets:Net?{"width": 8}`, as an address and keyword arguments.

    Values are JSON where they can be read as such, else text.

    Raises:
        InputError: what follows the question mark is neither.
    """
    address, _, query = address.partition("?")
    if not query:
        return address, {}
    if query.startswith("{"):
        arguments = _json_or_text(query)
        if not isinstance(arguments, dict):
            raise InputError(f"expected arguments as a JSON object, found '{query}'")
        return address, arguments
    pairs = [pair.partition("=") for pair in query.split("&")]
    if not all(name.isidentifier() and sign for name, sign, _ in pairs):
        raise InputError(f"expected arguments such as width=8&deep=true, found '{query}'")
    return address, {name: _json_or_text(value) for name, _, value in pairs}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
