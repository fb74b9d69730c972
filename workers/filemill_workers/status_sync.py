"""Status sync.

Reads   `file.progress`, `file.created` and `worker.events`, all partitions, from positions stored in Postgres.
Writes  the files' statuses, `workers`, `worker_events` and those positions, in one transaction; `rejected_messages`.
Dies    anywhere: a batch and its positions are stored together or not at all; the next leader continues from there.

A topic that was recreated is read from its beginning. Applying an event twice has no effect.

Several may run: the lease makes one the leader. If a process is paused for longer than its lease, its transaction is
rejected. So no event is applied by two, and no position goes back.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from filemill.domain.files import StatusUpdate
from filemill.domain.messages import FileCreated, FileProgress, decode, decode_created
from filemill.domain.record_time import RecordClock
from filemill.domain.records import Record
from filemill.domain.signatures import ResultSigner, as_foreign
from filemill.domain.worker_events import WorkerEvent, decode_event
from filemill.errors import InvalidMessage, NotLeader, Unavailable, UnusableData
from filemill.ports import (
    ApplyResult,
    Clock,
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
# Events of this period are applied in one transaction.
BATCHING_SECONDS = 0.05
# The period after a batch of at least BUSY_RECORDS. Transactions and reads would otherwise take most of the CPU of the
# sync at a thousand events a second (docs/performance-log.md).
BUSY_BATCHING_SECONDS = 0.2
BUSY_RECORDS = 50
# How often the client's queue is emptied meanwhile.
COLLECT_SECONDS = 0.01
REFRESH_SECONDS = 3.0
BACKOFF_SECONDS = 0.5
REASON_MAX_CHARACTERS = 600


class StatusSync:
    """Applies events to rows. One thread. `state` is active, standby, or waiting and for what."""

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
        signer: ResultSigner | None = None,
        clock: Clock = time.monotonic,
        batching_seconds: float = BATCHING_SECONDS,
        busy_batching_seconds: float = BUSY_BATCHING_SECONDS,
    ) -> None:
        """`reader` creates a reader of all three topics. `batch`: the number of records in a transaction at most.

        `signer`: results without its signature count as those of a foreign service; None: no result is checked.
        A batch waits for further records for `batching_seconds`, or `busy_batching_seconds` after a large batch.
        """
        self._batching_seconds = batching_seconds
        self._busy_batching_seconds = busy_batching_seconds
        self._busy = False  # the last batch was large
        self._store = store
        self._lease = lease
        self._new_reader = reader
        self._topic_created = topic_created
        self._topic_worker_events = topic_worker_events
        self._batch = batch
        self._signer = signer or ResultSigner()
        self._renew_seconds = lease_seconds / 3
        self._clock = clock
        self._record_clock = RecordClock(clock)
        self._reader: TopicReader | None = None
        self._renewed_at = self._refreshed_at = float("-inf")
        self._unapplied: list[Record] = []
        self._term: int | None = None  # the fencing number that it is active under
        self.state = ""

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Sync until `stop` is set; unreachable servers are retried. `on_cycle` is called in each cycle."""
        try:
            while not stop.is_set():
                on_cycle()
                try:
                    if not self.step():
                        stop.wait(STANDBY_SECONDS)
                except NotLeader:
                    self.become_standby()
                except Unavailable as error:
                    self._set_state(f"waiting: {error}")
                    stop.wait(BACKOFF_SECONDS)
        finally:
            self.close()

    def step(self) -> bool:
        """Run one cycle; returns False if another process is the leader. Raises Unavailable, NotLeader."""
        now = self._clock()
        if now - self._renewed_at >= self._renew_seconds:
            if not self._lease.acquire():
                self.become_standby()
                return False
            if self._lease.fencing != self._term:
                self._reset()  # another leader may have advanced the positions meanwhile
                self._term = self._lease.fencing
            self._renewed_at = now
        if self._reader is None:
            self._reader = self._new_reader()
            self._refreshed_at = float("-inf")
            self._set_state("active")
        # Not while records wait to be applied: their positions belong to the topics that they were read from.
        if now - self._refreshed_at >= REFRESH_SECONDS and not self._unapplied:
            asked_at = self._clock()
            self._record_clock.synchronize(self._store.now(), asked_at)
            topics = self._reader.identities()
            self._reader.refresh(self._store.positions(topics), topics)
            self._refreshed_at = now
        # Records are kept until they are applied, however long Postgres is unreachable.
        if not self._unapplied:
            try:
                self._unapplied = self._read_batch(self._reader)
                self._record_clock.observe(self._unapplied, to_the_end=len(self._unapplied) < self._batch)
            except Unavailable:
                self._drop_reader()  # it has advanced past records that are lost now: a new one begins at the positions
                raise
        if self._unapplied:
            self._apply(self._unapplied)
            self._unapplied = []
            self._renewed_at = now
            self._set_state("active")
        return True

    def become_standby(self) -> None:
        """Drop the reader and its records. Call it if `step` raises NotLeader."""
        self._reset()
        self._renewed_at = float("-inf")
        self._set_state("standby")

    def close(self) -> None:
        """Close the reader and release the lease. The positions are stored already."""
        self._drop_reader()
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("Stopped without releasing the lease; it will expire", error=str(error))

    def _read_batch(self, reader: TopicReader) -> list[Record]:
        records = reader.read(self._batch, IDLE_SECONDS)
        if not records:
            self._busy = False
            return records
        deadline = self._clock() + (self._busy_batching_seconds if self._busy else self._batching_seconds)
        while len(records) < self._batch and (left := deadline - self._clock()) > 0:
            time.sleep(min(left, COLLECT_SECONDS))
            records += reader.read(self._batch - len(records), 0)
        self._busy = len(records) >= BUSY_RECORDS
        return records

    def _apply(self, records: Sequence[Record]) -> None:
        """Apply a batch. If the database refuses a value, apply each record alone and skip the refused ones."""
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
        decoded = self._decode(records)
        positions = {(record.topic, record.partition): record.offset + 1 for record in records}
        updates = [update for _, update in decoded.updates]
        applied = self._store.apply(updates, positions, decoded.rejected, decoded.events)
        inapplicable = _inapplicable(decoded, applied)
        if inapplicable:
            self._store.apply((), {}, inapplicable)
        if rejected := [*decoded.rejected, *inapplicable]:
            log.warning("Skipped events", count=len(rejected), first=rejected[0].reason)
        statuses = Counter(str(update.status) for update in updates)
        log.debug("Updated files", changed=applied.changed, **statuses)

    def _decode(self, records: Sequence[Record]) -> "_DecodedBatch":
        decoded = _DecodedBatch()
        for record in records:
            try:
                record.require_readable_headers()
                if record.topic == self._topic_worker_events:
                    event = _with_store_time(decode_event(record.value), self._record_clock.time_of(record))
                    decoded.events.append(ReceivedEvent(record.partition, record.offset, event))
                elif record.topic == self._topic_created:
                    result = self._result(record)
                    decoded.updates.append((record, result.status_update(self._record_clock.time_of(record))))
                else:
                    decoded.updates.append(
                        (record, decode(record.value, FileProgress).status_update(self._record_clock.time_of(record)))
                    )
            except InvalidMessage as error:
                readable = record.headers_error is None
                code = RejectionCode.INVALID_MESSAGE if readable else RejectionCode.HEADERS_UNREADABLE
                decoded.rejected.append(_rejected(record, str(error), code))
            except Exception as error:  # no record stops the ones after it
                log.exception("A record could not be interpreted", topic=record.topic, offset=record.offset)
                reason = f"{type(error).__name__}: {error}"
                decoded.rejected.append(_rejected(record, reason, RejectionCode.NOT_INTERPRETED))
        return decoded

    def _result(self, record: Record) -> FileCreated:
        """The result of a record, with what its sender may state. Raises InvalidMessage."""
        result = decode_created(record.value)
        if self._signer.accepts(record.topic, record.value or b"", record.headers):
            return result
        return as_foreign(result)

    def _reset(self) -> None:
        self._drop_reader()
        self._unapplied = []

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            log.info("Sync", state=state)


