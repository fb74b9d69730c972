"""In-memory StatusStore."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from filemill.adapters.memory.database import MemoryDatabase, MemoryFile
from filemill.adapters.memory.lease import MemoryLease
from filemill.domain.files import (
    CurrentState,
    InvalidObjectKey,
    Status,
    StatusUpdate,
    canonical_key,
    check_key_owner,
    coalesce,
    supersedes,
)
from filemill.domain.records import TopicIdentity
from filemill.errors import UnusableData
from filemill.ports import ApplyResult, ReceivedEvent, RejectedRecord, RejectedUpdate, RejectionCode

INT32_MAX = 2**31 - 1


class MemoryStatusStore:
    """The rows of one database, for the holder of `lease`. (port: StatusStore)."""

    def __init__(
        self, database: MemoryDatabase, lease: MemoryLease, topic_worker_events: str = "worker.events"
    ) -> None:
        self._database = database
        self._lease = lease
        self._topic_worker_events = topic_worker_events
        self._generations: dict[str, int] = {}

    def now(self) -> datetime:
        """The time of day, by the database's clock."""
        with self._database.transaction():
            return self._database.now()

    def positions(self, topics: Mapping[str, TopicIdentity] | None = None) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition; without positions of former topics of a name."""
        with self._database.transaction():
            self._generations |= {
                topic: self._database.generation(topic, identity) for topic, identity in (topics or {}).items()
            }
            stored = self._database.position_generations
            return {
                key: offset
                for key, offset in self._database.positions.items()
                if stored.get(key, 1) == self._generations.get(key[0], stored.get(key, 1))
            }

    def apply(
        self,
        updates: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord] = (),
        events: Sequence[ReceivedEvent] = (),
    ) -> ApplyResult:
        """Apply the updates that supersede, store events and move the positions."""
        with self._database.transaction():
            self._lease.fence()
            if any((update.attempt or 0) > INT32_MAX for update in updates):
                raise UnusableData("integer out of range")
            unknown = set()
            rejections = self._rejections(updates)
            usable = [update for index, update in enumerate(updates) if index not in rejections]
            applied: set[int] = set()
            for update in coalesce(usable):
                row = self._database.files.get(update.file_id)
                if row is None:
                    unknown.add(update.file_id)
                elif supersedes(update, CurrentState(row.run, row.status, row.progress_at)):
                    _update_row(row, update)
                    applied.add(id(update))
            self._store_deliveries([one for one in usable if id(one) not in applied or not one.status.terminal])
            self._database.positions.update(positions)
            self._database.position_generations |= {key: self._generations.get(key[0], 1) for key in positions}
            for record in rejected:
                if self._is_new(record.topic, record.partition, record.offset):
                    key = record.topic, record.partition, record.offset
                    self._database.rejected[key] = record.reason
                    self._database.rejection_codes[key] = record.code
            for received in events:
                if self._is_new(self._topic_worker_events, received.partition, received.offset):
                    self._database.events[received.partition, received.offset] = received.event
            return ApplyResult(len(applied), sorted(unknown), rejections)

    def _rejections(self, updates: Sequence[StatusUpdate]) -> dict[int, RejectedUpdate]:
        """The updates that cannot be correct, by their index."""
        rejections: dict[int, RejectedUpdate] = {}
        owners = {canonical_key(row.s3_location): row.id for row in self._database.files.values() if row.s3_location}
        for index, update in enumerate(updates):
            row = self._database.files.get(update.file_id)
            try:
                key = check_key_owner(update.file_id, update.s3_location) if update.s3_location is not None else None
            except InvalidObjectKey as error:
                rejections[index] = RejectedUpdate(RejectionCode.FOREIGN_OBJECT, str(error))
                continue
            if key is not None and owners.setdefault(key, update.file_id) != update.file_id:
                reason = f"s3Location is the key of file {owners[key]}"
                rejections[index] = RejectedUpdate(RejectionCode.FOREIGN_OBJECT, reason)
            elif row is not None and update.run is not None and update.run > row.run:
                reason = f"run {update.run} of file {row.id} has not started: the file is in run {row.run}"
                rejections[index] = RejectedUpdate(RejectionCode.FUTURE_RUN, reason)
        return rejections

    def _store_deliveries(self, updates: Sequence[StatusUpdate]) -> None:
        """Store begun deliveries, and results that changed nothing because their run had completed or failed."""
        for update in updates:
            row = self._database.files.get(update.file_id)
            if row is None:
                continue
            run = update.run or row.run
            key = update.file_id, run, update.worker_id, update.stated_start
            if update.status is Status.PROCESSING:
                if update.stated_start is not None and run <= row.run:
                    self._database.deliveries.setdefault(key, False)
            elif run == row.run and row.status in (Status.COMPLETED, Status.FAILED):
                self._database.deliveries[key] = True

    def _is_new(self, topic: str, partition: int, offset: int) -> bool:
        generation = self._generations.get(topic, 1)
        known = self._database.stored_of.get((topic, partition, offset))
        self._database.stored_of[topic, partition, offset] = generation
        return known != generation


def _update_row(row: MemoryFile, update: StatusUpdate) -> None:
    """Store the values of an update. An absent value keeps the row's, except those that only a final status sets."""
    if update.status is Status.PROCESSING and update.worker_id != row.worker_id:
        row.started_at = None  # the start of another worker
    row.status = update.status
    row.error = update.error
    for name in ("partition", "offset", "attempt", "steps", "started_at"):
        value = getattr(update, name)
        if value is not None:
            setattr(row, name, value)
    if update.status.terminal:
        row.s3_location, row.worker_id = update.s3_location, update.worker_id
        row.sha256, row.size, row.finished_at = update.sha256, update.size, update.at
    else:
        row.s3_location, row.worker_id = update.s3_location or row.s3_location, update.worker_id or row.worker_id
        row.finished_at = None
    processing = update.status is Status.PROCESSING
    row.fraction = (row.fraction if update.fraction is None else update.fraction) if processing else None
    row.message = (update.message or row.message) if processing else None
    if update.status.terminal:
        row.content_type = update.content_type
    if processing:
        row.progress_at = update.at
    step = row.steps if update.status is Status.COMPLETED else update.step
    row.step = row.step if step is None and update.status is not Status.COMPLETED else step
