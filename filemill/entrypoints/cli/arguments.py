"""Arguments and options that several commands share. Invalid ones end the command with a sentence (exit code 2)."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from filemill.config.settings import HOME_VARIABLE, default_home
from filemill.domain.dead_letters import parse_place
from filemill.domain.files import parse_file_id
from filemill.domain.permissions import Principal, local_admin
from filemill.errors import InvalidRequest

Home = Annotated[
    Path | None,
    typer.Option(
        help=f"Home folder of the embedded stack to use: its data, logs and addresses. Without it, {HOME_VARIABLE} "
        "of the environment counts.",
        show_default=str(default_home()),
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
        return local_admin(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a container's user without a name
        return local_admin("cli")
