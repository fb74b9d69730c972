"""What people and programs look at: files, counts, the outbox. Reads only; the group is in `postgres_reads_group`.

REST, the pages and the command line ask the same questions here, in the caller's connection. Each is quick on a table
of a million rows: pages go by key, counts come from `status_counts`. Ages are by the database's clock, so
that a viewer's clock, or ours, cannot make them lie. Unknown is None, never zero.
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
from filemill.domain.files import FILE_ID_MAX, TITLE_MAX_CHARACTERS, Status, parse_file_id, search_text
from filemill.errors import FileIdOutOfRange

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
# What a list shows of a description; one file's own read has all of it.
EXCERPT_CHARACTERS = 200
# Counting what matches a search stops here: "more than 100,000" is as good a warning as the number.
COUNT_MAX = 100_001

# The form of cursors up to version 1.0: addresses and scripts may still hold one.
_OLD_CURSOR = re.compile(r"(before|after)-([0-9]{1,19})")
# All cursors of the list, for documents.
FILES_CURSOR = f"{OLDER_FILES.pattern}|{NEWER_FILES.pattern}|(before|after)-[0-9]{{1,18}}"


class FilePage(msgspec.Struct, frozen=True):
    """Files, newest first unless `oldest_first`; `older` and `newer` are the cursors of the pages beside it.

    They are None where the list ends.
    """

    items: list[FileRow]
    older: str | None
    newer: str | None
    as_of: datetime
    oldest_first: bool = False

    @property
    def next(self) -> str | None:
        """The cursor of the page that follows in the list's own order."""
        return self.newer if self.oldest_first else self.older

    @property
    def previous(self) -> str | None:
        """The cursor of the page before it in the list's own order."""
        return self.older if self.oldest_first else self.newer


class OutboxState(msgspec.Struct, frozen=True):
    """Requests that are not on Kafka yet, and the age in seconds of the oldest (None: there is none)."""

    depth: int
    oldest_age_seconds: float | None


class Counts(msgspec.Struct, frozen=True):
    """How many files have each status, every status named."""

    by_status: dict[Status, int]

    @property
    def total(self) -> int:
        """All files."""
        return sum(self.by_status.values())


_DESCRIPTION = FIELDS.index("description")
_NOW = sa.select(sa.func.now())
# Built once: putting twenty columns together takes longer than the database does.
_FILE = sa.select(*COLUMNS).where(File.id == sa.bindparam("file_id"))
_WHOLE = sa.select(*COLUMNS, sa.func.now())
_EXCERPTS = sa.select(
    *COLUMNS[:_DESCRIPTION],
    sa.func.left(File.description, EXCERPT_CHARACTERS),
    *COLUMNS[_DESCRIPTION + 1 :],
    sa.func.now(),
)
_COUNTS = sa.select(StatusCount.status, sa.func.sum(StatusCount.delta)).group_by(StatusCount.status)


def get_file(connection: sa.Connection, file_id: int) -> FileRow | None:
    """One file, or None."""
    if not 1 <= file_id <= FILE_ID_MAX:
        return None
    row = connection.execute(_FILE, {"file_id": file_id}).one_or_none()
    return None if row is None else file_row(row)


def list_files(
    connection: sa.Connection,
    *,
    status: Status | None = None,
    search: str = "",
    limit: int = LIMIT_DEFAULT,
    cursor: str | None = None,
    excerpts: bool = False,
    oldest_first: bool = False,
) -> FilePage:
    """A page of files, newest first, or oldest.

    `search` finds a part of the title, whatever its case, or a file by `#id`; `cursor` is `older` or `newer` of another
    page (raises InvalidCursor); `excerpts` cuts descriptions short. `limit` is held to 1 … 200.
    """
    limit = max(1, min(limit, LIMIT_MAX))
    edge, above = _edge(cursor)
    wanted = _wanted(status, search.strip())
    if wanted is None:
        return FilePage([], None, None, connection.execute(_NOW).scalar_one(), oldest_first)
    if edge is not None:
        wanted["above" if above else "below"] = edge
    ascending = oldest_first if edge is None else above
    query = _list_query(frozenset(wanted), excerpts=excerpts, ascending=ascending)
    rows = connection.execute(query, {**wanted, "rows": limit + 1}).all()
    more, backwards = len(rows) > limit, ascending != oldest_first
    if backwards and not more:
        # The top is reached: a whole first page, not the few rows that happen to lie before the cursor.
        return list_files(
            connection, status=status, search=search, limit=limit, excerpts=excerpts, oldest_first=oldest_first
        )
    items = [file_row(row) for row in rows[:limit]]
    as_of = rows[0][-1] if rows else connection.execute(_NOW).scalar_one()
    if backwards:
        items.reverse()
    least, greatest = sorted((items[0].id, items[-1].id)) if items else _around(edge, above=above)
    # In the direction of reading there is more or not; where it came from, there is what the cursor's page has shown.
    below = more if not ascending else edge is not None
    beyond = more if ascending else edge is not None
    older = OLDER_FILES.encode(least) if below else None
    newer = NEWER_FILES.encode(greatest) if beyond else None
    return FilePage(items, older, newer, as_of, oldest_first)


