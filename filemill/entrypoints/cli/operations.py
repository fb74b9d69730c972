"""`filemill retry | cancel | delete`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from filemill.domain.file_actions import FileAction, FileRefusal, FileSelection
from filemill.domain.files import Status
from filemill.entrypoints.cli.arguments import Home, file_id_argument
from filemill.entrypoints.cli.file_source import BATCH, FileSource, file_source
from filemill.entrypoints.cli.output import AsJson, fail, print_json, say
from filemill_dashboard.views.plurals import counted

# The name of the connections to the database.
ROLE = "operations"

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", parser=file_id_argument, help="Ids of files.", show_default=False),
]
All = Annotated[Status | None, typer.Option("--all", metavar="STATUS", help="All files that have this status.")]
Search = Annotated[
    str,
    typer.Option(
        help="All files whose title contains this and whose status allows the action; with --all, only those that have "
        "that status.",
        show_default=False,
    ),
]
QueueName = Annotated[
    str, typer.Option("--queue", help="All files of this queue whose status allows the action.", show_default=False)
]
HandlerName = Annotated[
    str, typer.Option("--handler", help="All files of this handler whose status allows the action.", show_default=False)
]
# A confirmation names this many files, with so much of their titles.
TITLES_SHOWN = 5
TITLE_CHARACTERS = 60
NOT_CHOSEN = "give either ids, or at least one of --all STATUS, --search TEXT, --queue NAME and --handler NAME"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(retry)
    app.command()(cancel)
    app.command()(delete)


def retry(
    ids: Ids = None,
    every: All = None,
    search: Search = "",
    queue: QueueName = "",
    handler: HandlerName = "",
    home: Home = None,
    *,
    lost: Annotated[
        bool, typer.Option("--lost", help="All unfinished files whose records are gone from Kafka.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process failed or cancelled files again, each in a new run; also files whose records are gone from Kafka."""
    source, selection = file_source(home, ROLE), _selection(every, search, queue, handler)
    if lost:
        _retry_lost(source, named=bool(ids or every or selection.narrow), as_json=as_json)
        return
    _apply(source, FileAction.RETRY, _chosen(source, FileAction.RETRY, ids, selection), as_json=as_json)


def _retry_lost(source: FileSource, *, named: bool, as_json: bool) -> None:
    if named:
        fail("give ids, or --all STATUS, or --search TEXT, or --lost", 2)
    done = source.retry_lost()
    if as_json:
        print_json({"retried": done, "refused": []})
    else:
        say(f"{counted(len(done), 'file')} retried")


def cancel(
    ids: Ids = None,
    every: All = None,
    search: Search = "",
    queue: QueueName = "",
    handler: HandlerName = "",
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Cancel files that are pending or processing."""
    source, selection = file_source(home, ROLE), _selection(every, search, queue, handler)
    _apply(source, FileAction.CANCEL, _chosen(source, FileAction.CANCEL, ids, selection), as_json=as_json)


def delete(
    ids: Ids = None,
    every: All = None,
    search: Search = "",
    queue: QueueName = "",
    handler: HandlerName = "",
    home: Home = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete files that are completed, failed or cancelled, and their objects."""
    source, selection = file_source(home, ROLE), _selection(every, search, queue, handler)
    chosen = _chosen(source, FileAction.DELETE, ids, selection)
    if not yes:
        _confirm_deletion(source, chosen)
    _apply(source, FileAction.DELETE, chosen, as_json=as_json)


def _selection(status: Status | None, search: str, queue: str, handler: str) -> FileSelection:
    """The filter that the options describe."""
    return FileSelection(status, search.strip(), queue, handler)


def _chosen(source: FileSource, action: FileAction, ids: Sequence[int] | None, selection: FileSelection) -> list[int]:
    """The ids that were given, or those of the files that match, ascending."""
    every = selection.status
    if bool(ids) == (every is not None or selection.narrow):
        fail(NOT_CHOSEN, 2)
    if ids:
        return list(dict.fromkeys(ids))
    if every is not None and not selection.narrow:
        return source.with_status(every)
    if not selection.eligible(action):
        allowed = " or ".join(status.value for status in action.statuses)
        fail(f"{every} files cannot be {action.done}, only {allowed} ones", 2)
    return source.matching(action, selection)


def _confirm_deletion(source: FileSource, ids: Sequence[int]) -> None:
    """Show what would be deleted, and ask. Ends the command unless the answer is yes."""
    found = source.deletable(ids, TITLES_SHOWN)
    if not found.count:
        return  # what is refused, and why, follows
    for file in found.first:
        title = " ".join(file.title.split())
        cut = title if len(title) <= TITLE_CHARACTERS else f"{title[:TITLE_CHARACTERS]}…"
        say(f"#{file.id}  {cut}")
    if (more := found.count - len(found.first)) > 0:
        say(f"… and {more:,} more")
    if not typer.confirm(f"Delete {counted(found.count, 'file')} for good?", err=True):
        raise typer.Exit(1)


def _apply(source: FileSource, action: FileAction, wanted: Sequence[int], *, as_json: bool) -> None:
    verb, done, refused = action.done, list[int](), list[FileRefusal]()
    for start in range(0, len(wanted), BATCH):
        outcome = source.apply(action, wanted[start : start + BATCH])
        done += outcome.done
        refused += outcome.refused
    if as_json:
        print_json({verb: done, "refused": refused})
    else:
        say(f"{counted(len(done), 'file')} {verb}")
        for one in refused[:20]:
            say(f"file {one.file_id} not {verb}: {one.reason}")
        if len(refused) > 20:
            say(f"… and {len(refused) - 20} more")
    if refused:
        raise typer.Exit(1)
