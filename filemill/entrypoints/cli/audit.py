"""`filemill audit`."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from filemill.config.settings import load
from filemill.domain.audit_chain import AuditHead, parse_head
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli import rest_lists
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, print_json, print_table, say
from filemill.entrypoints.cli.rest_client import rest_client
from filemill.errors import InvalidRequest
from filemill.queries.audit import AuditEntryRow, AuditFilter
from filemill.services.audit_log import AuditLog, ExportFormat

Actor = Annotated[str, typer.Option(help="Only operations of this person or program.")]
Action = Annotated[str, typer.Option(help="Only this action.")]
About = Annotated[str, typer.Option("--object", help="Only about this file, worker, account or topic.")]
Refused = Annotated[bool | None, typer.Option("--refused/--done", help="Only refused, or only done.")]
Since = Annotated[datetime | None, typer.Option(help="Only from this time on, in UTC.")]
DETAIL_CHARACTERS = 100


def register(app: typer.Typer) -> None:
    """Add the commands."""
    audit = typer.Typer(help="The audit log: who changed what.", no_args_is_help=True)
    audit.command("list")(list_)
    audit.command("verify")(verify)
    audit.command("export")(export)
    app.add_typer(audit, name="audit")


def _log(home: Path | None) -> AuditLog:
    return bootstrap.audit_log(bootstrap.create_engine(load(home=home), "audit"))


def _head(text: str) -> AuditHead:
    try:
        return parse_head(text)
    except InvalidRequest as error:
        raise typer.BadParameter(error.reason) from None


def list_(
    *,
    actor: Actor = "",
    action: Action = "",
    about: About = "",
    refused: Refused = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="Maximum number of rows.", min=1, max=1000)] = 20,
    before: Annotated[
        int | None, typer.Option(help="Only rows with lower numbers: `next` of the previous page.", min=1)
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the audit log, newest rows first."""
    wanted = AuditFilter(actor, action, about, refused, since)
    client = rest_client(home)
    if client is None:
        rows = _log(home).page(wanted, principal(), before=before, limit=limit + 1)
    else:
        rows = rest_lists.audit_rows(client, wanted, before=before, limit=limit + 1)
    page, following = rows[:limit], rows[limit - 1].sequence if len(rows) > limit else None
    if as_json:
        print_json({"rows": page, "next": following})
        return
    columns = ["row", "time", "actor", "action", "details", "address", "request"]
    print_table(columns, [_cells(row) for row in page])
    more = f"; for older ones, add: --before {following}" if following else ""
    say(f"Shown: {len(page):,}{more}")


def _cells(row: AuditEntryRow) -> list[object]:
    detail = msgspec.json.encode(row.detail).decode()
    cut = detail if len(detail) <= DETAIL_CHARACTERS else f"{detail[:DETAIL_CHARACTERS]}…"
    time = f"{row.at:%Y-%m-%d %H:%M:%S}"
    return [row.sequence, time, row.actor, row.action, cut, row.address, row.request_id]


def verify(
    head: Annotated[
        AuditHead | None,
        typer.Option(parser=_head, metavar="COUNT:HASH", help="A head that an earlier run printed and you kept."),
    ] = None,
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check that no row is missing, edited or out of order. Exit code 1 if one is.

    Prints the head of the log. Keep it outside of the database, and give it to a later run with --head: this also finds
    a log that the owner of the database wrote again from the beginning.
    """
    report = _log(home).verify(principal(), head)
    if as_json:
        print_json(report)
    else:
        for finding in report.findings:
            more = " …" if finding.count > len(finding.examples) else ""
            say(f"{finding.check}: {finding.meaning}: {finding.count} ({', '.join(finding.examples)}{more})")
        result = "The audit log is complete and unchanged" if report.ok else "The audit log was changed"
        say(f"{result}; {report.rows} rows, {report.seconds:.1f} s.")
        typer.echo(report.head or "")
    if not report.ok:
        raise typer.Exit(1)


def export(
    form: Annotated[ExportFormat, typer.Option("--format", help="csv, or ndjson: one JSON object a line.")] = "ndjson",
    *,
    actor: Actor = "",
    action: Action = "",
    about: About = "",
    refused: Refused = None,
    since: Since = None,
    home: Home = None,
) -> None:
    """Write the audit log to the standard output, newest first."""
    wanted = AuditFilter(actor, action, about, refused, since)
    client = rest_client(home)
    if client is None:
        sys.stdout.buffer.writelines(_log(home).export(wanted, form, principal()))
    else:
        with rest_lists.audit_export(client, wanted, form) as parts:
            sys.stdout.buffer.writelines(parts)
    sys.stdout.buffer.flush()
