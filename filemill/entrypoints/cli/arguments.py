"""Arguments and options that several commands share. Invalid ones end the command with a sentence (exit code 2)."""

import getpass
import secrets
import shlex
from pathlib import Path
from typing import Annotated

import typer

from filemill.config.rest_server import RestServer, load_rest_server
from filemill.config.settings import HOME_VARIABLE, default_home, names_servers
from filemill.domain.dead_letters import parse_place
from filemill.domain.files import parse_file_id
from filemill.domain.permissions import Principal, RequestSource, local_admin
from filemill.entrypoints.cli.output import fail, say
from filemill.errors import InvalidRequest
from filemill.runtime.stack_registry import running_stacks
from filemill.runtime.stack_state import running_stack

# Where the commands of this process come from, for the audit log: all rows of one run have the same id.
_SOURCE = RequestSource("cli", request_id=f"cli-{secrets.token_hex(8)}")
# They start a stack, stop one or are part of one: each needs its own home.
_COMMANDS_WITHOUT_SEARCH = {"up", "down", "run"}
# The commands that can use the REST API of a dashboard. `handlers try` needs no server at all.
REST_COMMANDS = {
    *("status", "submit", "files", "download", "retry", "cancel", "delete"),
    *("handlers list", "handlers show", "handlers try", "workers list"),
    *("dlq list", "dlq show", "dlq replay", "audit list", "audit export"),
}
# What to use instead of commands that REST does not have.
_INSTEAD_OF = {
    "lag": "`filemill status` shows the lag as the dashboard knows it",
    "doctor": "`filemill status` shows which servers answer",
    "tokens": "the page Account has your own tokens",
}


def rest_server(home: Path | None) -> RestServer | None:
    """The dashboard to use instead of the servers, or None. --home counts more than the environment."""
    return load_rest_server() if home is None else None


def _command(context: typer.Context) -> str:
    """The names of the group and the command, without the program's."""
    group = context.parent
    names = [context.info_name] if group is None or group.parent is None else [group.info_name, context.info_name]
    return " ".join(str(name) for name in names)


def _check_rest_command(name: str) -> None:
    """End a command that needs the servers themselves, although FILEMILL_URL names a dashboard."""
    if name in REST_COMMANDS:
        return
    instead = _INSTEAD_OF.get(name.split(" ", maxsplit=1)[0])
    fail(
        f"`filemill {name}` needs the servers, and FILEMILL_URL selects REST, which does not have it: "
        "unset FILEMILL_URL or give --home where the servers' credentials are" + (f"; {instead}" if instead else ""),
        2,
    )


def find_home(context: typer.Context, home: Path | None) -> Path | None:
    """The home to use. If neither --home nor the environment names one, that of the only running stack."""
    if home is not None or context.info_name in _COMMANDS_WITHOUT_SEARCH or context.resilient_parsing:
        return home
    if rest_server(home) is not None:
        _check_rest_command(_command(context))
        return None
    if names_servers() or running_stack(default_home()) is not None:
        return None
    stacks = running_stacks()
    if len(stacks) > 1:
        listed = "\n".join(f"  --home {shlex.quote(stack.home)}   {stack.page or ''}" for stack in stacks)
        fail(f"several stacks are running; choose one:\n{listed}", 2)
    if not stacks:
        return None
    say(f"Using the running stack of {stacks[0].home}")
    return Path(stacks[0].home)


Home = Annotated[
    Path | None,
    typer.Option(
        help=f"Home folder of the embedded stack to use: its data, logs and addresses. Without it, {HOME_VARIABLE} "
        "of the environment counts; then the only running stack of this user.",
        show_default=str(default_home()),
        callback=find_home,
    ),
]


def file_id_argument(text: str) -> int:
    """A file's id, for `typer.Argument(parser=…)`."""
    try:
        return parse_file_id(text)
    except InvalidRequest as error:
        raise typer.BadParameter(f"{text!r}: an id {error.reason}") from None


def place_argument(text: str) -> str:
    """A dead letter's position, for `typer.Argument(parser=…)`."""
    if parse_place(text) is None:
        raise typer.BadParameter(f"{text!r}: a position is partition:offset, such as 0:12")
    return text


def principal() -> Principal:
    """The principal of this command: it has the credentials of the servers, so nothing limits it."""
    try:
        return local_admin(f"cli:{getpass.getuser()}", _SOURCE)
    except (KeyError, OSError):  # a container's user without a name
        return local_admin("cli", _SOURCE)
