"""The truth about a stack, sampled several times a second: from Kafka, PostgreSQL, S3 and the process table.

Samples are kept with the time in which they were taken. A statement of a page is compared with all samples of a period,
because a page shows what was
true some seconds ago.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psutil
import sqlalchemy as sa

from filemill.adapters.s3.admin import bucket_exists
from filemill.config.settings import Settings, load
from filemill.domain.consumer_groups import GroupDescription
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from tests.acceptance.command import Stack

SAMPLE_SECONDS = 0.3
KEPT_SAMPLES = 600
JOIN_SECONDS = 20.0
TIMEOUT_SECONDS = 1.5
SLOW_SECONDS = 1.2

T = TypeVar("T")


@dataclass(frozen=True)
class Sample(Generic[T]):
    """What was read between two moments, in monotonic seconds; None: the source did not answer."""

    began: float
    ended: float
    value: T | None


class Source(Generic[T]):
    """Reads something in a thread of its own, and keeps the samples. A read that fails is a sample without a value."""

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self._read = read
        self._samples: deque[Sample[T]] = deque(maxlen=KEPT_SAMPLES)
        self._began = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"truth of {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)

    def between(self, since: float, until: float) -> list[Sample[T]]:
        """All samples of a period, with the last one before it and the first one after it, so that no time is missing.

        A read that has not ended for long is a sample without a value.
        """
        kept = list(self._samples)
        if time.monotonic() - self._began > SLOW_SECONDS:
            kept.append(Sample(self._began, time.monotonic(), None))
        earlier = [sample for sample in kept if sample.ended < since]
        later = [sample for sample in kept if sample.began > until]
        return [*earlier[-1:], *(one for one in kept if one.ended >= since and one.began <= until), *later[:1]]

    def values(self, since: float, until: float) -> list[T]:
        """What was read in a period, without failed reads."""
        return [sample.value for sample in self.between(since, until) if sample.value is not None]

    def latest(self) -> T:
        """The last value that was read; waits for it."""
        began = time.monotonic()
        while True:
            found = [one.value for one in list(self._samples) if one.began >= began and one.value is not None]
            if found:
                return found[-1]
            assert time.monotonic() - began < JOIN_SECONDS, "the source does not answer"
            time.sleep(SAMPLE_SECONDS / 4)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._began = time.monotonic()
            value = None
            with suppress(Unavailable, psutil.Error, sa.exc.SQLAlchemyError):
                value = self._read()
            ended = time.monotonic()
            # What was asked before an outage and answered after it says nothing about the time between.
            slow = ended - self._began > SLOW_SECONDS
            self._samples.append(Sample(self._began, ended, None if slow else value))
            self._began = float("inf")
            self._stop.wait(SAMPLE_SECONDS)


Span = tuple[int, int]
# The order in which a file has its statuses; a failed or cancelled one may be retried.
_ORDER = {"pending": 0, "processing": 1, "completed": 2, "failed": 2, "cancelled": 2}


@dataclass(frozen=True)
class GroupTruth:
    """A group and its offsets as the broker has them. Offsets are by partition."""

    group: GroupDescription
    committed: Mapping[int, int]
    ends: Mapping[int, int]

    def lag(self, partition: int) -> int:
        return self.ends[partition] - self.committed.get(partition, 0)

    def lag_until(self, later: "GroupTruth", partition: int) -> Span:
        """The least and the greatest lag between two samples: records may have come before all commits, or after."""
        produced = later.ends[partition] - self.ends[partition]
        committed = max(0, later.committed.get(partition, 0) - self.committed.get(partition, 0))
        lags = self.lag(partition), later.lag(partition)  # a reset moves the commits back
        return min(lags[0] - committed, lags[1]), max(lags[0] + produced, lags[1])

    def total_until(self, later: "GroupTruth") -> Span:
        """The least and the greatest total lag between two samples."""
        spans = [self.lag_until(later, partition) for partition in self.ends]
        return sum(least for least, _ in spans), sum(most for _, most in spans)

    def owned(self, client_id: str) -> set[int]:
        """The partitions of a member; of all memberships of a worker that was restarted."""
        return {part for member in self.group.members if member.client_id == client_id for part in member.partitions}

    def memberships(self, client_id: str) -> list[set[int]]:
        """The partitions of each membership of a worker."""
        return [set(member.partitions) for member in self.group.members if member.client_id == client_id]

    @property
    def members(self) -> set[str]:
        """The client ids of the members."""
        return {member.client_id for member in self.group.members}

    @property
    def state(self) -> str:
        """The broker's state of the group in the words of the page. The client has no name for two states."""
        state = self.group.state.replace("_", " ").lower()
        return "reconciling" if state == "unknown" else state

    @property
    def unowned(self) -> set[int]:
        return set(self.ends) - {part for member in self.group.members for part in member.partitions}


