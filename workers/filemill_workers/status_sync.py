"""Status sync.

Reads   `file.progress`, `file.created` and `worker.events`, all partitions, from positions kept in Postgres.
Writes  the files' statuses, `workers`, `worker_events` and those positions, in one transaction; `rejected_messages`.
Dies    anywhere: a batch is in the rows together with its position, or neither is; the successor goes on from there.

A topic that was deleted and created anew is read from its beginning: to apply an event twice changes nothing.

Many may run: the lease makes one active. One that was stopped and wakes after its lease has its transaction refused,
so that no event is applied by two, and no position goes back.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from filemill.domain.files import StatusUpdate
from filemill.domain.messages import FileProgress, decode, decode_created
from filemill.domain.record_time import RecordClock
from filemill.domain.records import Record
from filemill.domain.worker_events import WorkerEvent, decode_event
from filemill.errors import InvalidMessage, NotLeader, Unavailable, UnusableData
from filemill.ports import (
    ApplyResult,
    Lease,
    ReceivedEvent,
    RejectedRecord,
    RejectionCode,
    StatusStore,
    TopicReader,
)

log = structlog.get_logger("sync")

STANDBY_SECONDS = 0.5
IDLE_SECONDS = 0.1
# Events that come within this time of each other go into one transaction.
BATCHING_SECONDS = 0.05
REFRESH_SECONDS = 3.0
BACKOFF_SECONDS = 0.5
REASON_MAX_CHARACTERS = 600


class StatusSync:
    """Applies events to rows. One thread."""

    def __init__(
        self,
        store: StatusStore,
        lease: Lease,
        reader: Callable[[], TopicReader],
        *,
        topic_created: str,
        topic_worker_events: str,
        batch: int,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease = lease
        self._new_reader = reader
        self._topic_created = topic_created
        self._topic_worker_events = topic_worker_events
        self._batch = batch
        self._renew_seconds = lease_seconds / 3
        self._clock = clock
        self._record_clock = RecordClock(clock)
        self._reader: TopicReader | None = None
        self._renewed_at = self._refreshed_at = float("-inf")
        self._unapplied: list[Record] = []
        self._term: int | None = None  # the fencing number that it is active under
        self._state = ""

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Sync until `stop` is set; unreachable servers are retried. `on_cycle` is called in each cycle."""
        try:
            while not stop.is_set():
                on_cycle()
                try:
                    if not self.step():
                        stop.wait(STANDBY_SECONDS)
                except NotLeader:
                    self._become_standby()
                except Unavailable as error:
                    self._set_state(f"waiting: {error}")
                    stop.wait(BACKOFF_SECONDS)
        finally:
            self.close()

    def step(self) -> bool:
        """One round; False where another one is active. Raises Unavailable, NotLeader."""
        now = self._clock()
        if now - self._renewed_at >= self._renew_seconds:
            if not self._lease.acquire():
                self._become_standby()
                return False
            if self._lease.fencing != self._term:
                self._reset()  # another one may have gone further while this one slept
                self._term = self._lease.fencing
            self._renewed_at = now
        if self._reader is None:
            self._reader = self._new_reader()
            self._refreshed_at = float("-inf")
            self._set_state("active")
        # Not over records that wait to be applied: their positions are of the topics that they were read from.
        if now - self._refreshed_at >= REFRESH_SECONDS and not self._unapplied:
            asked_at = self._clock()
            self._record_clock.synchronize(self._store.now(), asked_at)
            topics = self._reader.identities()
            self._reader.refresh(self._store.positions(topics), topics)
            self._refreshed_at = now
        # What was read stays until it is applied: Postgres may be away for as long as it likes.
        if not self._unapplied:
            try:
                self._unapplied = self._read_batch(self._reader)
                self._record_clock.observe(self._unapplied, to_the_end=len(self._unapplied) < self._batch)
            except Unavailable:
                self._drop_reader()  # it is past what it had read by then: a new one begins where the rows are
                raise
        if self._unapplied:
            self._apply(self._unapplied)
            self._unapplied = []
            self._renewed_at = now
            self._set_state("active")
        return True

    def close(self) -> None:
        """Give up the lease; the position is where it belongs already."""
        self._drop_reader()
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("Left without giving up the lease; it expires", error=str(error))

    def _read_batch(self, reader: TopicReader) -> list[Record]:
        records = reader.read(self._batch, IDLE_SECONDS)
        if not records:
            return records
        deadline = self._clock() + BATCHING_SECONDS
        while len(records) < self._batch and (left := deadline - self._clock()) > 0:
            records += reader.read(self._batch - len(records), left)
        return records

    def _apply(self, records: Sequence[Record]) -> None:
        """Apply a batch; where the database refuses a value in it, each record by itself, without the refused ones."""
        try:
            self._apply_whole(records)
        except UnusableData as error:
            if len(records) == 1:
                (record,) = records
                log.warning("Skipped an event", topic=record.topic, offset=record.offset, reason=str(error))
                positions = {(record.topic, record.partition): record.offset + 1}
                reason = f"the database refuses it: {error}"
                self._store.apply((), positions, [_rejected(record, reason, RejectionCode.UNUSABLE_DATA)])
                return
            for record in records:
                self._apply([record])

    def _apply_whole(self, records: Sequence[Record]) -> None:
        reading = self._decode(records)
        positions = {(record.topic, record.partition): record.offset + 1 for record in records}
        changes = [change for _, change in reading.updates]
        applied = self._store.apply(changes, positions, reading.rejected, reading.events)
        untrue = _inapplicable(reading, applied)
        if untrue:
            self._store.apply((), {}, untrue)
        if rejected := [*reading.rejected, *untrue]:
            log.warning("Skipped events", count=len(rejected), first=rejected[0].reason)
        statuses = Counter(str(change.status) for change in changes)
        log.debug("Updated files", changed=applied.changed, **statuses)

    def _decode(self, records: Sequence[Record]) -> "_DecodedBatch":
        reading = _DecodedBatch()
        for record in records:
            try:
                record.require_readable_headers()
                if record.topic == self._topic_worker_events:
                    event = _with_store_time(decode_event(record.value), self._record_clock.time_of(record))
                    reading.events.append(ReceivedEvent(record.partition, record.offset, event))
                elif record.topic == self._topic_created:
                    reading.updates.append(
                        (record, decode_created(record.value).status_update(self._record_clock.time_of(record)))
                    )
                else:
                    reading.updates.append(
                        (record, decode(record.value, FileProgress).status_update(self._record_clock.time_of(record)))
                    )
            except InvalidMessage as error:
                readable = record.headers_error is None
                code = RejectionCode.INVALID_MESSAGE if readable else RejectionCode.HEADERS_UNREADABLE
                reading.rejected.append(_rejected(record, str(error), code))
            except Exception as error:  # whatever a record holds, the ones after it are read
                log.exception("A record could not be interpreted", topic=record.topic, offset=record.offset)
                reason = f"{type(error).__name__}: {error}"
                reading.rejected.append(_rejected(record, reason, RejectionCode.NOT_INTERPRETED))
        return reading

    def _become_standby(self) -> None:
        self._reset()
        self._renewed_at = float("-inf")
        self._set_state("standby")

    def _reset(self) -> None:
        self._drop_reader()
        self._unapplied = []

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _set_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("Sync", state=state)


