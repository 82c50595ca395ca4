"""Code of the user's own: a `module:name` that was named by hand, imported from the working folder if need be."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
    """What `package.module:name` stands for.

    Raises:
        ImportError, AttributeError, ValueError: there is no such module or name, or the address is malformed.
    """
    module, _, name = address.partition(":")
    with working_folder_last():
        return getattr(importlib.import_module(module), name)
