"""Throughput, latency and failures over a period, and the ledger of all accepted requests.

Percentiles are exact, over the newest `FILES_MAX` files of a period, so that a table of a million rows is read as fast.
Times are of first runs only, because a retried file was submitted long before its retry.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from filemill.domain.files import Status
from filemill.queries.files import count_statuses

FILES_MAX = 20_000
BINS = 60
IDS_MAX = 20


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles in seconds; None: there are no values."""

    p50: float | None
    p95: float | None
    p99: float | None


class PerformanceRow(msgspec.Struct, frozen=True):
    """Finished files of a bin, a worker, a partition or a handler and queue (`key`): their number and their times.

    `wait`: from acceptance to the start in a worker; `processing`: from there to the result; `end_to_end`: both.
    """

    key: str | int | datetime | None
    completed: int
    failed: int
    wait: Percentiles
    processing: Percentiles
    end_to_end: Percentiles

    @property
    def finished(self) -> int:
        """Completed or failed."""
        return self.completed + self.failed


class Performance(msgspec.Struct, frozen=True):
    """The figures of a period. `partitions` are those of the queue `default`; the keys of `jobs` are "handler / queue".

    `since`: its start, or later if more than `FILES_MAX` files finished in it.

    `upload_failures` counts failed attempts to upload, whether they were retried or dead-lettered. `repeated_results`
    counts results that arrived after their run had ended. Deleted files count as they did before their deletion.
    """

    as_of: datetime
    since: datetime
    bin_seconds: float
    total: PerformanceRow
    bins: list[PerformanceRow]
    workers: list[PerformanceRow]
    partitions: list[PerformanceRow]
    upload_failures: int
    repeated_results: int = 0
    jobs: list[PerformanceRow] = []

    @property
    def seconds(self) -> float:
        """The length of the period in seconds."""
        return (self.as_of - self.since).total_seconds()

    @property
    def per_second(self) -> float | None:
        """Finished files per second; None: the period is empty."""
        return self.total.finished / self.seconds if self.seconds > 0 else None

    @property
    def error_rate(self) -> float | None:
        """The fraction of finished files that failed; None: none finished."""
        return self.total.failed / self.total.finished if self.total.finished else None

    @property
    def upload_success_rate(self) -> float | None:
        """The fraction of uploads that succeeded; None: there was none."""
        tries = self.total.completed + self.upload_failures
        return self.total.completed / tries if tries else None

    @property
    def balance(self) -> float | None:
        """Files of the busiest partition over the mean of all partitions with files; 1.0: balanced."""
        counts = [share.finished for share in self.partitions if share.key is not None]
        return max(counts) * len(counts) / sum(counts) if counts and sum(counts) else None


class Ledger(msgspec.Struct, frozen=True):
    """All accepted requests: completed + failed + cancelled + pending + processing + deleted.

    The counts are those of the triggers. Three lists have ids that violate the ledger, at most
    `IDS_MAX` each. `lost`: pending, but neither in the outbox nor published. `without_object`: completed without the
    key of an object. `stale`: processing for an hour without progress.
    """

    counts: dict[Status, int]
    deleted: int
    in_outbox: int
    lost: list[int]
    without_object: list[int]
    stale: list[int]

    @property
    def accepted(self) -> int:
        """The number of requests that were ever accepted."""
        return sum(self.counts.values()) + self.deleted

    @property
    def clean(self) -> bool:
        """Whether no id violates the ledger."""
        return not (self.lost or self.without_object or self.stale)


