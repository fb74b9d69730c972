"""`filemill objects clean`."""

from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, print_json, print_table, say
from filemill_dashboard.views.plurals import counted


def register(app: typer.Typer) -> None:
    """Add the commands."""
    objects = typer.Typer(help="Objects of files that nothing needs any more.", no_args_is_help=True)
    objects.callback()(_group)
    objects.command("clean")(clean)
    app.add_typer(objects, name="objects")


def _group() -> None:
    """Objects of files that nothing needs any more."""


def clean(
    home: Home = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them; default: only list them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete superseded objects and checkpoints of ended runs; abort old multipart uploads of ended files."""
    settings = load(home=home)
    leftovers = bootstrap.leftovers(settings, bootstrap.create_engine(settings, "objects"))
    result = leftovers.clean(principal(), dry_run=not yes)
    if as_json:
        print_json(result)
        return
    rows: list[list[object]] = [[one.key, one.size, one.kind] for one in result.objects]
    rows += [[one.key, None, f"open upload since {one.begun_at:%Y-%m-%d %H:%M:%S} UTC"] for one in result.uploads]
    if not yes:
        print_table(["key", "bytes", "why"], rows)
    found = f"{counted(len(result.objects), 'object')} ({counted(result.bytes, 'byte')})"
    found += f" and {counted(len(result.uploads), 'upload')}"
    say(f"{found} {'removed' if yes else 'would be removed; repeat with --yes'}")
