"""What the commands about workers, handlers and the audit log show, through REST."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from filemill.domain.cursors import AUDIT
from filemill.domain.handlers import HandlerSpec
from filemill.domain.stalls import StalledPartition
from filemill.entrypoints.cli.rest_client import RestClient
from filemill.queries.audit import AuditEntryRow, AuditFilter
from filemill.queries.workers import WorkerView
from filemill.services.audit_log import ExportFormat
from filemill_dashboard.rest.records import AuditList, HandlerList, WorkerList
from filemill_dashboard.views.visibility import ShownState, Visibility

AUDIT_PAGE = 100


@dataclass(frozen=True)
class ListedWorkers:
    """The first workers of `total`, and the state of each. `obstacle`: why states are unknown; None: they are not."""

    views: list[WorkerView]
    shown: dict[str, ShownState]
    total: int
    stalled: list[StalledPartition]
    obstacle: str | None


class _Pipeline(msgspec.Struct, frozen=True):
    stalled: list[StalledPartition]
    unreachable: list[str]


def workers(client: RestClient) -> ListedWorkers:
    """The workers, in the state that pages show."""
    found = client.get("/api/workers", WorkerList)
    pipeline = client.get("/api/pipeline", _Pipeline)
    visibility = Visibility(frozenset(pipeline.unreachable))
    obstacle = None if visibility.events_known else visibility.obstacle
    shown = {item.id: item.condition for item in found.items}
    return ListedWorkers([*found.items], shown, found.total, pipeline.stalled, obstacle)


def handler_specs(client: RestClient) -> list[HandlerSpec]:
    """The handlers of the running workers, by name."""
    found = client.get("/api/handlers", HandlerList).items
    return [HandlerSpec(**{name: getattr(one, name) for name in HandlerSpec.__struct_fields__}) for one in found]


def audit_rows(client: RestClient, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditEntryRow]:
    """The newest rows that match, newest first; with `before`, only those with a lower sequence number."""
    rows: list[AuditEntryRow] = []
    cursor: str | None = "" if before is None else AUDIT.encode(before)
    while cursor is not None and len(rows) < limit:
        asked = min(AUDIT_PAGE, limit - len(rows))
        page = client.get("/api/audit", AuditList, **_query(wanted), limit=asked, cursor=cursor)
        rows += page.items
        cursor = page.next_cursor
    return rows


def audit_export(
    client: RestClient, wanted: AuditFilter, form: ExportFormat
) -> AbstractContextManager[Iterator[bytes]]:
    """All rows that match, newest first, as the bytes of a file."""
    return client.stream("/api/audit/export", **_query(wanted), format=form)


def _query(wanted: AuditFilter) -> dict[str, object]:
    return msgspec.structs.asdict(wanted)
