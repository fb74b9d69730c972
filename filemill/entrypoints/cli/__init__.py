"""The command `filemill`.

Exit codes: 0 well; 1 the answer is no (a finding, a failed file, a step that is missing); 2 wrong usage or settings;
3 a server is away; 130 interrupted.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

import typer

from filemill import __version__
from filemill.config import logging
from filemill.config.settings import InvalidSettings
from filemill.entrypoints.cli import processes
from filemill.entrypoints.cli.output import fail
from filemill.errors import Unavailable

# After the name of a server that is away.
REMEDY = "`filemill doctor` says what is missing; `filemill up` starts all servers on this machine."

app = typer.Typer(
    name="filemill",
    help="Run, watch and break a distributed work pipeline on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(arguments: Sequence[str]) -> None:
    """Add the commands. A worker's start (`run ROLE`) does not load what only the others need: a second of imports."""
    processes.register(app)
    if arguments[:1] == ["run"]:
        return
    from filemill.entrypoints.cli import administration, dlq, files, offsets, operations, orphans, stack  # noqa: PLC0415

    for module in (stack, files, operations, dlq, offsets, orphans, administration):
        module.register(app)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The console command: errors that a user can mend are a sentence, not a traceback."""
    register(sys.argv[1:])
    logging.configure_for_command()
    try:
        app(standalone_mode=True)
    except Unavailable as error:
        fail(str(error) if error.advice else f"{error}\n{REMEDY}", 3)
    except InvalidSettings as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has left: there is nobody to tell, and the interpreter must not complain either.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
