"""The audit log: filtered for the page and exports, and complete for its verification."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.audit import DETAIL_WITH_OUTCOME
from filemill.domain.audit_chain import AuditFinding, AuditHead, AuditRow, ChainCheck
from filemill.domain.files import FILE_ID_MAX

VERIFY_BATCH = 5000
PAGE_ROWS = 100
EXPORT_BATCH = 1000
ACTIONS_MAX = 200

_ROWS = sa.text("""
    SELECT sequence, id, at, actor, action, CAST(detail AS text), authentication, address, request_id, follows,
           previous_hash, hash
    FROM operations WHERE (sequence, id) > (:sequence, :id) ORDER BY sequence, id LIMIT :limit
""")
_HEAD = sa.text("SELECT count, hash FROM audit_head")
_REFUSED = """
    (detail ? 'refused' OR EXISTS (
        SELECT FROM operations AS later WHERE later.follows = operations.id AND later.detail ? 'refused'
    ))
"""
# Details of more bytes are long lists of files.
LONG_BYTES = 2000


class AuditReport(msgspec.Struct, frozen=True):
    """The result of verifying the log. `head` is its recorded end; keep it elsewhere, to compare later."""

    ok: bool
    rows: int
    head: str | None
    findings: list[AuditFinding]
    seconds: float


class AuditFilter(msgspec.Struct, frozen=True):
    """Which rows: empty matches all. `object` is a file's id, or the name of a worker, an account or a topic."""

    actor: str = ""
    action: str = ""
    object: str = ""
    refused: bool | None = None
    since: datetime | None = None


class AuditQuery(msgspec.Struct, frozen=True):
    """A page of the log: the newest `limit` rows that match, or those with lower sequence numbers than `before`."""

    wanted: AuditFilter = AuditFilter()
    before: int | None = None
    limit: int = PAGE_ROWS


class AuditEntryRow(msgspec.Struct, frozen=True):
    """A row of the log with its outcome in `detail`."""

    sequence: int
    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]
    authentication: str | None
    address: str | None
    request_id: str | None
    hash: str


def read_head(connection: sa.Connection) -> AuditHead | None:
    """The recorded end of the log; None: somebody deleted it."""
    row = connection.execute(_HEAD).one_or_none()
    return None if row is None else AuditHead(*row)


def verify_audit(engine: sa.Engine, known: AuditHead | None = None) -> AuditReport:
    """Compute the hash of each row again; reads the whole log in batches, in one snapshot. Raises Unavailable."""
    began = time.monotonic()
    check = ChainCheck(known)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        head = read_head(connection)
        last = {"sequence": -(2**63), "id": -(2**63), "limit": VERIFY_BATCH}
        while rows := [AuditRow(*row) for row in connection.execute(_ROWS, last)]:
            check.add(rows)
            last = {**last, "sequence": rows[-1].sequence, "id": rows[-1].id}
    check.finish(head)
    findings = list(check.findings.values())
    seconds = round(time.monotonic() - began, 3)
    return AuditReport(not findings, check.rows, None if head is None else str(head), findings, seconds)


def audit_page(
    connection: sa.Connection,
    wanted: AuditFilter,
    *,
    before: int | None = None,
    limit: int = PAGE_ROWS,
    whole: bool = True,
) -> list[AuditEntryRow]:
    """The newest rows that match, newest first; with `before`, only those with a lower sequence number.

    Not `whole`: long lists of files are left out.
    """
    if any("\0" in text for text in (wanted.actor, wanted.action, wanted.object)):
        return []  # PostgreSQL stores no such text
    conditions, values = ["follows IS NULL"], dict[str, object]()
    if before is not None:
        conditions.append("sequence < :before")
        values["before"] = before
    for name in ("actor", "action"):
        if given := getattr(wanted, name):
            conditions.append(f"{name} = :{name}")
            values[name] = given
    if wanted.since is not None:
        conditions.append("at >= :since")
        values["since"] = _in_utc(wanted.since)
    if wanted.object:
        conditions.append(_object_condition(wanted.object, values))
    if wanted.refused is not None:
        conditions.append(_REFUSED if wanted.refused else f"NOT {_REFUSED}")
    detail = DETAIL_WITH_OUTCOME
    if not whole:
        detail = f"CASE WHEN pg_column_size(detail) < {LONG_BYTES} THEN {detail} ELSE ({detail}) - 'files' END"
    statement = f"""
        SELECT sequence, id, at, actor, action, {detail}, authentication, address, request_id,
               encode(hash, 'hex')
        FROM operations WHERE {" AND ".join(conditions)} ORDER BY sequence DESC LIMIT :limit
    """  # noqa: S608 - text of this module
    rows = connection.execute(sa.text(statement), {**values, "limit": limit})
    return [AuditEntryRow(*row) for row in rows]


def _in_utc(moment: datetime) -> datetime:
    """The time in UTC; one without a time zone is in UTC already."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # at the edges of the years that Python has
        return moment.replace(tzinfo=UTC)


def _object_condition(name: str, values: dict[str, object]) -> str:
    """Contained in `detail`: the index finds it."""
    values["name"] = name
    named = [
        f"detail @> jsonb_build_object('{key}', CAST(:name AS text))"
        for key in ("worker", "target", "account", "topic", "role", "path", "key")
    ]
    number = name.removeprefix("#")
    if number.isascii() and number.isdigit() and int(number) <= FILE_ID_MAX:
        values["file"] = int(number)
        # Files are ids, or pairs of an id and a run. The first two use the index, and also find runs.
        named.append(
            "((detail @> jsonb_build_object('files', jsonb_build_array(jsonb_build_array(CAST(:file AS bigint))))"
            " OR detail @> jsonb_build_object('files', jsonb_build_array(CAST(:file AS bigint))))"
            " AND jsonb_path_exists(detail, CAST('strict $.files[*] ? (@ == $id || @[0] == $id)' AS jsonpath),"
            " jsonb_build_object('id', CAST(:file AS bigint)), true))"
        )
    return f"({' OR '.join(named)})"


def export_rows(engine: sa.Engine, wanted: AuditFilter) -> Iterator[list[AuditEntryRow]]:
    """All rows that match, newest first, in batches; none is empty but the first may be."""
    before: int | None = None
    while True:
        with engine.connect() as connection:
            rows = audit_page(connection, wanted, before=before, limit=EXPORT_BATCH)
        if rows or before is None:
            yield rows
        if len(rows) < EXPORT_BATCH:
            return
        before = rows[-1].sequence


_ACTORS = sa.text("""
    SELECT DISTINCT actor FROM (
        SELECT actor FROM operations WHERE at > now() - CAST(:period AS interval) ORDER BY at DESC LIMIT 20000
    ) AS latest ORDER BY actor LIMIT :most
""")
_ACTIONS = sa.text("""
    SELECT DISTINCT action FROM (
        SELECT action FROM operations WHERE at > now() - CAST(:period AS interval) AND follows IS NULL
        ORDER BY at DESC LIMIT 20000
    ) AS latest ORDER BY action LIMIT :most
""")


def audit_choices(connection: sa.Connection, period: timedelta) -> tuple[list[str], list[str]]:
    """The people and the actions of the latest rows, for a filter."""
    given = {"period": period, "most": ACTIONS_MAX}
    return list(connection.execute(_ACTORS, given).scalars()), list(connection.execute(_ACTIONS, given).scalars())
