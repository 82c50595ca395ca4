"""`python -m weightspace` is the command line."""

from weightspace.cli import main

main()
