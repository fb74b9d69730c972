"""`filemill orphans`."""

from pathlib import Path
from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, print_json, print_table, say
from filemill.services.orphans import OrphanKind, Orphans


def register(app: typer.Typer) -> None:
    """Add the commands."""
    orphans = typer.Typer(help="Objects that belong to no file.", no_args_is_help=True)
    orphans.command("list")(list_orphans)
    orphans.command("delete")(delete)
    app.add_typer(orphans, name="orphans")


def _orphans(home: Path | None) -> Orphans:
    settings = load(home=home)
    return bootstrap.orphans(settings, bootstrap.create_engine(settings, "orphans"))


def list_orphans(home: Home = None, *, as_json: AsJson = False) -> None:
    """List objects that belong to no row and no tombstone."""
    found = list(_orphans(home).find())
    if as_json:
        print_json(found)
        return
    print_table(["key", "bytes", "why"], [[one.key, one.size, one.kind] for one in found])
    say(f"{len(found)} objects that belong to no file")


def delete(
    home: Home = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete them; default: only print how many.")] = False,
    ids_not_given: Annotated[
        bool,
        typer.Option(
            "--ids-not-given",
            help="Also delete objects with ids above the newest file id. Do not use after a database restore.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete objects whose file id belongs to no row and no tombstone."""
    result = _orphans(home).delete(principal(), dry_run=not yes, ids_not_given=ids_not_given)
    if as_json:
        print_json(result)
        return
    say(f"{len(result.deleted)} objects {'deleted' if yes else 'would be deleted; repeat with --yes'}")
    not_given = sum(one.kind is OrphanKind.ID_NOT_GIVEN for one in result.kept)
    if not_given:
        say(f"{not_given} kept: their ids are greater than the newest (--ids-not-given deletes them)")
    if others := len(result.kept) - not_given:
        say(f"{others} kept: their keys are not filemill's")
