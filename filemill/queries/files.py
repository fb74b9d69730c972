"""Files, counts and the state of the outbox, for REST, the pages and the command line.

Functions read in the caller's connection and are fast on a table of a million rows: lists are paged by key, counts come
from `status_counts`. Ages are computed by the database's clock, so that no other clock can distort them. Unknown is
None, never zero.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import COLUMNS, FIELDS, FileRow, file_row
from filemill.adapters.postgres.tables import File, StatusCount
from filemill.domain.cursors import NEWER_FILES, OLDER_FILES
from filemill.domain.file_actions import FileAction, FileSelection
from filemill.domain.files import FILE_ID_MAX, TITLE_MAX_CHARACTERS, Status, parse_file_id, search_text
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.errors import FileIdOutOfRange

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
ALL_FILES = FileSelection()
# Lists cut descriptions to this length; `get_file` returns the whole description.
EXCERPT_CHARACTERS = 200
# Counting the matches of a search stops here: "more than 100,000" is as useful as the number.
COUNT_MAX = 100_001

# The form of cursors up to version 1.0: URLs and scripts may still contain one.
_OLD_CURSOR = re.compile(r"(before|after)-([0-9]{1,19})")
# The pattern of all cursors of the list, for documents.
FILES_CURSOR = f"{OLDER_FILES.pattern}|{NEWER_FILES.pattern}|(before|after)-[0-9]{{1,18}}"


class FileDetails(FileRow, frozen=True, kw_only=True):
    """A file with the parameters and inputs of its request; null: none."""

    parameters: dict[str, Any] | None = None
    inputs: dict[str, str] | None = None


class FilePage(msgspec.Struct, frozen=True):
    """Files, newest first unless `oldest_first`. `older`, `newer`: cursors of the adjacent pages; None: no page."""

    items: list[FileRow]
    older: str | None
    newer: str | None
    as_of: datetime
    oldest_first: bool = False

    @property
    def next(self) -> str | None:
        """The cursor of the next page, in the order of the list."""
        return self.newer if self.oldest_first else self.older

    @property
    def previous(self) -> str | None:
        """The cursor of the previous page, in the order of the list."""
        return self.older if self.oldest_first else self.newer


class FileTitle(msgspec.Struct, frozen=True):
    """A file, as a confirmation names it."""

    id: int
    title: str


class FilesToDelete(msgspec.Struct, frozen=True):
    """How many files can be deleted, and the first of them."""

    count: int
    first: list[FileTitle]


class OutboxState(msgspec.Struct, frozen=True):
    """How many requests are not on Kafka yet, and the age of the oldest in seconds (None: the outbox is empty)."""

    depth: int
    oldest_age_seconds: float | None


class StatusCounts(msgspec.Struct, frozen=True):
    """How many files have each status; all statuses are present. `deleted`: deleted files, by the status they had."""

    by_status: dict[Status, int]
    deleted: dict[Status, int] = {}

    @property
    def total(self) -> int:
        """All files, without deleted ones."""
        return sum(self.by_status.values())

    @property
    def accepted(self) -> int:
        """All requests that were ever accepted, deleted ones included."""
        return self.total + sum(self.deleted.values())

    def ever(self, status: Status) -> int:
        """The files that have the status, or had it when they were deleted."""
        return self.by_status[status] + self.deleted.get(status, 0)


_DESCRIPTION = FIELDS.index("description")
_NOW = sa.select(sa.func.now())
# Built once: building a query of twenty columns takes longer than running it.
_FILE = sa.select(*COLUMNS).where(File.id == sa.bindparam("file_id"))
_JOB = sa.select(File.parameters, File.inputs).where(File.id == sa.bindparam("file_id"))
_WHOLE = sa.select(*COLUMNS, sa.func.now())
_EXCERPTS = sa.select(
    *COLUMNS[:_DESCRIPTION],
    sa.func.left(File.description, EXCERPT_CHARACTERS),
    *COLUMNS[_DESCRIPTION + 1 :],
    sa.func.now(),
)
_COUNTS = sa.select(StatusCount.status, sa.func.sum(StatusCount.delta)).group_by(StatusCount.status)


def get_file(connection: sa.Connection, file_id: int, owner: str | None = None) -> FileRow | None:
    """One file, or None. `owner`: the only owner whose files are found; None: all."""
    if not 1 <= file_id <= FILE_ID_MAX:
        return None
    row = connection.execute(_FILE, {"file_id": file_id}).one_or_none()
    found = None if row is None else file_row(row)
    return found if found is not None and owner in (None, found.owner) else None


def file_details(connection: sa.Connection, row: FileRow) -> FileDetails:
    """A file with its parameters and inputs."""
    job = connection.execute(_JOB, {"file_id": row.id}).one_or_none()
    parameters, inputs = (job.parameters, job.inputs) if job is not None else (None, None)
    return FileDetails(**msgspec.structs.asdict(row), parameters=parameters, inputs=inputs)


def list_files(
    connection: sa.Connection,
    selection: FileSelection = ALL_FILES,
    *,
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    excerpts: bool = False,
    oldest_first: bool = False,
) -> FilePage:
    """A page of the files that match, newest first unless `oldest_first`. Raises InvalidCursor.

    Its search matches part of the title, ignoring case, or a file by `#id`. `cursor` is `older` or `newer` of another
    page. `excerpts` cuts descriptions. `limit` is limited to 1 … 200.
    """
    limit = max(1, min(limit, LIMIT_MAX))
    edge, above = _edge(cursor)
    wanted = _wanted(selection)
    if wanted is None:
        return FilePage([], None, None, connection.execute(_NOW).scalar_one(), oldest_first)
    if edge is not None:
        wanted["above" if above else "below"] = edge
    ascending = oldest_first if edge is None else above
    query = _list_query(frozenset(wanted), excerpts=excerpts, ascending=ascending)
    rows = connection.execute(query, {**wanted, "rows": limit + 1}).all()
    more, backwards = len(rows) > limit, ascending != oldest_first
    if backwards and not more:
        # The list begins here: return a full first page, not the few rows before the cursor.
        return list_files(connection, selection, limit=limit, excerpts=excerpts, oldest_first=oldest_first)
    items = [file_row(row) for row in rows[:limit]]
    as_of = rows[0][-1] if rows else connection.execute(_NOW).scalar_one()
    if backwards:
        items.reverse()
    least, greatest = sorted((items[0].id, items[-1].id)) if items else _around(edge, above=above)
    # Ahead, the extra row tells whether there is more; behind, there is the page that the cursor came from.
    below = more if not ascending else edge is not None
    beyond = more if ascending else edge is not None
    older = OLDER_FILES.encode(least) if below else None
    newer = NEWER_FILES.encode(greatest) if beyond else None
    return FilePage(items, older, newer, as_of, oldest_first)


def count_statuses(connection: sa.Connection) -> StatusCounts:
    """Count files per status, from the deltas that triggers write; does not scan `files`."""
    found = {status: int(count) for status, count in connection.execute(_COUNTS)}
    return StatusCounts(
        {status: max(0, found.get(status.value, 0)) for status in Status},
        {status: max(0, found.get(f"deleted-{status.value}", 0)) for status in FileAction.DELETE.statuses},
    )


def count_statuses_matching(connection: sa.Connection, selection: FileSelection) -> StatusCounts:
    """Count files per status that match a filter, whatever its status.

    With `COUNT_MAX` matches or more, only the newest are counted.
    """
    if not selection.narrow:
        return count_statuses(connection)
    found = _matching(list(Status), selection)
    if found is None:
        return StatusCounts(dict.fromkeys(Status, 0))
    newest = found.add_columns(File.status).order_by(File.id.desc()).limit(COUNT_MAX).subquery()
    query = sa.select(newest.c.status, sa.func.count()).group_by(newest.c.status)
    counts = {Status(status): int(number) for status, number in connection.execute(query)}
    return StatusCounts({status: counts.get(status, 0) for status in Status})


def count_matching(connection: sa.Connection, statuses: Sequence[Status], selection: FileSelection) -> int:
    """How many files have one of the statuses and match the filter, up to `COUNT_MAX`.

    If the filter names only a status, the number is exact: it is the sum of the counts that triggers maintain.
    """
    if not selection.narrow:
        counts = count_statuses(connection).by_status
        return sum(counts[status] for status in statuses)
    found = _matching(statuses, selection)
    if found is None:
        return 0
    some = found.limit(COUNT_MAX).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def matching_ids(
    connection: sa.Connection,
    statuses: Sequence[Status],
    selection: FileSelection,
    *,
    after: int,
    upto: int,
    limit: int,
) -> list[int]:
    """Ids after `after`, up to `upto`, of files that have one of the statuses and match the filter; ascending."""
    found = _matching(statuses, selection)
    if found is None:
        return []
    query = found.where(File.id > after, File.id <= upto).order_by(File.id).limit(limit)
    return list(connection.execute(query).scalars())


def matching_titles(
    connection: sa.Connection, statuses: Sequence[Status], selection: FileSelection, *, upto: int, limit: int
) -> list[FileTitle]:
    """The newest files up to the id `upto` that have one of the statuses and match the filter."""
    found = _matching(statuses, selection)
    if found is None:
        return []
    query = found.add_columns(File.title).where(File.id <= upto).order_by(File.id.desc()).limit(limit)
    return [FileTitle(row.id, row.title) for row in connection.execute(query)]


def deletable(connection: sa.Connection, ids: Sequence[int], *, limit: int) -> FilesToDelete:
    """Those of the files that are in a final status: their number and the first `limit`, by id."""
    final = [status.value for status in Status if status.terminal]
    chosen = sa.select(File.id, File.title).where(
        File.id == sa.func.any(sa.bindparam("ids", list(ids))), File.status.in_(final)
    )
    count = connection.execute(sa.select(sa.func.count()).select_from(chosen.subquery())).scalar_one()
    rows = connection.execute(chosen.order_by(File.id).limit(limit))
    return FilesToDelete(count, [FileTitle(row.id, row.title) for row in rows])


def ids_with_status(connection: sa.Connection, status: Status) -> list[int]:
    """Ids of all files that have the status, ascending."""
    return list(connection.execute(sa.select(File.id).where(File.status == status.value).order_by(File.id)).scalars())


def count_statuses_of(connection: sa.Connection, ids: Sequence[int]) -> dict[Status, int]:
    """How many of these files (ascending ids) have each status; statuses without a file are left out."""
    if not ids:
        return {}
    query = (
        sa.select(File.status, sa.func.count().label("files"))
        .where(File.id.between(ids[0], ids[-1]), File.id == sa.func.any(sa.bindparam("ids", list(ids))))
        .group_by(File.status)
    )
    return {Status(row.status): row.files for row in connection.execute(query)}


def newest_id(connection: sa.Connection) -> int:
    """The greatest id of a file; 0: there is no file."""
    return connection.execute(sa.select(sa.func.max(File.id))).scalar_one() or 0


def _matching(statuses: Sequence[Status], selection: FileSelection) -> sa.Select[int] | None:
    wanted = _wanted(msgspec.structs.replace(selection, status=None))
    if wanted is None:
        return None
    conditions = [_CONDITIONS[name] for name in wanted]
    return sa.select(File.id).where(File.status.in_([status.value for status in statuses]), *conditions).params(wanted)


_OUTBOX = sa.text("SELECT count(*), extract(epoch FROM clock_timestamp() - min(accepted_at)) FROM outbox")


def outbox_state(connection: sa.Connection) -> OutboxState:
    """How many requests wait for the relay, and the age of the oldest."""
    depth, age = connection.execute(_OUTBOX).one()
    return OutboxState(depth, None if age is None else max(0.0, float(age)))


def _edge(cursor: str | None) -> tuple[int | None, bool]:
    """The id next to which a page begins, and whether the page has greater ids."""
    if not cursor:
        return None, False
    old = _OLD_CURSOR.fullmatch(cursor)
    if old is not None and int(old[2]) <= FILE_ID_MAX:
        return int(old[2]), old[1] == "after"
    above = cursor.startswith(NEWER_FILES.prefix)
    (number,) = (NEWER_FILES if above else OLDER_FILES).decode(cursor)
    return number, above


def _around(edge: int | None, *, above: bool) -> tuple[int, int]:
    """Bounds of an empty page: the page that the cursor came from is beyond them."""
    if edge is None:
        return 0, 0
    return (min(edge + 1, FILE_ID_MAX), edge) if above else (edge, edge - 1)


def _wanted(selection: FileSelection) -> dict[str, Any] | None:
    """The parameters of the conditions, by their names in `_CONDITIONS`. None: no row can match."""
    status, search, queue, handler = selection.status, selection.search.strip(), selection.queue, selection.handler
    wanted: dict[str, Any] = {} if status is None else {"status": status.value}
    if not all(_storable(text) for text in (search, queue, handler)):
        return None
    if selection.owner is not None:
        wanted["person" if ":" in selection.owner else "owner"] = selection.owner
    if queue:
        wanted["queue" if queue != DEFAULT_QUEUE else "default_queue"] = queue
    if handler:
        wanted["handler"] = handler
    if not search:
        return wanted
    number = search.removeprefix("#")
    if number != search and number.isascii() and number.isdigit():
        try:
            return {**wanted, "id": parse_file_id(number)}
        except FileIdOutOfRange:
            return None
    if len(search) > TITLE_MAX_CHARACTERS:
        return None
    folded = search_text(search)
    pattern = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in folded)
    return {**wanted, "title": f"%{pattern}%"}


_CONDITIONS: dict[str, sa.ColumnElement[bool]] = {
    "status": File.status == sa.bindparam("status"),
    # The planner uses the partial index of the other queues only if it sees that the queue is not `default`.
    "queue": sa.and_(File.queue == sa.bindparam("queue"), File.queue != sa.literal_column("'default'")),
    "default_queue": File.queue == sa.bindparam("default_queue"),
    "handler": File.handler == sa.bindparam("handler"),
    # The planner uses the partial index of accounts only if it sees its condition. People of a proxy are not in it.
    "person": File.owner == sa.bindparam("person"),
    "owner": sa.and_(File.owner == sa.bindparam("owner"), sa.literal_column("strpos(owner, ':') = 0")),
    "id": File.id == sa.bindparam("id"),
    "title": sa.func.coalesce(File.title_search, File.title).ilike(sa.bindparam("title"), escape="\\"),
    "above": File.id > sa.bindparam("above"),
    "below": File.id < sa.bindparam("below"),
}


@cache
def _list_query(conditions: frozenset[str], *, excerpts: bool, ascending: bool) -> sa.Select[Any]:
    """The query for rows that match the conditions, in the order in which the page is read."""
    query = (_EXCERPTS if excerpts else _WHOLE).where(*(_CONDITIONS[name] for name in sorted(conditions)))
    return query.order_by(File.id.asc() if ascending else File.id.desc()).limit(sa.bindparam("rows"))


def _storable(text: str) -> bool:
    """Whether a row can contain the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
