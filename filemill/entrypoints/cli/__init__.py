"""The command `filemill`.

Exit codes: 0 success; 1 check failed, or the request was refused; 2 usage error or invalid settings; 3 server
unavailable; 130 interrupted.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

import typer
from typer.core import TyperGroup

from filemill import __version__
from filemill.config import logging
from filemill.config.settings import InvalidSettings
from filemill.entrypoints.cli.output import CommandFailed, fail
from filemill.errors import InvalidHandler, InvalidRequest, Unavailable

# Follows an error that names an unreachable server.
REMEDY = (
    "`filemill doctor` shows what is missing; `filemill up` starts all servers on this machine. "
    "For a stack in another folder, give --home or set FILEMILL_HOME."
)

# The sections of `filemill --help`, and the commands and groups of each in their order.
SECTIONS = {
    "The embedded stack": ("up", "down", "status", "env", "demo", "doctor"),
    "Files": ("submit", "files", "download", "retry", "cancel", "delete", "handlers"),
    "The pipeline": ("lag", "workers", "messages", "dlq", "offsets", "topics", "verify", "orphans", "objects"),
    "People": ("users", "tokens", "audit"),
    "Servers and processes": ("prepare", "migrate", "run"),
}


class _InSections(TyperGroup):
    """The commands in the order of their sections."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - the signature of Typer
        """The names of the registered commands."""
        return [name for names in SECTIONS.values() for name in names if name in self.commands]


app = typer.Typer(
    name="filemill",
    cls=_InSections,
    help="Run, watch and break a distributed work pipeline on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The commands use the embedded stack of --home or FILEMILL_HOME, or the servers that the variables "
    "FILEMILL_* name; see `filemill status` and `filemill doctor`. With FILEMILL_URL, the address of a dashboard, they "
    "use its REST API; FILEMILL_TOKEN or FILEMILL_TOKEN_FILE has the token.",
)


def register(arguments: Sequence[str]) -> None:
    """Add the commands. For `run ROLE` and `lag` only that one: the others take a second to import."""
    if arguments[:1] != ["lag"]:
        from filemill.entrypoints.cli import processes  # noqa: PLC0415

        processes.register(app)
    if arguments[:1] != ["run"]:
        from filemill.entrypoints.cli import lag  # noqa: PLC0415

        lag.register(app)
    if arguments[:1] in (["run"], ["lag"]):
        return
    from filemill.entrypoints.cli import (  # noqa: PLC0415
        administration,
        audit,
        dlq,
        files,
        handlers,
        messages,
        objects,
        offsets,
        operations,
        orphans,
        stack,
        tokens,
        users,
        workers,
    )

    groups = (
        stack,
        files,
        handlers,
        operations,
        workers,
        messages,
        dlq,
        offsets,
        orphans,
        objects,
        users,
        tokens,
        audit,
        administration,
    )
    for module in groups:
        module.register(app)
    sections = {name: section for section, names in SECTIONS.items() for name in names}
    for command in app.registered_commands:
        command.rich_help_panel = sections[str(command.name or getattr(command.callback, "__name__", None))]
    for group in app.registered_groups:
        group.rich_help_panel = sections[str(group.name)]


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The console command. An error that the user can correct is printed as a sentence, not as a traceback."""
    register(sys.argv[1:])
    logging.configure_for_command()
    try:
        app(standalone_mode=True)
    except Unavailable as error:
        fail(str(error) if error.advice else f"{error}\n{REMEDY}", 3)
    except CommandFailed as error:
        fail(str(error), error.exit_code)
    except (InvalidSettings, InvalidHandler, InvalidRequest) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of the output is gone. Redirect stdout, so that the interpreter reports no error at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
