"""What the pages read: each question asked once for all viewers, the last good answer kept.

A page reads `current()`, in the process's own thread pool: a server that hangs costs a page its patience, never more.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka.topic_browser import BrowseQuery, BrowseResult, browse
from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.dead_letters import DeadLetter
from filemill.domain.files import Status
from filemill.domain.worker_events import WorkerCondition, WorkerEvent
from filemill.errors import Unavailable
from filemill.queries.dead_letters import DeadLetterContent, DeadLetterSnapshot
from filemill.queries.file_timeline import FileTimeline, file_timeline
from filemill.queries.files import LIMIT_DEFAULT, FilePage, get_file, list_files
from filemill.queries.group import LagHistory, Overview, lag_history, overview
from filemill.queries.history import AuditEntry, OwnershipHistory, audit_entries, ownership, stack_audit_entries
from filemill.queries.outbox import OutboxHistory, outbox_history
from filemill.queries.performance import Ledger, Performance, ledger, performance
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
from filemill.runtime.stack_state import StackState
from filemill.services.faults import FaultEndRecorder, journal_of
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.cache import Cached, CachedValue, K, T
from filemill_dashboard.state.downloads import ObjectPreview, read_preview
from filemill_dashboard.state.health import LABELS, ServerHealth, ServerName, check
from filemill_dashboard.state.jobs import Jobs
from filemill_dashboard.state.lab_cache import LabCache
from filemill_dashboard.state.services import Services
from filemill_dashboard.state.setup_facts import Topic, postgres_version, topics

TTL_SECONDS = 1.0
PATIENCE_SECONDS = 1.5
OBJECT_TTL_SECONDS = 30.0
LETTERS_TTL_SECONDS = 3.0
LETTER_CONTENTS = 8
# The first reading of a long topic takes its time.
LETTERS_PATIENCE_SECONDS = 4.0
SETUP_TTL_SECONDS = 5.0
HEALTH_TTL_SECONDS = 2.0
# A probe that takes longer than this is shown as under way; the page does not wait for it.
HEALTH_PATIENCE_SECONDS = 0.5
RATE_SECONDS = 60.0
# Two samples closer than this say nothing about a rate.
RATE_LEAST_SECONDS = 3.0
HISTORY_POINTS = 300
LEDGER_TTL_SECONDS = 5.0
# The periods, in seconds, that pages offer.
PERIODS = (300, 900, 3600, 21_600, 86_400)
BACKGROUND_SECONDS = 2.0


@dataclass(frozen=True)
class FileQuery:
    """A view of the list: what its URL says."""

    status: Status | None = None
    search: str = ""
    cursor: str | None = None
    oldest_first: bool = False
    limit: int = LIMIT_DEFAULT


@dataclass(frozen=True)
class Rates:
    """Files per second over the last minute or less; None until there are two samples to compare."""

    accepted: float | None = None
    completed: float | None = None
    failed: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """What every page shows of the pipeline."""

    overview: Overview
    rates: Rates


class _Meter:
    """Rates by comparing exact counts over time. Deltas, so a file that is deleted or retried counts as nothing."""

    def __init__(self) -> None:
        self._samples: deque[tuple[datetime, dict[Status, int]]] = deque()
        self._lock = threading.Lock()

    def take(self, now: Overview) -> Snapshot:
        """Add a sample; rates since the oldest that is kept."""
        with self._lock:
            self._samples.append((now.as_of, now.counts.by_status))
            while now.as_of - self._samples[0][0] > timedelta(seconds=RATE_SECONDS):
                self._samples.popleft()
            then, before = self._samples[0]
        seconds = (now.as_of - then).total_seconds()
        if seconds < RATE_LEAST_SECONDS:
            return Snapshot(now, Rates())
        after = now.counts.by_status
        return Snapshot(
            now,
            Rates(
                accepted=max(0, sum(after.values()) - sum(before.values())) / seconds,
                completed=max(0, after[Status.COMPLETED] - before[Status.COMPLETED]) / seconds,
                failed=max(0, after[Status.FAILED] - before[Status.FAILED]) / seconds,
            ),
        )


class WorkerPage(msgspec.Struct, frozen=True):
    """A page of a list of workers, and how many of each condition there are on all pages."""

    items: list[WorkerView]
    counts: dict[WorkerCondition, int]


def _worker_page(connection: sa.Connection, query: WorkerQuery) -> WorkerPage:
    return WorkerPage(list_workers(connection, query), count_workers(connection, query))


class PageData:
    """The readings of one process. Any thread may ask."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._pool = ThreadPoolExecutor(4, "reading")
        self._probes = ThreadPoolExecutor(len(LABELS), "probe")
        self._meter = _Meter()
        self.jobs = Jobs(on_end=self.invalidate)
        self._snapshot = self._shared(self._read_snapshot, TTL_SECONDS)
        self._files = self._shared(self._read_files, TTL_SECONDS)
        self._file = self._asked(get_file)
        self._story = self._asked(file_timeline)
        self._workers: Cached[WorkerQuery, WorkerPage] = self._asked(_worker_page)
        self._hands = self._asked(worker_files)
        self._spoken = self._asked(worker_events)
        self._performance = {period: self._asked(_over(performance, period), _ttl(period)) for period in PERIODS}
        self._ledger: Cached[str, Ledger] = self._asked(lambda connection, _key: ledger(connection), LEDGER_TTL_SECONDS)
        self._ownership = {period: self._asked(self._ownership_over(period), _ttl(period)) for period in PERIODS}
        self._marks = {period: self._asked(_over(stack_audit_entries, period), _ttl(period)) for period in PERIODS}
        self._acts: Cached[str, list[AuditEntry]] = self._asked(_over(audit_entries, PERIODS[-1]))
        self._topics: Cached[str, list[Topic]] = self._shared(lambda _key: topics(services), SETUP_TTL_SECONDS)
        self._version: Cached[str, str] = self._shared(lambda _key: postgres_version(services), OBJECT_TTL_SECONDS)
        self._browsed: Cached[BrowseQuery, BrowseResult] = Cached(
            lambda look: browse(services.settings, services.kafka.offsets(None, look.topic), look),
            self._pool,
            ttl_seconds=TTL_SECONDS * 2,
            wait_seconds=LETTERS_PATIENCE_SECONDS,
            max_keys=16,
        )
        self._letters: Cached[str, DeadLetterSnapshot] = self._shared(
            lambda _key: services.dead_letters.read(services.kafka), LETTERS_TTL_SECONDS, LETTERS_PATIENCE_SECONDS
        )
        # A few payloads, each of which may have two megabytes.
        self._letter_contents: Cached[tuple[int, int], DeadLetterContent | None] = Cached(
            lambda place: services.dead_letters.content(services.kafka, place),
            self._pool,
            ttl_seconds=OBJECT_TTL_SECONDS,
            wait_seconds=LETTERS_PATIENCE_SECONDS,
            max_keys=LETTER_CONTENTS,
        )
        self._stack: Cached[str, StackState | None] = self._shared(lambda _key: services.stack(), TTL_SECONDS)
        self._faults: Cached[str, list[JournalEntry]] = self._shared(lambda _key: self._read_faults(), TTL_SECONDS)
        self.lab = LabCache(services.settings.results.absolute(), self._shared)
        self._object: Cached[tuple[int, str], ObjectPreview | None] = self._shared(
            self._read_object, OBJECT_TTL_SECONDS
        )
        # A bin of a long history lasts for minutes: there is nothing new in it each second.
        self._lags = {
            period: self._shared(self._read_lags, min(10.0, max(TTL_SECONDS, period / HISTORY_POINTS / 4)))
            for period in PERIODS
        }
        self._outbox = {period: self._asked(self._outbox_over(period), _ttl(period)) for period in PERIODS}
        self._health: Cached[ServerName, ServerHealth] = Cached(
            lambda server: check(services, server),
            self._probes,
            ttl_seconds=HEALTH_TTL_SECONDS,
            wait_seconds=HEALTH_PATIENCE_SECONDS,
            refresh_in_background=True,
        )

    def snapshot(self) -> CachedValue[Snapshot]:
        """Counts, outbox, group, lags, rates."""
        return self._snapshot.get("")

    def files(self, query: FileQuery) -> CachedValue[FilePage]:
        """One view of the list. Raises InvalidCursor."""
        return self._files.get(query)

    def file(self, file_id: int) -> CachedValue[FileRow | None]:
        """One file, whole; the value is None where there is none of that id."""
        return self._file.get(file_id)

    def file_timeline(self, file_id: int) -> CachedValue[FileTimeline]:
        """All that is known of one file."""
        return self._story.get(file_id)

    def workers(self, query: WorkerQuery) -> CachedValue[WorkerPage]:
        """Some of the file processors, as they report themselves, and how many there are."""
        return self._workers.get(query)

    def worker_files(self, worker_id: str) -> CachedValue[list[FileInProgress]]:
        """What a worker has in progress."""
        return self._hands.get(worker_id)

    def worker_events(self, worker_id: str) -> CachedValue[list[WorkerEvent]]:
        """What a worker said of late, its heartbeats left out."""
        return self._spoken.get(worker_id)

    def performance(self, period_seconds: int) -> CachedValue[Performance]:
        """How files fared over one of the periods that the page offers."""
        return self._performance[period_seconds].get("")

    def ledger(self) -> CachedValue[Ledger]:
        """What was accepted, and where it is."""
        return self._ledger.get("")

    def ownership(self, period_seconds: int) -> CachedValue[OwnershipHistory]:
        """What workers told of their partitions."""
        return self._ownership[period_seconds].get("")

    def chart_operations(self, period_seconds: int) -> list[AuditEntry]:
        """What people did to workers, topics and the group: the marks of a chart."""
        return self._marks[period_seconds].get("").value or []

    def operations(self) -> CachedValue[list[AuditEntry]]:
        """What people did within a day, newest first."""
        return self._acts.get("")

    def topics(self) -> CachedValue[list[Topic]]:
        """Our topics and their partitions."""
        return self._topics.get("")

    def postgres_version(self) -> CachedValue[str]:
        """The database's version."""
        return self._version.get("")

    def browse(self, look: BrowseQuery) -> CachedValue[BrowseResult]:
        """Some records of a topic."""
        return self._browsed.get(look)

    def dead_letters(self) -> CachedValue[DeadLetterSnapshot]:
        """The dead letters, oldest first."""
        return self._letters.get("")

    def dead_letter_content(self, letter: DeadLetter) -> CachedValue[DeadLetterContent | None]:
        """A dead letter's payload, headers and trace; the value is None where the record is gone."""
        return self._letter_contents.get(letter.latest)

    def stack(self) -> StackState | None:
        """The embedded stack that this page belongs to; None where it belongs to none."""
        return self._stack.get("").value

    def faults(self) -> CachedValue[list[JournalEntry]]:
        """The faults of the embedded stack's journal, newest first; none where there is no such stack."""
        return self._faults.get("")

    def object_preview(self, file_id: int, key: str) -> CachedValue[ObjectPreview | None]:
        """The beginning of a file's object; the value is None where it is missing."""
        return self._object.get((file_id, key))

    def _read_object(self, what: tuple[int, str]) -> ObjectPreview | None:
        file_id, key = what
        with self.services.reading() as connection:
            file = get_file(connection, file_id)
        return None if file is None else read_preview(self.services, file, key)

    def lag_history(self, period_seconds: int) -> CachedValue[LagHistory]:
        """Lag per partition over one of the periods that the page offers."""
        return self._lags[period_seconds].get(period_seconds)

    def outbox_history(self, period_seconds: int) -> CachedValue[OutboxHistory]:
        """The outbox over one of the periods that the page offers."""
        return self._outbox[period_seconds].get("")

    def health(self) -> dict[ServerName, CachedValue[ServerHealth]]:
        """Each server's latest probe."""
        return {server: self._health.get(server) for server in LABELS}

    def invalidate(self) -> None:
        """Read anew the next time: something was just accepted here."""
        for reading in (self._snapshot, self._files, self._file, self._story, self._letters):
            reading.invalidate()

    def run_background(self, stop: threading.Event) -> None:
        """Take a snapshot now and then though nobody looks, so that the first who does finds rates.

        And put on record how the faults ended that a page has injected.
        """
        recorder = FaultEndRecorder()
        while not stop.wait(BACKGROUND_SECONDS):
            self.snapshot()
            with contextlib.suppress(Unavailable):  # the next round goes on
                recorder.record(self.services.engine, self.faults().value or [])

    def close(self) -> None:
        """Read no more; what is under way is not waited for."""
        for pool in (self._pool, self._probes):
            pool.shutdown(wait=False, cancel_futures=True)

    def _shared(
        self, read: Callable[[K], T], ttl_seconds: float, patience_seconds: float = PATIENCE_SECONDS
    ) -> Cached[K, T]:
        return Cached(read, self._pool, ttl_seconds=ttl_seconds, wait_seconds=patience_seconds)

    def _asked(self, ask: Callable[[sa.Connection, K], T], ttl_seconds: float = TTL_SECONDS) -> Cached[K, T]:
        """A question to the database."""

        def read(key: K) -> T:
            with self.services.reading() as connection:
                return ask(connection, key)

        return self._shared(read, ttl_seconds)

    def _read_faults(self) -> list[JournalEntry]:
        stack = self.services.stack()
        return journal_of(stack) if stack is not None else []

    def _read_snapshot(self, _key: str) -> Snapshot:
        with self.services.reading() as connection:
            settings = self.services.settings
            return self._meter.take(
                overview(
                    connection,
                    settings.group_id,
                    processing_seconds=settings.longest_job_seconds,
                    session_seconds=settings.session_timeout_ms / 1000,
                )
            )

    def _read_files(self, query: FileQuery) -> FilePage:
        with self.services.reading() as connection:
            return list_files(
                connection,
                status=query.status,
                search=query.search,
                cursor=query.cursor,
                limit=query.limit,
                excerpts=True,
                oldest_first=query.oldest_first,
            )

    def _ownership_over(self, period: int) -> Callable[[sa.Connection, str], OwnershipHistory]:
        group = self.services.settings.group_id
        return lambda connection, _key: ownership(connection, group, timedelta(seconds=period))

    def _outbox_over(self, period: int) -> Callable[[sa.Connection, str], OutboxHistory]:
        interval = self.services.settings.monitor_interval_seconds
        return lambda connection, _key: outbox_history(
            connection, timedelta(seconds=period), interval_seconds=interval, points=HISTORY_POINTS
        )

    def _read_lags(self, period_seconds: int) -> LagHistory:
        settings = self.services.settings
        with self.services.reading() as connection:
            return lag_history(
                connection,
                settings.group_id,
                timedelta(seconds=period_seconds),
                interval_seconds=settings.monitor_interval_seconds,
                points=HISTORY_POINTS,
            )


def _over(ask: Callable[[sa.Connection, timedelta], T], period: int) -> Callable[[sa.Connection, str], T]:
    return lambda connection, _key: ask(connection, timedelta(seconds=period))


def _ttl(period: int) -> float:
    """Of a long period there is nothing new in it each second, and asking costs more."""
    return max(2.0, min(15.0, period / 120))


_lock = threading.Lock()
_current: PageData | None = None


def current() -> PageData:
    """The readings of the process's services."""
    global _current  # noqa: PLW0603 - Streamlit runs pages as scripts: nothing can be handed to them
    services = services_module.current()
    with _lock:
        if _current is None or _current.services is not services:
            _current = PageData(services)
        return _current
