"""`python -m weightspace` is the command line."""

import sys

# Python puts the working folder first on the path of `-m`: whatever lies there must not be taken for a library.
if not sys.flags.safe_path:
    sys.path.pop(0)

from weightspace.cli.app import main  # only now

main()
