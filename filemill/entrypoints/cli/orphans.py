"""`filemill orphans`."""

from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.operations import actor
from filemill.entrypoints.cli.output import AsJson, print_json, print_table, say
from filemill.services.orphans import Kind, Orphans


def register(app: typer.Typer) -> None:
    """Add the commands."""
    orphans = typer.Typer(help="Objects in the bucket that no file owns.", no_args_is_help=True)
    orphans.command("list")(list_orphans)
    orphans.command("delete")(delete)
    app.add_typer(orphans, name="orphans")


def _orphans() -> Orphans:
    settings = load()
    return Orphans(settings, bootstrap.create_engine(settings, "orphans"), bootstrap.s3_client(settings))


def list_orphans(*, as_json: AsJson = False) -> None:
    """List objects that no row and no tombstone owns."""
    found = list(_orphans().find())
    if as_json:
        print_json(found)
        return
    print_table(["key", "bytes", "why"], [[one.key, one.size, one.kind] for one in found])
    say(f"{len(found)} objects without an owner")


def delete(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete them; else only say how many.")] = False,
    ids_not_given: Annotated[
        bool,
        typer.Option(
            "--ids-not-given",
            help="Also objects of ids beyond the newest. Do not use this if the database was restored from a backup.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete objects of file ids that no row and no tombstone has."""
    result = _orphans().delete(actor(), dry_run=not yes, ids_not_given=ids_not_given)
    if as_json:
        print_json(result)
        return
    say(f"{len(result.deleted)} objects {'deleted' if yes else 'would be deleted; repeat with --yes'}")
    not_given = sum(one.kind is Kind.ID_NOT_GIVEN for one in result.kept)
    if not_given:
        say(f"{not_given} kept: their ids are beyond the newest (--ids-not-given deletes them)")
    if others := len(result.kept) - not_given:
        say(f"{others} kept: their keys are not filemill's")
