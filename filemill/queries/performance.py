"""What people and programs look at: how files fared of late, and whether all that was accepted is accounted for.

Percentiles are exact, of the newest `FILES_MAX` files of a period: enough for a percentile, and as quick at a million
rows. Times are of first runs only: a file that was tried again was asked for long before.
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
    """Percentiles in seconds; None where there is nothing to take them of."""

    p50: float | None
    p95: float | None
    p99: float | None


class PerformanceRow(msgspec.Struct, frozen=True):
    """Files that ended, of a bin, a worker or a partition (`key`): how many, how they ended, how long they took.

    `wait`: accepted → begun by a worker; `processing`: → its result; `whole`: all of it.
    """

    key: str | int | datetime | None
    completed: int
    failed: int
    wait: Percentiles
    processing: Percentiles
    whole: Percentiles

    @property
    def ended(self) -> int:
        """Completed or failed."""
        return self.completed + self.failed


class Performance(msgspec.Struct, frozen=True):
    """A period. `since` is where the newest `FILES_MAX` files begin, later than the period's start if it has more.

    `upload_failures` counts attempts that failed at the upload and were tried again, or given up.
    """

    as_of: datetime
    since: datetime
    bin_seconds: float
    total: PerformanceRow
    bins: list[PerformanceRow]
    workers: list[PerformanceRow]
    partitions: list[PerformanceRow]
    upload_failures: int

    @property
    def seconds(self) -> float:
        """The length of what the figures are of."""
        return (self.as_of - self.since).total_seconds()

    @property
    def per_second(self) -> float | None:
        """Files that ended, a second."""
        return self.total.ended / self.seconds if self.seconds > 0 else None

    @property
    def error_rate(self) -> float | None:
        """The part of them that failed; None where none ended."""
        return self.total.failed / self.total.ended if self.total.ended else None

    @property
    def upload_success(self) -> float | None:
        """The part of all tries to upload that succeeded; None where nothing was tried."""
        tries = self.total.completed + self.upload_failures
        return self.total.completed / tries if tries else None

    @property
    def balance(self) -> float | None:
        """The busiest partition's files over the mean of all that had any: 1.0 is even."""
        counts = [share.ended for share in self.partitions if share.key is not None]
        return max(counts) * len(counts) / sum(counts) if counts and sum(counts) else None


class Ledger(msgspec.Struct, frozen=True):
    """Accepted = completed + failed + cancelled + pending + processing + deleted, if all is well.

    `accepted` counts what the database has given ids to, by the counts that its triggers keep, and tombstones. Three
    kinds of ids do not add up, at most `IDS_MAX` of each: `lost` waits, but neither the outbox nor Kafka has it;
    `unfounded` is completed without an object's key; `stale` has been in progress for an hour without a word.
    """

    counts: dict[Status, int]
    deleted: int
    in_outbox: int
    lost: list[int]
    unfounded: list[int]
    stale: list[int]

    @property
    def accepted(self) -> int:
        """All requests ever."""
        return sum(self.counts.values()) + self.deleted

    @property
    def clean(self) -> bool:
        """Whether every id adds up."""
        return not (self.lost or self.unfounded or self.stale)


_FIRST = "FILTER (WHERE run = 1 AND status = 'completed')"
_CUTS = "percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {name}) " + _FIRST
_SHARES = sa.text(f"""
    WITH recent AS (
        SELECT date_bin(CAST(:bin AS interval), finished_at, TIMESTAMPTZ '2000-01-01') AS bin, finished_at, run, status,
               worker_id, kafka_partition,
               CAST(extract(epoch FROM started_at - created_at) AS float8) AS wait,
               CAST(extract(epoch FROM finished_at - started_at) AS float8) AS processing,
               CAST(extract(epoch FROM finished_at - created_at) AS float8) AS whole
        FROM files
        WHERE finished_at > now() - CAST(:period AS interval) AND status IN ('completed', 'failed')
        ORDER BY finished_at DESC LIMIT :most
    )
    SELECT grouping(bin, worker_id, kafka_partition), bin, worker_id, kafka_partition,
           count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
           {_CUTS.format(name="wait")}, {_CUTS.format(name="processing")}, {_CUTS.format(name="whole")},
           min(finished_at)
    FROM recent
    GROUP BY GROUPING SETS ((bin), (worker_id), (kafka_partition), ())
    ORDER BY 1, 2, 3, 4
""")  # noqa: S608 - only the names of columns are put in
# What `grouping` says of a row: a bit for each column that it is not grouped by.
_BIN, _WORKER, _PARTITION, _TOTAL = 0b011, 0b101, 0b110, 0b111
_UPLOADS = sa.text("""
    SELECT count(*) FROM worker_events
    WHERE at > CAST(:since AS timestamptz) AND kind IN ('retrying', 'parked') AND body->>'stage' = 'upload'
""")
_NOW = sa.select(sa.func.now())


def performance(connection: sa.Connection, period: timedelta) -> Performance:
    """How files fared over the last `period`."""
    as_of = connection.execute(_NOW).scalar_one()
    width = period / BINS
    found: dict[int, list[PerformanceRow]] = {_BIN: [], _WORKER: [], _PARTITION: [], _TOTAL: []}
    since = as_of - period
    for row in connection.execute(_SHARES, {"bin": width, "period": period, "most": FILES_MAX}):
        kind = row[0]
        key = {_BIN: row[1], _WORKER: row[2], _PARTITION: row[3], _TOTAL: None}[kind]
        found[kind].append(PerformanceRow(key, row[4], row[5], _cut(row[6]), _cut(row[7]), _cut(row[8])))
        if kind == _TOTAL and row[4] + row[5] >= FILES_MAX:
            since = row[9]
    nothing = PerformanceRow(None, 0, 0, *(Percentiles(None, None, None) for _ in range(3)))
    failures = connection.execute(_UPLOADS, {"since": since}).scalar_one()
    total = found[_TOTAL][0] if found[_TOTAL] else nothing
    seconds = width.total_seconds()
    return Performance(as_of, since, seconds, total, found[_BIN], found[_WORKER], found[_PARTITION], failures)


def _cut(values: Sequence[Any] | None) -> Percentiles:
    return (
        Percentiles(None, None, None)
        if values is None
        else Percentiles(*(None if value is None else float(value) for value in values))
    )


_DELETED = sa.text("SELECT count(*) FROM tombstones")
_IN_OUTBOX = sa.text("SELECT count(*) FROM outbox")
# What was accepted a moment ago may be anywhere between two of these reads.
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
    """Whether all that was accepted is accounted for, by the rows alone; `verify` asks Kafka and S3, too."""
    most = {"most": IDS_MAX}
    return Ledger(
        count_statuses(connection).by_status,
        connection.execute(_DELETED).scalar_one(),
        connection.execute(_IN_OUTBOX).scalar_one(),
        *(list(connection.execute(query, most).scalars()) for query in (_LOST, _UNFOUNDED, _STALE)),
    )
