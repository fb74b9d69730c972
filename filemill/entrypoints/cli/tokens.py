"""`filemill tokens`: personal tokens for REST with FILEMILL_AUTH=accounts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.domain.permissions import Role
from filemill.domain.tokens import parse_expiry
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, exit_if_refused, print_json, print_table, say
from filemill.services.tokens import Tokens


def register(app: typer.Typer) -> None:
    """Add the commands."""
    tokens = typer.Typer(help="Personal tokens for REST, with FILEMILL_AUTH=accounts.", no_args_is_help=True)
    tokens.command("create")(create)
    tokens.command("list")(list_tokens)
    tokens.command("revoke")(revoke)
    app.add_typer(tokens, name="tokens")


@contextlib.contextmanager
def _tokens(home: Path | None) -> Iterator[Tokens]:
    settings = load(home=home)
    with exit_if_refused():
        yield bootstrap.tokens(bootstrap.create_engine(settings, "tokens"))


def create(
    owner: Annotated[str, typer.Argument(help="Name of the account for which the token acts.")],
    label: Annotated[str, typer.Option(help="What the token is for.")],
    role: Annotated[Role, typer.Option(help="Role of the token, at most the one of the account.")] = Role.VIEWER,
    expires: Annotated[str, typer.Option(help="How long it is valid: 30d, 12h, 15m or never.")] = "90d",
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="Address or network from which it is valid, such as 10.0.0.0/8; repeatable. Default: all."
        ),
    ] = None,
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it. It cannot be shown again."""
    with _tokens(home) as tokens:
        new = tokens.create(label, role, principal(), owner=owner, expiry=parse_expiry(expires), networks=address or ())
    if as_json:
        print_json(new)
        return
    typer.echo(new.secret)
    until = f"until {new.expires_at:%Y-%m-%d %H:%M} UTC" if new.expires_at else "until it is revoked"
    say(f"Token {new.id} acts for {new.owner} as {new.role}, {until}. It is not stored and cannot be shown again.")


def list_tokens(
    owner: Annotated[str | None, typer.Option(help="Only the tokens of this account.", show_default=False)] = None,
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets."""
    with _tokens(home) as tokens:
        found = tokens.list(principal(), owner)
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "owner", "label", "role", "from", "expires", "last used"],
        [
            [
                one.id,
                one.owner,
                one.label,
                one.role,
                ", ".join(one.networks) or "all",
                "expired" if one.expired else one.expires_at or "never",
                one.used_at or "never",
            ]
            for one in found
        ],
    )


def revoke(
    number: Annotated[int, typer.Argument(metavar="ID", help="Id of the token; `filemill tokens list` shows it.")],
    home: Home = None,
) -> None:
    """Revoke a token. It is refused within two seconds."""
    with _tokens(home) as tokens:
        tokens.revoke(number, principal())
    say(f"Token {number} is revoked.")
