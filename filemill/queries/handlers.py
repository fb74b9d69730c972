"""The handlers that running workers have announced."""

from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.domain.handlers import TEXT_HANDLER, TEXT_SPEC, HandlerSpec
from filemill.domain.worker_events import DEAD_AFTER_SECONDS
from filemill.queries.workers import GONE_LISTED, silence_known


class HandlerVersion(msgspec.Struct, frozen=True):
    """A version of a handler, and how many running workers have it."""

    version: str
    workers: int


class HandlerView(msgspec.Struct, frozen=True, kw_only=True):
    """A handler of the running workers.

    `spec` is the announcement of the worker that started last: requests are checked against it. More than one entry in
    `versions` means that the workers differ.
    """

    name: str
    version: str
    content_type: str
    extension: str
    deterministic: bool
    timeout: float | None
    memory: int | None
    attempts: int | None
    max_concurrency: int | None
    queue: str | None
    workers: int
    versions: list[HandlerVersion]
    schema: dict[str, Any]

    @property
    def mixed(self) -> bool:
        """Whether running workers have different versions."""
        return len(self.versions) > 1


# The text handler needs no announcement: services of the reference design announce nothing.
_LIVE = sa.text("""
    SELECT known.name, known.worker_id, known.version, known.spec
    FROM worker_handlers AS known JOIN workers USING (worker_id)
    WHERE workers.kind <> 'stopped' AND workers.heard_at > clock_timestamp() - make_interval(secs => :dead)
    ORDER BY known.name, workers.started_at DESC NULLS LAST, known.worker_id
""")
_OF_WORKERS = sa.text("""
    SELECT worker_id, name, version FROM worker_handlers
    WHERE worker_id = ANY(CAST(:workers AS text[])) ORDER BY worker_id, name
""")


def live_handlers(connection: sa.Connection) -> list[HandlerView]:
    """All handlers that a running worker has, by name; the text handler is always among them.

    While Kafka is unreachable, it is unknown which workers run. Then these are the handlers that were known last, so
    that requests for them are still accepted.
    """
    found: dict[str, list[tuple[str, HandlerSpec]]] = {}
    seconds = DEAD_AFTER_SECONDS if silence_known(connection) else GONE_LISTED.total_seconds()
    for row in connection.execute(_LIVE, {"dead": seconds}):
        found.setdefault(row.name, []).append((row.version, msgspec.convert(row.spec, HandlerSpec)))
    found.setdefault(TEXT_HANDLER, [])
    return [_view(name, announced) for name, announced in sorted(found.items())]


def handlers_of_workers(connection: sa.Connection, workers: list[str]) -> dict[str, dict[str, str]]:
    """The versions of the handlers that these workers announced last, by worker and name."""
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(_OF_WORKERS, {"workers": workers}):
        found.setdefault(row.worker_id, {})[row.name] = row.version
    return found


def _view(name: str, announced: list[tuple[str, HandlerSpec]]) -> HandlerView:
    spec = announced[0][1] if announced else TEXT_SPEC
    versions = [version for version, _ in announced]
    return HandlerView(
        name=name,
        version=spec.version,
        content_type=spec.content_type,
        extension=spec.extension,
        deterministic=spec.deterministic,
        timeout=spec.timeout,
        memory=spec.memory,
        attempts=spec.attempts,
        max_concurrency=spec.max_concurrency,
        queue=spec.queue,
        workers=len(announced),
        versions=[HandlerVersion(version, versions.count(version)) for version in dict.fromkeys(versions)],
        schema=spec.schema,
    )
