"""Arguments and options that several commands share. Invalid ones end the command with a sentence (exit code 2)."""

import getpass
import secrets
import shlex
from pathlib import Path
from typing import Annotated

import typer

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


def find_home(context: typer.Context, home: Path | None) -> Path | None:
    """The home to use. If neither --home nor the environment names one, that of the only running stack."""
    if home is not None or context.info_name in _COMMANDS_WITHOUT_SEARCH or context.resilient_parsing:
        return home
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