@dataclass(frozen=True)
class TableTruth:
    """Rows of PostgreSQL: files by status, the outbox, the newest files by id, and who holds each lease."""

    by_status: Mapping[str, int]
    outbox: int
    files: Mapping[int, tuple[str, str]]
    leases: Mapping[str, str]

    @property
    def total(self) -> int:
        return sum(self.by_status.values())

    @property
    def resting(self) -> int:
        """The files that can be retried; a retry is a request too."""
        return self.by_status.get("failed", 0) + self.by_status.get("cancelled", 0)

    def outbox_until(self, later: "TableTruth") -> Span:
        """The least and the greatest depth of the outbox between two samples; a row may live for milliseconds."""
        came = max(0, later.total - self.total) + max(0, self.resting - later.resting)
        return max(0, later.outbox - came), self.outbox + came

    def status_until(self, later: "TableTruth", status: str) -> Span:
        """The least and the greatest number of files with a status between two samples."""
        now, then = self.by_status.get(status, 0), later.by_status.get(status, 0)
        if _ORDER[status] == 2:
            return min(now, then), max(now, then)
        came = max(0, later.total - self.total) + max(0, self.resting - later.resting)
        if status == "processing":  # as many as have left `pending` and have ended
            left = self.by_status.get("pending", 0) + came - later.by_status.get("pending", 0)
            came = max(0, left)
        return max(0, then - came), now + came

    def was_in_status(self, later: "TableTruth", file_id: int, status: str) -> bool:
        """Whether a file may have had a status between two samples: one that lies between those of the samples."""
        then = later.files[file_id][0]
        before = self.files[file_id][0] if file_id in self.files else None
        if status in (before, then):
            return True
        return _ORDER[status] < 2 and (-1 if before is None else _ORDER[before]) < _ORDER[status] < _ORDER[then]


@dataclass(frozen=True)
class ProcessTruth:
    """A process of a worker that runs."""

    pid: int
    suspended: bool


_STATUSES = sa.text("SELECT status, count(*) FROM files GROUP BY status")
_OUTBOX = sa.text("SELECT count(*) FROM outbox")
_NEWEST = sa.text("SELECT id, status, title FROM files ORDER BY id DESC LIMIT 200")
_LEASES = sa.text("SELECT name, holder FROM leases WHERE expires_at > clock_timestamp()")


class Truth:
    """All sources of one stack. `quiet` has the times at which all workers were made quiet (True) or resumed."""

    def __init__(self, stack: Stack) -> None:
        self.settings: Settings = load(home=stack.home, server_timeout_seconds=TIMEOUT_SECONDS)
        self.stack = stack
        self.quiet: list[tuple[float, bool]] = []
        self._admin = bootstrap.kafka_admin(self.settings)
        self.engine = bootstrap.create_engine(self.settings, "test")
        self._s3 = bootstrap.s3_client(self.settings)
        self.kafka = Source("Kafka", self._read_kafka)
        self.tables = Source("PostgreSQL", self._read_tables)
        self.s3 = Source("S3", lambda: bucket_exists(self.settings, self._s3))
        self.processes = Source("processes", self._read_processes)
        self.servers: dict[str, Source[Any]] = {"Kafka": self.kafka, "PostgreSQL": self.tables, "S3": self.s3}

    def __enter__(self) -> "Truth":
        for source in (*self.servers.values(), self.processes):
            source.start()
        return self

    def __exit__(self, *_: object) -> None:
        for source in (*self.servers.values(), self.processes):
            source.stop()
        self.engine.dispose()

    def rows(self, sql: str, **parameters: object) -> list[Any]:
        """The rows of a query."""
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(sql), parameters))

    def was_quiet(self, since: float, until: float) -> bool:
        """Whether the workers were quiet at any moment of a period."""
        before = [quiet for at, quiet in self.quiet if at < since]
        return any([*before[-1:], *(quiet for at, quiet in self.quiet if since <= at <= until)])

    def _read_kafka(self) -> GroupTruth:
        settings = self.settings
        offsets = self._admin.offsets(settings.group_id, settings.topic_create)
        group = self._admin.describe_group(settings.group_id, settings.topic_create)
        return GroupTruth(
            group,
            {part.partition: part.committed for part in offsets if part.committed is not None},
            {part.partition: part.end or 0 for part in offsets},
        )

    def _read_tables(self) -> TableTruth:
        with self.engine.begin() as connection:
            return TableTruth(
                {status: int(count) for status, count in connection.execute(_STATUSES)},
                int(connection.execute(_OUTBOX).scalar_one()),
                {row.id: (row.status, row.title) for row in connection.execute(_NEWEST)},
                {row.name: row.holder for row in connection.execute(_LEASES)},
            )

    def _read_processes(self) -> dict[str, ProcessTruth]:
        """The processes that `filemill up` has started, by the worker id in their environment."""
        found = {}
        for process in psutil.Process(self.stack.pid).children():
            with suppress(psutil.Error):
                status = process.status()
                if status != psutil.STATUS_ZOMBIE and (name := process.environ().get("FILEMILL_WORKER_ID")):
                    found[name] = ProcessTruth(process.pid, status == psutil.STATUS_STOPPED)
        return found

    def processors(self) -> dict[str, ProcessTruth]:
        """The processes of the file processors now."""
        return {name: one for name, one in self._read_processes().items() if name.startswith("processor-")}
