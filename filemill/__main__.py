"""`python -m filemill`, for where the console command is not on the path."""

from filemill.cli import main

main()
