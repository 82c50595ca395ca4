"""`python -m weightspace` is the command line."""

from weightspace.cli.app import main

main()
