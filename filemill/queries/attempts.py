"""The attempts of a file's handler: how each ended, what it used, and the end of its log.

Workers report them; they are kept as long as other events of workers, which is the monitor's retention.
"""

from collections.abc import Collection
from datetime import datetime

import msgspec
import sqlalchemy as sa

ATTEMPTS_MAX = 50


class HandlerAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that has ended, at `at`. Sizes in bytes, times in seconds.

    `number` counts from 1 in each run; attempts that are not counted share a number. `code` and `error` are those of
    its failure; an attempt without them had a result. `cpu_seconds` and `peak_bytes` are None if they were not
    measured: a coroutine runs in its processor. `key` identifies it. `log_characters`: the length of its log.
    """

    key: str
    run: int
    number: int
    worker_id: str
    at: datetime
    code: str | None
    error: str | None
    cpu_seconds: float | None
    peak_bytes: int | None
    log_characters: int


_ATTEMPTS = sa.text("""
    SELECT generation || '.' || partition || '.' || "offset" AS key,
        coalesce((body ->> 'run')::int, 1) AS run, coalesce((body ->> 'attempt')::int, 1) AS number, worker_id, at,
        body ->> 'code' AS code, left(body ->> 'error', 1000) AS error,
        (body ->> 'cpuSeconds')::float AS cpu_seconds, (body ->> 'peakBytes')::bigint AS peak_bytes,
        coalesce(length(body ->> 'log'), 0) AS log_characters
    FROM worker_events WHERE file_id = :file AND kind = 'attempted' ORDER BY at DESC, "offset" DESC LIMIT :most
""")
_LOG = sa.text("""
    SELECT body ->> 'log' FROM worker_events
    WHERE file_id = :file AND kind = 'attempted' AND generation || '.' || partition || '.' || "offset" = :key
""")

_VERSIONS = sa.text("""
    SELECT DISTINCT ON (event.file_id) event.file_id, event.body ->> 'handlerVersion' AS version
    FROM worker_events AS event JOIN files ON files.id = event.file_id
    WHERE event.file_id = ANY(CAST(:ids AS bigint[])) AND event.kind = 'attempted'
        AND event.body ->> 'error' IS NULL AND event.body ->> 'handlerVersion' IS NOT NULL
        AND coalesce((event.body ->> 'run')::int, 1) = files.run AND event.worker_id = files.worker_id
    ORDER BY event.file_id, event.at DESC
""")


def handler_attempts(connection: sa.Connection, file_id: int) -> list[HandlerAttempt]:
    """The latest attempts of a file, newest first; at most `ATTEMPTS_MAX`."""
    rows = connection.execute(_ATTEMPTS, {"file": file_id, "most": ATTEMPTS_MAX}).mappings()
    return [
        # Each process has some memory: none means that nothing was measured.
        HandlerAttempt(**row)
        if row["peak_bytes"]
        else HandlerAttempt(**{**row, "peak_bytes": None, "cpu_seconds": row["cpu_seconds"] or None})
        for row in rows
    ]


def versions_made_by(connection: sa.Connection, ids: Collection[int]) -> dict[int, str]:
    """The versions of the handlers that made the results of these files, as far as workers have reported them."""
    if not ids:
        return {}
    return {row.file_id: row.version for row in connection.execute(_VERSIONS, {"ids": list(ids)})}


def attempt_log(connection: sa.Connection, attempt: tuple[int, str]) -> str | None:
    """The end of an attempt's log, by the file's id and the attempt's key; None if there is none."""
    file_id, key = attempt
    return connection.execute(_LOG, {"file": file_id, "key": key}).scalar_one_or_none()
