"""`python -m filemill`, for where the console command is not on the path."""

from filemill.entrypoints.cli import main

main()