class _DecodedBatch(msgspec.Struct):
    """What a batch of records says."""

    updates: list[tuple[Record, StatusUpdate]] = []
    events: list[ReceivedEvent] = []
    rejected: list[RejectedRecord] = []


def _rejected(record: Record, reason: str, code: RejectionCode) -> RejectedRecord:
    return RejectedRecord(record.topic, record.partition, record.offset, reason[:REASON_MAX_CHARACTERS], code)


def _with_store_time(event: WorkerEvent, at: datetime) -> WorkerEvent:
    """The event by the store's clock; how far its sender's is from that."""
    skew = round((event.timestamp - at).total_seconds(), 3)
    return msgspec.structs.replace(event, timestamp=at, skew_seconds=skew)


def _inapplicable(reading: _DecodedBatch, applied: ApplyResult) -> list[RejectedRecord]:
    """The changes that name an id that no row has, another file's object, or a run that was never begun."""
    if not applied.unknown_ids and not applied.rejected:
        return []
    missing = set(applied.unknown_ids)
    found: list[RejectedRecord] = []
    for index, (record, update) in enumerate(reading.updates):
        if (rejected := applied.rejected.get(index)) is not None:
            found.append(_rejected(record, rejected.reason, rejected.code))
        elif update.file_id in missing:
            found.append(_rejected(record, f"no file has the id {update.file_id}", RejectionCode.UNKNOWN_FILE))
    return found
