"""The data that the pages show, cached for all viewers of this process.

Pages call `current()`. Reads run in thread pools, so a server that hangs delays a page by at most `WAIT_SECONDS`. Each
server has a pool of its own: reads that wait for one server must not delay those of another, or of this machine.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka.topic_browser import BrowseQuery, BrowseResult, browse
from filemill.adapters.postgres.file_rows import FileRow
from filemill.config.settings import Settings
from filemill.domain.dead_letters import DeadLetter
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import Status
from filemill.domain.queues import DEFAULT_QUEUE, Queue
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, WorkerCondition, WorkerEvent
from filemill.errors import Unavailable
from filemill.queries.attempts import HandlerAttempt, attempt_log, handler_attempts
from filemill.queries.audit import AuditEntryRow, AuditFilter, AuditQuery, audit_choices, audit_page
from filemill.queries.dead_letters import DeadLetterContent, DeadLetterSnapshot
from filemill.queries.file_timeline import FileTimeline, file_timeline
from filemill.queries.files import (
    LIMIT_DEFAULT,
    FileDetails,
    FilePage,
    StatusCounts,
    count_statuses_matching,
    file_details,
    get_file,
    list_files,
)
from filemill.queries.group import LagHistory, lag_history
from filemill.queries.handlers import HandlerView, live_handlers
from filemill.queries.history import AuditEntry, OwnershipHistory, audit_entries, ownership, stack_audit_entries
from filemill.queries.outbox import OutboxHistory, outbox_history
from filemill.queries.overview import Overview, overview
from filemill.queries.performance import Ledger, Performance, ledger, performance
from filemill.queries.queues import QueueState, queue_states
from filemill.queries.workers import (
    FileInProgress,
    WorkerQuery,
    WorkerView,
    count_workers,
    list_workers,
    worker_events,
    worker_files,
)
from filemill.runtime.journal import JournalEntry
from filemill.runtime.process_history import ProcessStep, process_history
from filemill.runtime.stack_state import StackState
from filemill.services.faults import FaultEndRecorder, active_fault, journal_of
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.cache import CachedValue, K, KeyedCache, T
from filemill_dashboard.state.deletions import Deletions
from filemill_dashboard.state.downloads import CheckpointState, ObjectPreview, read_checkpoint, read_preview
from filemill_dashboard.state.health import LABELS, HealthCode, ServerHealth, ServerName, check
from filemill_dashboard.state.jobs import Jobs
from filemill_dashboard.state.lab_cache import LabCache
from filemill_dashboard.state.principals import page_owner
from filemill_dashboard.state.services import Services
from filemill_dashboard.state.setup_facts import TopicView, postgres_version, topics
from filemill_dashboard.views.visibility import LocalProcess, ShownState, ViewTracker, Visibility, local_processes

# Starts and ends of processes are shown for this long.
PROCESSES_SECONDS = 86_400.0
TTL_SECONDS = 1.0
WAIT_SECONDS = 1.5
OBJECT_TTL_SECONDS = 30.0
CHECKPOINT_TTL_SECONDS = 3.0
DEAD_LETTERS_TTL_SECONDS = 3.0
DEAD_LETTER_CONTENTS_MAX = 8
# The first read of a long topic takes seconds.
DEAD_LETTERS_WAIT_SECONDS = 4.0
SETUP_TTL_SECONDS = 5.0
BROWSE_PAGE_TTL_SECONDS = 60.0
BROWSE_SCAN_SECONDS = 2.0
HEALTH_TTL_SECONDS = 2.0
# A page does not wait longer than this for a health check.
HEALTH_WAIT_SECONDS = 0.5
# The thread pools, and the number of threads of each.
_POOLS = {"postgres": 4, "kafka": 3, "s3": 2, "local": 2, "lab": 2, "health": len(LABELS)}
RATE_SECONDS = 60.0
# Two samples closer than this give no meaningful rate.
RATE_SECONDS_MIN = 3.0
HISTORY_POINTS = 300
LEDGER_TTL_SECONDS = 5.0
# The periods, in seconds, that pages offer.
PERIODS = (300, 900, 3600, 21_600, 86_400)
BACKGROUND_SECONDS = 1.0
# The people and actions that the filters of the audit log offer.
AUDIT_CHOICES_PERIOD = timedelta(days=30)


# The row of a file, with or without its parameters; a missing one is None.
V = TypeVar("V", FileRow | None, FileDetails | None)


@dataclass(frozen=True)
class FileQuery:
    """A page of the list of files: filter, search, order and position."""

    status: Status | None = None
    search: str = ""
    cursor: str | None = None
    oldest_first: bool = False
    limit: int = LIMIT_DEFAULT
    queue: str = ""
    owner: str | None = None


@dataclass(frozen=True)
class Rates:
    """Files per second over the last `seconds`, a minute or less; None until there are two samples."""

    accepted: float | None = None
    completed: float | None = None
    failed: float | None = None
    seconds: float = RATE_SECONDS


@dataclass(frozen=True)
class Snapshot:
    """The state of the pipeline that every page shows."""

    overview: Overview
    rates: Rates


class _RateMeter:
    """Rates from the differences of exact counts over time. Deletions change no rate; retries make none negative."""

    def __init__(self) -> None:
        self._samples: deque[tuple[datetime, StatusCounts]] = deque()
        self._lock = threading.Lock()

    def add(self, now: Overview) -> Snapshot:
        """Add a sample; returns it with the rates since the oldest sample kept."""
        with self._lock:
            self._samples.append((now.as_of, now.counts))
            while now.as_of - self._samples[0][0] > timedelta(seconds=RATE_SECONDS):
                self._samples.popleft()
            then, before = self._samples[0]
        seconds = (now.as_of - then).total_seconds()
        if seconds < RATE_SECONDS_MIN:
            return Snapshot(now, Rates())
        after = now.counts
        return Snapshot(
            now,
            Rates(
                accepted=max(0, after.accepted - before.accepted) / seconds,
                completed=max(0, after.ever(Status.COMPLETED) - before.ever(Status.COMPLETED)) / seconds,
                failed=max(0, after.ever(Status.FAILED) - before.ever(Status.FAILED)) / seconds,
                seconds=seconds,
            ),
        )


class WorkerPage(msgspec.Struct, frozen=True):
    """A page of the list of workers, and the number of workers by condition on all pages."""

    items: list[WorkerView]
    counts: dict[WorkerCondition, int]


def _worker_page(connection: sa.Connection, query: WorkerQuery) -> WorkerPage:
    return WorkerPage(list_workers(connection, query), count_workers(connection, query))


def _job(connection: sa.Connection, file_id: int) -> FileDetails | None:
    row = get_file(connection, file_id)
    return None if row is None else file_details(connection, row)


def _queues_of(settings: Settings) -> list[Queue]:
    """The queues with the groups that their processors join."""
    return [
        msgspec.structs.replace(queue, group=settings.of_queue(queue.name).group_id)
        for queue in settings.all_queues.values()
    ]


def _audit_page(connection: sa.Connection, query: AuditQuery) -> list[AuditEntryRow]:
    return audit_page(connection, query.wanted, before=query.before, limit=query.limit + 1, whole=False)


def _audit_entry(connection: sa.Connection, sequence: int) -> AuditEntryRow | None:
    found = audit_page(connection, AuditFilter(), before=sequence + 1, limit=1)
    return found[0] if found and found[0].sequence == sequence else None


class PageData:
    """The cached data of one process. Any thread."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._pools = {name: ThreadPoolExecutor(threads, f"page-{name}") for name, threads in _POOLS.items()}
        self._rate_meter = _RateMeter()
        self.jobs = Jobs(on_end=self.invalidate)
        self._view_tracker = ViewTracker()
        self._database_fails = False  # by the latest read of the snapshot, which is the first of each page
        self._unreachable: frozenset[str] = frozenset()  # servers, by the latest look
        self._view_lock = threading.Lock()
        self.deletions = Deletions(services.operations.delete, on_end=self.invalidate)
        self._snapshot = self._cached(self._read_snapshot, TTL_SECONDS)
        self._files = self._cached(self._read_files, TTL_SECONDS, hurried=lambda: self._database_fails)
        self._matching_counts: KeyedCache[FileSelection, StatusCounts] = self._cached_query(count_statuses_matching)
        self._file = self._cached_query(get_file)
        self._file_timeline = self._cached_query(file_timeline)
        self._job: KeyedCache[int, FileDetails | None] = self._cached_query(_job)
        self._attempts: KeyedCache[int, list[HandlerAttempt]] = self._cached_query(handler_attempts)
        self._attempt_log: KeyedCache[tuple[int, str], str | None] = self._cached_query(attempt_log, OBJECT_TTL_SECONDS)
        self._checkpoint: KeyedCache[int, CheckpointState | None] = self._cached(
            self._read_checkpoint, CHECKPOINT_TTL_SECONDS, pool="s3"
        )
        self._handlers: KeyedCache[str, list[HandlerView]] = self._cached_query(
            lambda connection, _key: live_handlers(connection)
        )
        self._queues: KeyedCache[str, list[QueueState]] = self._cached_query(
            lambda connection, _key: queue_states(connection, _queues_of(services.settings), DEAD_AFTER_SECONDS)
        )
        self._workers: KeyedCache[WorkerQuery, WorkerPage] = self._cached_query(_worker_page)
        self._worker_files = self._cached_query(worker_files)
        self._worker_events = self._cached_query(worker_events)
        self._performance = {
            period: self._cached_query(_for_period(performance, period), _ttl(period)) for period in PERIODS
        }
        self._ledger: KeyedCache[str, Ledger] = self._cached_query(
            lambda connection, _key: ledger(connection), LEDGER_TTL_SECONDS
        )
        self._ownership = {
            period: self._cached_query(self._ownership_query(period), _ttl(period)) for period in PERIODS
        }
        self._chart_operations = {
            period: self._cached_query(_for_period(stack_audit_entries, period), _ttl(period)) for period in PERIODS
        }
        self._operations: KeyedCache[str, list[AuditEntry]] = self._cached_query(
            _for_period(audit_entries, PERIODS[-1])
        )
        self._audit: KeyedCache[AuditQuery, list[AuditEntryRow]] = self._cached_query(_audit_page)
        self._audit_entry: KeyedCache[int, AuditEntryRow | None] = self._cached_query(_audit_entry, OBJECT_TTL_SECONDS)
        self._audit_choices: KeyedCache[str, tuple[list[str], list[str]]] = self._cached_query(
            lambda connection, _key: audit_choices(connection, AUDIT_CHOICES_PERIOD), SETUP_TTL_SECONDS
        )
        self._topics: KeyedCache[str, list[TopicView]] = self._cached(
            lambda _key: topics(services), SETUP_TTL_SECONDS, hurried=self._kafka_fails, pool="kafka"
        )
        self._version: KeyedCache[str, str] = self._cached(lambda _key: postgres_version(services), OBJECT_TTL_SECONDS)
        self._browse_results = self._browse_cache(TTL_SECONDS * 2, 0.0)
        # A page after the first does not change, so it may take longer to read.
        self._browse_pages = self._browse_cache(BROWSE_PAGE_TTL_SECONDS, BROWSE_SCAN_SECONDS)
        self._dead_letters: KeyedCache[str, DeadLetterSnapshot] = self._cached(
            lambda _key: services.dead_letters.read(services.kafka),
            DEAD_LETTERS_TTL_SECONDS,
            DEAD_LETTERS_WAIT_SECONDS,
            hurried=self._kafka_fails,
            pool="kafka",
        )
        # Only a few payloads, because each may have two megabytes.
        self._dead_letter_contents: KeyedCache[tuple[int, int], DeadLetterContent | None] = KeyedCache(
            lambda position: services.dead_letters.content(services.kafka, position),
            self._pools["kafka"],
            ttl_seconds=OBJECT_TTL_SECONDS,
            wait_seconds=DEAD_LETTERS_WAIT_SECONDS,
            max_keys=DEAD_LETTER_CONTENTS_MAX,
            hurried=self._kafka_fails,
        )
        self._stack: KeyedCache[str, StackState | None] = self._cached(
            lambda _key: services.stack(), TTL_SECONDS, pool="local"
        )
        self._processes: KeyedCache[str, list[ProcessStep]] = self._cached(
            lambda _key: self._read_processes(), TTL_SECONDS, pool="local"
        )
        self._faults: KeyedCache[str, list[JournalEntry]] = self._cached(
            lambda _key: self._read_faults(), TTL_SECONDS, pool="local"
        )
        self.lab = LabCache(services.settings.results.absolute(), partial(self._cached, pool="lab"))
        self._object: KeyedCache[tuple[int, str], ObjectPreview | None] = self._cached(
            self._read_object, OBJECT_TTL_SECONDS, pool="s3"
        )
        # A bin of a long history lasts for minutes, so it needs no refresh each second.
        self._lags = {
            period: self._cached(
                self._read_lags,
                min(10.0, max(TTL_SECONDS, period / HISTORY_POINTS / 4)),
                hurried=lambda: self._database_fails,
            )
            for period in PERIODS
        }
        self._outbox = {period: self._cached_query(self._outbox_query(period), _ttl(period)) for period in PERIODS}
        self._health: KeyedCache[ServerName, ServerHealth] = KeyedCache(
            lambda server: check(services, server),
            self._pools["health"],
            ttl_seconds=HEALTH_TTL_SECONDS,
            wait_seconds=HEALTH_WAIT_SECONDS,
            refresh_in_background=True,
        )

    def snapshot(self) -> CachedValue[Snapshot]:
        """Counts, outbox, group, lags and rates."""
        reading = self._snapshot.get("")
        self._database_fails = reading.error is not None
        return reading

    def files(self, query: FileQuery) -> CachedValue[FilePage]:
        """A page of the list of files that the viewer may see. Raises InvalidCursor."""
        return self._files.get(replace(query, owner=page_owner()))

    def matching_counts(self, search: str, queue: str = "") -> CachedValue[StatusCounts]:
        """The number of files per status that match a search in a queue ("": any), of those that the viewer may see."""
        return self._matching_counts.get(FileSelection(None, search, queue, owner=page_owner()))

    def file(self, file_id: int) -> CachedValue[FileRow | None]:
        """The row of a file; the value is None if there is none that the viewer may see."""
        return _visible(self._file.get(file_id))

    def job(self, file_id: int) -> CachedValue[FileDetails | None]:
        """A file with the parameters and inputs of its request; the value is None if the viewer may see none."""
        return _visible(self._job.get(file_id))

    def attempts(self, file_id: int) -> CachedValue[list[HandlerAttempt]]:
        """The attempts of a file's handler that have ended, newest first."""
        return self._attempts.get(file_id)

    def attempt_log(self, file_id: int, key: str) -> CachedValue[str | None]:
        """The end of an attempt's log; the value is None if it has none."""
        return self._attempt_log.get((file_id, key))

    def checkpoint(self, file_id: int) -> CachedValue[CheckpointState | None]:
        """The stored checkpoint of a file's run; the value is None if there is none."""
        return self._checkpoint.get(file_id)

    def _read_checkpoint(self, file_id: int) -> CheckpointState | None:
        with self.services.connect() as connection:
            file = get_file(connection, file_id)
        return None if file is None else read_checkpoint(self.services, file)

    def handlers(self) -> CachedValue[list[HandlerView]]:
        """The handlers of the running workers."""
        return self._handlers.get("")

    def queues(self) -> CachedValue[list[QueueState]]:
        """The queues with their backlogs."""
        return self._queues.get("")

    def file_timeline(self, file_id: int) -> CachedValue[FileTimeline]:
        """Everything that is stored about a file. One that the viewer may not see looks as if it did not exist."""
        reading, owner = self._file_timeline.get(file_id), page_owner()
        if reading.value is None or owner is None or reading.value.owner == owner:
            return reading
        return replace(reading, value=FileTimeline(as_of=reading.value.as_of, file=None))

    def workers(self, query: WorkerQuery) -> CachedValue[WorkerPage]:
        """A page of the file processors, and their number by condition."""
        return self._workers.get(query)

    def worker_files(self, worker_id: str) -> CachedValue[list[FileInProgress]]:
        """The files that a worker has in progress, of those that the viewer may see."""
        reading, owner = self._worker_files.get(worker_id), page_owner()
        if reading.value is None or owner is None:
            return reading
        return replace(reading, value=[file for file in reading.value if file.owner == owner])

    def worker_events(self, worker_id: str) -> CachedValue[list[WorkerEvent]]:
        """The latest events of a worker, without heartbeats."""
        return self._worker_events.get(worker_id)

    def performance(self, period_seconds: int) -> CachedValue[Performance]:
        """Throughput, latency and failures over one of `PERIODS`."""
        return self._performance[period_seconds].get("")

    def ledger(self) -> CachedValue[Ledger]:
        """The number of accepted files and their statuses."""
        return self._ledger.get("")

    def ownership(self, period_seconds: int, queue: str = DEFAULT_QUEUE) -> CachedValue[OwnershipHistory]:
        """Events and samples about the owners of a queue's partitions over one of `PERIODS`."""
        return self._ownership[period_seconds].get(queue)

    def chart_operations(self, period_seconds: int) -> list[AuditEntry]:
        """Operations on workers, topics and the group over one of `PERIODS`, for the annotations of charts."""
        return self._chart_operations[period_seconds].get("").value or []

    def audit(self, query: AuditQuery) -> CachedValue[list[AuditEntryRow]]:
        """A page of the audit log and one row more, if there is one. Long lists of files are left out."""
        return self._audit.get(query)

    def audit_entry(self, sequence: int) -> CachedValue[AuditEntryRow | None]:
        """A whole row of the audit log; None: there is no such row."""
        return self._audit_entry.get(sequence)

    def audit_choices(self) -> tuple[list[str], list[str]]:
        """The people and the actions of the last 30 days."""
        return self._audit_choices.get("").value or ([], [])

    def operations(self) -> CachedValue[list[AuditEntry]]:
        """The operations of the last 24 hours, newest first."""
        return self._operations.get("")

    def topics(self) -> CachedValue[list[TopicView]]:
        """The topics that filemill uses, and their partitions."""
        return self._topics.get("")

    def postgres_version(self) -> CachedValue[str]:
        """The database's version."""
        return self._version.get("")

    def browse(self, query: BrowseQuery) -> CachedValue[BrowseResult]:
        """Some records of a topic. A filter looks at more records on a page after the first."""
        return (self._browse_pages if query.positions else self._browse_results).get(query)

    def dead_letters(self) -> CachedValue[DeadLetterSnapshot]:
        """The dead letters, oldest first."""
        return self._dead_letters.get("")

    def dead_letter_content(self, letter: DeadLetter) -> CachedValue[DeadLetterContent | None]:
        """The payload, headers and trace of a dead letter; the value is None if the record is gone."""
        return self._dead_letter_contents.get(letter.latest)

    def stack(self) -> StackState | None:
        """The embedded stack that this process belongs to; None if it belongs to none."""
        return self._stack.get("").value

    def faults(self) -> CachedValue[list[JournalEntry]]:
        """The faults in the journal of the embedded stack, newest first; empty without such a stack."""
        return self._faults.get("")

    def process_steps(self) -> list[ProcessStep]:
        """Starts and ends of the processes of the embedded stack in the last 24 hours, oldest first."""
        return self._processes.get("").value or []

    def active_faults(self) -> dict[str, JournalEntry]:
        """The faults that last now on the servers of the embedded stack, by server."""
        stack, entries = self.stack(), self.faults().value or []
        found = {server: active_fault(stack, entries, server) for server in LABELS}
        return {server: fault for server, fault in found.items() if fault is not None}

    def object_preview(self, file_id: int, key: str) -> CachedValue[ObjectPreview | None]:
        """The beginning of a file's object; the value is None if it is missing."""
        return self._object.get((file_id, key))

    def _read_object(self, key: tuple[int, str]) -> ObjectPreview | None:
        file_id, object_key = key
        with self.services.connect() as connection:
            file = get_file(connection, file_id)
        return None if file is None else read_preview(self.services, file, object_key)

    def lag_history(self, period_seconds: int, queue: str = DEFAULT_QUEUE) -> CachedValue[LagHistory]:
        """Lag per partition of a queue over one of `PERIODS`."""
        return self._lags[period_seconds].get((period_seconds, queue))

    def outbox_history(self, period_seconds: int) -> CachedValue[OutboxHistory]:
        """The outbox over one of `PERIODS`."""
        return self._outbox[period_seconds].get("")

    def health(self) -> dict[ServerName, CachedValue[ServerHealth]]:
        """The latest health check of each server."""
        return {server: self._health.get(server) for server in LABELS}

    def visibility(self) -> Visibility:
        """Which servers are unreachable, and for how long nothing has obstructed the view of workers and the group."""
        snapshot, health = self.snapshot(), self.health()
        unreachable: set[str] = {name for name, reading in health.items() if _is_unreachable(reading)}
        if snapshot.error is not None:
            unreachable.add("postgres")
        unreachable |= self.active_faults().keys()  # known at once; a check takes seconds
        self._unreachable = frozenset(unreachable)
        sync = snapshot.value.overview.leases.get("sync") if snapshot.value is not None else None
        with self._view_lock:
            return self._view_tracker.observe(
                time.monotonic(),
                frozenset(unreachable),
                sync_active=sync is not None and sync.held,
                checked_seconds_ago=health["kafka"].age_seconds or 0.0,
            )

    def worker_states(self, workers: Sequence[WorkerView]) -> dict[str, ShownState]:
        """The states of workers as far as they are known now, by id."""
        visibility, processes = self.visibility(), self.local_processes()
        return {worker.id: visibility.worker_state(worker, processes.get(worker.id)) for worker in workers}

    def local_processes(self) -> dict[str, LocalProcess]:
        """The processes of the workers of this machine's stack, by worker id; empty without such a stack."""
        return local_processes(self.stack())

    def invalidate(self) -> None:
        """Refresh files, dead letters and counts at the next read, because this process has changed something."""
        for cached in (
            self._snapshot,
            self._files,
            self._matching_counts,
            self._file,
            self._file_timeline,
            self._job,
            self._dead_letters,
        ):
            cached.invalidate()

    def invalidate_workers(self) -> None:
        """Refresh the list of workers at the next read."""
        self._workers.invalidate()

    def run_background(self, stop: threading.Event) -> None:
        """Read snapshots without viewers, so that the first one sees rates; record the end of faults in the audit log.

        Returns when `stop` is set.
        """
        recorder = FaultEndRecorder()
        while not stop.wait(BACKGROUND_SECONDS):
            self.visibility()
            with contextlib.suppress(Unavailable):  # the next round tries again
                recorder.record(self.services.engine, self.faults().value or [])

    def close(self) -> None:
        """Start no more reads; does not wait for those in progress."""
        self.deletions.undo()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _browse_cache(self, ttl_seconds: float, scan_seconds: float) -> KeyedCache[BrowseQuery, BrowseResult]:
        services = self.services

        def read(query: BrowseQuery) -> BrowseResult:
            partitions = services.kafka.offsets(None, query.topic)
            return browse(services.settings, partitions, query, scan_seconds=scan_seconds)

        return KeyedCache(
            read,
            self._pools["kafka"],
            ttl_seconds=ttl_seconds,
            wait_seconds=DEAD_LETTERS_WAIT_SECONDS,
            max_keys=16,
            hurried=self._kafka_fails,
        )

    def _kafka_fails(self) -> bool:
        return "kafka" in self._unreachable

    def _cached(
        self,
        read: Callable[[K], T],
        ttl_seconds: float,
        wait_seconds: float = WAIT_SECONDS,
        hurried: Callable[[], bool] = lambda: False,
        pool: str = "postgres",
    ) -> KeyedCache[K, T]:
        """A cache in front of a read, which runs in this pool."""
        return KeyedCache(read, self._pools[pool], ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, hurried=hurried)

    def _cached_query(
        self, query: Callable[[sa.Connection, K], T], ttl_seconds: float = TTL_SECONDS
    ) -> KeyedCache[K, T]:
        """A cache in front of a database query."""

        def read(key: K) -> T:
            with self.services.connect() as connection:
                return query(connection, key)

        return self._cached(read, ttl_seconds, hurried=lambda: self._database_fails)

    def _read_processes(self) -> list[ProcessStep]:
        stack = self.services.stack()
        return process_history(Path(stack.home), time.time() - PROCESSES_SECONDS) if stack is not None else []

    def _read_faults(self) -> list[JournalEntry]:
        stack = self.services.stack()
        return journal_of(stack) if stack is not None else []

    def _read_snapshot(self, _key: str) -> Snapshot:
        with self.services.connect() as connection:
            settings = self.services.settings
            return self._rate_meter.add(
                overview(
                    connection,
                    settings.group_id,
                    processing_seconds=settings.longest_job_seconds,
                    session_seconds=settings.session_timeout_ms / 1000,
                )
            )

    def _read_files(self, query: FileQuery) -> FilePage:
        with self.services.connect() as connection:
            return list_files(
                connection,
                FileSelection(query.status, query.search, query.queue, owner=query.owner),
                cursor=query.cursor,
                limit=query.limit,
                excerpts=True,
                oldest_first=query.oldest_first,
            )

    def _ownership_query(self, period: int) -> Callable[[sa.Connection, str], OwnershipHistory]:
        settings = self.services.settings
        return lambda connection, queue: ownership(
            connection, settings.of_queue(queue).group_id, timedelta(seconds=period), queue
        )

    def _outbox_query(self, period: int) -> Callable[[sa.Connection, str], OutboxHistory]:
        interval = self.services.settings.monitor_interval_seconds
        return lambda connection, _key: outbox_history(
            connection, timedelta(seconds=period), interval_seconds=interval, points=HISTORY_POINTS
        )

    def _read_lags(self, key: tuple[int, str]) -> LagHistory:
        period_seconds, queue = key
        settings = self.services.settings.of_queue(queue)
        with self.services.connect() as connection:
            return lag_history(
                connection,
                settings.group_id,
                timedelta(seconds=period_seconds),
                interval_seconds=settings.monitor_interval_seconds,
                points=HISTORY_POINTS,
            )


def _visible(reading: CachedValue[V]) -> CachedValue[V]:
    """The row of a file, or no value if the viewer may not see it."""
    value, owner = reading.value, page_owner()
    return reading if value is None or owner in (None, value.owner) else replace(reading, value=None)


def _is_unreachable(reading: CachedValue[ServerHealth]) -> bool:
    return reading.value is not None and reading.value.code is HealthCode.UNREACHABLE


def _for_period(query: Callable[[sa.Connection, timedelta], T], period: int) -> Callable[[sa.Connection, str], T]:
    return lambda connection, _key: query(connection, timedelta(seconds=period))


def _ttl(period: int) -> float:
    """The time to live: long periods change slowly, and their queries cost more."""
    return max(2.0, min(15.0, period / 120))


_lock = threading.Lock()
_current: PageData | None = None


def current() -> PageData:
    """The page data of the process's services."""
    global _current  # noqa: PLW0603 - Streamlit runs pages as scripts, which take no arguments
    services = services_module.current()
    with _lock:
        if _current is None or _current.services is not services:
            _current = PageData(services)
        return _current
