"""The command line: one call into the library per command.

Positional arguments are inputs, `--out` is the output. A user's mistake ends with exit status 2 and one
sentence; Ctrl-C with 130. Neither these modules nor the configurations import torch before a command runs.
"""

from weightspace.cli.app import main

__all__ = ["main"]