_FIRST = "FILTER (WHERE run = 1 AND status = 'completed')"
_CUTS = "percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {name}) " + _FIRST
_FINISHED = "finished_at, run, status, worker_id, kafka_partition, started_at, created_at, handler, queue"
_SHARES = sa.text(f"""
    WITH finished AS (
        SELECT {_FINISHED} FROM files
        WHERE finished_at > now() - CAST(:period AS interval) AND status IN ('completed', 'failed')
        UNION ALL
        SELECT {_FINISHED} FROM tombstones
        WHERE finished_at > now() - CAST(:period AS interval) AND status IN ('completed', 'failed')
        ORDER BY finished_at DESC LIMIT :most
    ), recent AS (
        SELECT date_bin(CAST(:bin AS interval), finished_at, TIMESTAMPTZ '2000-01-01') AS bin, finished_at, run, status,
               worker_id, CASE WHEN queue = 'default' THEN kafka_partition ELSE -1 END AS kafka_partition,
               handler || ' / ' || queue AS job,
               CAST(extract(epoch FROM started_at - created_at) AS float8) AS wait,
               CAST(extract(epoch FROM finished_at - started_at) AS float8) AS processing,
               CAST(extract(epoch FROM finished_at - created_at) AS float8) AS whole
        FROM finished
    )
    SELECT grouping(bin, worker_id, kafka_partition, job), bin, worker_id, kafka_partition,
           count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
           {_CUTS.format(name="wait")}, {_CUTS.format(name="processing")}, {_CUTS.format(name="whole")},
           min(finished_at), job
    FROM recent
    GROUP BY GROUPING SETS ((bin), (worker_id), (kafka_partition), (job), ())
    ORDER BY 1, 2, 3, 4, job
""")  # noqa: S608 - only the names of columns are put in
# The value of `grouping`: a bit for each column that a row is not grouped by.
_BIN, _WORKER, _PARTITION, _JOB, _TOTAL = 0b0111, 0b1011, 0b1101, 0b1110, 0b1111
_OTHER_QUEUES = -1
_UPLOADS = sa.text("""
    SELECT count(*) FROM worker_events
    WHERE at > CAST(:since AS timestamptz) AND kind IN ('retrying', 'parked') AND body->>'stage' = 'upload'
""")
_REPEATED = sa.text("SELECT count(*) FROM deliveries WHERE repeated AND ended_at > CAST(:since AS timestamptz)")
_NOW = sa.select(sa.func.now())


def performance(connection: sa.Connection, period: timedelta) -> Performance:
    """The figures of the last `period`."""
    as_of = connection.execute(_NOW).scalar_one()
    width = period / BINS
    found: dict[int, list[PerformanceRow]] = {_BIN: [], _WORKER: [], _PARTITION: [], _JOB: [], _TOTAL: []}
    since = as_of - period
    for row in connection.execute(_SHARES, {"bin": width, "period": period, "most": FILES_MAX}):
        kind = row[0]
        key = {_BIN: row[1], _WORKER: row[2], _PARTITION: row[3], _JOB: row[10], _TOTAL: None}[kind]
        found[kind].append(PerformanceRow(key, row[4], row[5], _cut(row[6]), _cut(row[7]), _cut(row[8])))
        if kind == _TOTAL and row[4] + row[5] >= FILES_MAX:
            since = row[9]
    nothing = PerformanceRow(None, 0, 0, *(Percentiles(None, None, None) for _ in range(3)))
    failures, repeated = (connection.execute(query, {"since": since}).scalar_one() for query in (_UPLOADS, _REPEATED))
    total = found[_TOTAL][0] if found[_TOTAL] else nothing
    seconds = width.total_seconds()
    partitions = [row for row in found[_PARTITION] if row.key != _OTHER_QUEUES]
    shares = (found[_BIN], found[_WORKER], partitions)
    return Performance(as_of, since, seconds, total, *shares, failures, repeated, found[_JOB])


def _cut(values: Sequence[Any] | None) -> Percentiles:
    return (
        Percentiles(None, None, None)
        if values is None
        else Percentiles(*(None if value is None else float(value) for value in values))
    )


_IN_OUTBOX = sa.text("SELECT count(*) FROM outbox")
# A request that was accepted a moment ago may move between two of these reads.
_LOST = sa.text("""
    SELECT id FROM files
    WHERE status = 'pending' AND updated_at < now() - interval '30 s'
      AND NOT EXISTS (SELECT FROM outbox WHERE outbox.file_id = files.id)
      AND NOT EXISTS (SELECT FROM publications WHERE publications.file_id = files.id AND publications.run = files.run)
    ORDER BY id LIMIT :most
""")
_UNFOUNDED = sa.text("""
    SELECT id FROM files WHERE status = 'completed' AND sha256 IS NULL AND s3_location IS NULL ORDER BY id LIMIT :most
""")
_STALE = sa.text("""
    SELECT id FROM files WHERE status = 'processing' AND updated_at < now() - interval '1 hour' ORDER BY id LIMIT :most
""")


def ledger(connection: sa.Connection) -> Ledger:
    """The ledger according to the rows alone; `verify` also checks Kafka and S3."""
    most = {"most": IDS_MAX}
    counts = count_statuses(connection)
    return Ledger(
        counts.by_status,
        counts.accepted - counts.total,
        connection.execute(_IN_OUTBOX).scalar_one(),
        *(list(connection.execute(query, most).scalars()) for query in (_LOST, _UNFOUNDED, _STALE)),
    )
