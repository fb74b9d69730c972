"""`python -m filemill`: the same as the command `filemill`, if it is not in PATH."""

from filemill.entrypoints.cli import main

main()