def count_statuses(connection: sa.Connection) -> Counts:
    """Files per status, from the deltas that triggers keep: never by counting `files`."""
    found = {status: int(count) for status, count in connection.execute(_COUNTS)}
    return Counts({status: max(0, found.get(status.value, 0)) for status in Status})


def count_matching(connection: sa.Connection, statuses: Sequence[Status], search: str = "") -> int:
    """How many files have one of the statuses and match the search, counted up to `COUNT_MAX`.

    Without a search it is the sum of the counts that triggers keep, and exact however many there are.
    """
    if not search.strip():
        counts = count_statuses(connection).by_status
        return sum(counts[status] for status in statuses)
    found = _matching(statuses, search)
    if found is None:
        return 0
    some = found.limit(COUNT_MAX).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def matching_ids(
    connection: sa.Connection, statuses: Sequence[Status], search: str, *, after: int, upto: int, limit: int
) -> list[int]:
    """Ids beyond `after` and up to `upto` of files that have one of the statuses and match the search, least first."""
    found = _matching(statuses, search)
    if found is None:
        return []
    query = found.where(File.id > after, File.id <= upto).order_by(File.id).limit(limit)
    return list(connection.execute(query).scalars())


def ids_with_status(connection: sa.Connection, status: Status) -> list[int]:
    """Ids of all files that have the status, ascending."""
    return list(connection.execute(sa.select(File.id).where(File.status == status.value).order_by(File.id)).scalars())


def count_statuses_of(connection: sa.Connection, ids: Sequence[int]) -> dict[Status, int]:
    """How many of these files (ascending ids) have each status; statuses without a file are left out."""
    query = (
        sa.select(File.status, sa.func.count().label("files"))
        .where(File.id.between(ids[0], ids[-1]), File.id == sa.func.any(sa.bindparam("ids", list(ids))))
        .group_by(File.status)
    )
    return {Status(row.status): row.files for row in connection.execute(query)}


def newest_id(connection: sa.Connection) -> int:
    """The greatest id of a file; 0 where there is none."""
    return connection.execute(sa.select(sa.func.max(File.id))).scalar_one() or 0


def _matching(statuses: Sequence[Status], search: str) -> sa.Select[int] | None:
    wanted = _wanted(None, search.strip())
    if wanted is None:
        return None
    conditions = [_CONDITIONS[name] for name in wanted]
    return sa.select(File.id).where(File.status.in_([status.value for status in statuses]), *conditions).params(wanted)


_OUTBOX = sa.text("SELECT count(*), extract(epoch FROM clock_timestamp() - min(accepted_at)) FROM outbox")


def outbox_state(connection: sa.Connection) -> OutboxState:
    """How many requests wait for the relay, and since when the first of them."""
    depth, age = connection.execute(_OUTBOX).one()
    return OutboxState(depth, None if age is None else max(0.0, float(age)))


def _edge(cursor: str | None) -> tuple[int | None, bool]:
    """The id beside which a page begins, and whether it lies above that."""
    if not cursor:
        return None, False
    old = _OLD_CURSOR.fullmatch(cursor)
    if old is not None and int(old[2]) <= FILE_ID_MAX:
        return int(old[2]), old[1] == "after"
    above = cursor.startswith(NEWER_FILES.prefix)
    (number,) = (NEWER_FILES if above else OLDER_FILES).decode(cursor)
    return number, above


def _around(edge: int | None, *, above: bool) -> tuple[int, int]:
    """Ids between which there is nothing: beyond them lies the page that the cursor came from."""
    if edge is None:
        return 0, 0
    return (min(edge + 1, FILE_ID_MAX), edge) if above else (edge, edge - 1)


def _wanted(status: Status | None, search: str) -> dict[str, Any] | None:
    """What rows must fulfil, by the names of `_CONDITIONS`; None where none can (Postgres would refuse the text)."""
    wanted: dict[str, Any] = {} if status is None else {"status": status.value}
    if not search:
        return wanted
    number = search.removeprefix("#")
    if number != search and number.isascii() and number.isdigit():
        try:
            return {**wanted, "id": parse_file_id(number)}
        except FileIdOutOfRange:
            return None
    if len(search) > TITLE_MAX_CHARACTERS or "\0" in search or not _encodable(search):
        return None
    folded = search_text(search)
    pattern = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in folded)
    return {**wanted, "title": f"%{pattern}%"}


_CONDITIONS: dict[str, sa.ColumnElement[bool]] = {
    "status": File.status == sa.bindparam("status"),
    "id": File.id == sa.bindparam("id"),
    "title": sa.func.coalesce(File.title_search, File.title).ilike(sa.bindparam("title"), escape="\\"),
    "above": File.id > sa.bindparam("above"),
    "below": File.id < sa.bindparam("below"),
}


@cache
def _list_query(conditions: frozenset[str], *, excerpts: bool, ascending: bool) -> sa.Select[Any]:
    """Rows that fulfil these, in the order in which the page is read."""
    query = (_EXCERPTS if excerpts else _WHOLE).where(*(_CONDITIONS[name] for name in sorted(conditions)))
    return query.order_by(File.id.asc() if ascending else File.id.desc()).limit(sa.bindparam("rows"))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