class _DecodedBatch(msgspec.Struct):
    """The content of a batch of records."""

    updates: list[tuple[Record, StatusUpdate]] = []
    events: list[ReceivedEvent] = []
    rejected: list[RejectedRecord] = []


def _rejected(record: Record, reason: str, code: RejectionCode) -> RejectedRecord:
    return RejectedRecord(record.topic, record.partition, record.offset, reason[:REASON_MAX_CHARACTERS], code)


def _with_store_time(event: WorkerEvent, at: datetime) -> WorkerEvent:
    """The event with the time of the store's clock, and the skew of its sender's clock."""
    skew = round((event.timestamp - at).total_seconds(), 3)
    return msgspec.structs.replace(event, timestamp=at, skew_seconds=skew)


def _inapplicable(decoded: _DecodedBatch, applied: ApplyResult) -> list[RejectedRecord]:
    """The updates that name an id that no row has, another file's object, or a run that has not begun."""
    if not applied.unknown_ids and not applied.rejected:
        return []
    missing = set(applied.unknown_ids)
    found: list[RejectedRecord] = []
    for index, (record, update) in enumerate(decoded.updates):
        if (rejected := applied.rejected.get(index)) is not None:
            found.append(_rejected(record, rejected.reason, rejected.code))
        elif update.file_id in missing:
            found.append(_rejected(record, f"no file has the id {update.file_id}", RejectionCode.UNKNOWN_FILE))
    return found
