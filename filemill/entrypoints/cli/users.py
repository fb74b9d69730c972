"""`filemill users`: accounts for FILEMILL_AUTH=accounts."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.domain.permissions import Role
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, exit_if_refused, print_json, print_table, say
from filemill.services.accounts import Accounts

Name = Annotated[str, typer.Argument(help="Name of the account.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of the standard input.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    users = typer.Typer(help="Accounts of people, for FILEMILL_AUTH=accounts.", no_args_is_help=True)
    users.command("add")(add)
    users.command("list")(list_users)
    users.command("disable")(disable)
    users.command("enable")(enable)
    users.command("password")(password)
    users.command("role")(role)
    app.add_typer(users, name="users")


@contextlib.contextmanager
def _accounts(home: Path | None) -> Iterator[Accounts]:
    settings = load(home=home)
    with exit_if_refused():
        yield bootstrap.accounts(bootstrap.create_engine(settings, "users"))


def _new_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    given: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return given


def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="Role of the account.")] = Role.VIEWER,
    *,
    password_stdin: FromStdin = False,
    home: Home = None,
) -> None:
    """Create an account; asks for its password."""
    with _accounts(home) as accounts:
        known = accounts.add(name, role, _new_password(password_stdin), principal())
    say(f"{known} can sign in as {role}.")


def list_users(home: Home = None, *, as_json: AsJson = False) -> None:
    """List accounts with their roles and open sessions."""
    with _accounts(home) as accounts:
        found = accounts.list(principal())
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "role", "state", "sessions", "last used"],
        [
            [one.name, one.role, "disabled" if one.disabled_at else "enabled", one.sessions, one.last_used_at or ""]
            for one in found
        ],
    )


def disable(name: Name, home: Home = None) -> None:
    """Disable an account and end its sessions."""
    with _accounts(home) as accounts:
        accounts.disable(name, principal())
    say(f"{name} is disabled; its sessions end within seconds.")


def enable(name: Name, home: Home = None) -> None:
    """Enable an account again."""
    with _accounts(home) as accounts:
        accounts.enable(name, principal())
    say(f"{name} can sign in.")


def password(name: Name, *, password_stdin: FromStdin = False, home: Home = None) -> None:
    """Set a new password and end the sessions of the account."""
    with _accounts(home) as accounts:
        accounts.set_password(name, _new_password(password_stdin), principal())
    say(f"{name} has a new password; its sessions end within seconds.")


def role(
    name: Name,
    role: Annotated[Role, typer.Argument(help="The new role.")],
    home: Home = None,
) -> None:
    """Change the role of an account."""
    with _accounts(home) as accounts:
        accounts.set_role(name, role, principal())
    say(f"{name} has the role {role}.")
