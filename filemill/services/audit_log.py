"""Reading, exporting and verifying the audit log."""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Literal

import msgspec
import sqlalchemy as sa

from filemill.domain.audit_chain import AuditHead
from filemill.domain.permissions import Permission, Principal
from filemill.domain.spreadsheets import BYTE_ORDER_MARK, cell
from filemill.queries.audit import (
    AuditEntryRow,
    AuditFilter,
    AuditReport,
    audit_choices,
    audit_page,
    export_rows,
    verify_audit,
)
from filemill.services.access import authorize

ExportFormat = Literal["csv", "ndjson"]
COLUMNS = AuditEntryRow.__struct_fields__


class AuditLog:
    """What operators do with the audit log. Each method raises Forbidden, Unavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(
        self, wanted: AuditFilter, principal: Principal, *, before: int | None = None, limit: int = 100
    ) -> list[AuditEntryRow]:
        """The newest rows that match; with `before`, only those with a lower sequence number."""
        authorize(self._engine, principal, Permission.READ_AUDIT)
        with self._engine.connect() as connection:
            return audit_page(connection, wanted, before=before, limit=limit)

    def choices(self, period: timedelta, principal: Principal) -> tuple[list[str], list[str]]:
        """The people and the actions of the latest rows, for a filter."""
        authorize(self._engine, principal, Permission.READ_AUDIT)
        with self._engine.connect() as connection:
            return audit_choices(connection, period)

    def verify(self, principal: Principal, known: AuditHead | None = None) -> AuditReport:
        """Compute all hashes again. `known` is a head that was kept elsewhere."""
        authorize(self._engine, principal, Permission.READ_AUDIT)
        return verify_audit(self._engine, known)

    def export(self, wanted: AuditFilter, form: ExportFormat, principal: Principal) -> Iterator[bytes]:
        """The rows that match, newest first, as CSV or JSON lines. The first batch is read before it returns."""
        authorize(self._engine, principal, Permission.READ_AUDIT)
        batches = export_rows(self._engine, wanted)
        first = next(batches)
        return _lines(first, batches, form)


def _lines(first: list[AuditEntryRow], rest: Iterator[list[AuditEntryRow]], form: ExportFormat) -> Iterator[bytes]:
    if form == "csv":
        yield BYTE_ORDER_MARK + _csv([COLUMNS])
    yield _batch(first, form)
    for rows in rest:
        yield _batch(rows, form)


def _batch(rows: list[AuditEntryRow], form: ExportFormat) -> bytes:
    if form == "ndjson":
        return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    built = [msgspec.to_builtins(row) for row in rows]
    return _csv([{**row, "detail": msgspec.json.encode(row["detail"]).decode()}.values() for row in built])


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode()
