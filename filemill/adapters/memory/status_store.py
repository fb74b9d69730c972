"""Fake of the port StatusStore."""

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
from filemill.ports import ApplyResult, ReceivedEvent, RejectedRecord

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
        """The database's clock."""
        with self._database.transaction():
            return self._database.now()

    def positions(self, topics: Mapping[str, TopicIdentity] | None = None) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition, as far as it is of these topics."""
        with self._database.transaction():
            self._generations |= {
                topic: self._database.generation(topic, identity) for topic, identity in (topics or {}).items()
            }
            of = self._database.position_generations
            return {
                place: offset
                for place, offset in self._database.positions.items()
                if of.get(place, 1) == self._generations.get(place[0], of.get(place, 1))
            }

    def apply(
        self,
        updates: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord] = (),
        events: Sequence[ReceivedEvent] = (),
    ) -> ApplyResult:
        """Apply what supersedes, store events and move the positions."""
        with self._database.transaction():
            self._lease.fence()
            if any((change.attempt or 0) > INT32_MAX for change in updates):
                raise UnusableData("integer out of range")
            changed, unknown = 0, set()
            refused = self._refused(updates)
            for change in coalesce([change for place, change in enumerate(updates) if place not in refused]):
                row = self._database.files.get(change.file_id)
                if row is None:
                    unknown.add(change.file_id)
                elif supersedes(change, CurrentState(row.run, row.status, row.progress_at)):
                    _change(row, change)
                    changed += 1
            self._database.positions.update(positions)
            self._database.position_generations |= {place: self._generations.get(place[0], 1) for place in positions}
            for each in rejected:
                if self._is_new(each.topic, each.partition, each.offset):
                    self._database.rejected[each.topic, each.partition, each.offset] = each.reason
            for heard in events:
                if self._is_new(self._topic_worker_events, heard.partition, heard.offset):
                    self._database.events[heard.partition, heard.offset] = heard.event
            return ApplyResult(changed, sorted(unknown), refused)

    def _refused(self, changes: Sequence[StatusUpdate]) -> dict[int, str]:
        """Changes that cannot be true, by their place."""
        refused: dict[int, str] = {}
        taken = {canonical_key(row.s3_location): row.id for row in self._database.files.values() if row.s3_location}
        for place, change in enumerate(changes):
            row = self._database.files.get(change.file_id)
            try:
                key = check_key_owner(change.file_id, change.s3_location) if change.s3_location is not None else None
            except InvalidObjectKey as error:
                refused[place] = str(error)
                continue
            if key is not None and taken.setdefault(key, change.file_id) != change.file_id:
                refused[place] = f"s3Location is the key of file {taken[key]}"
            elif row is not None and change.run is not None and change.run > row.run:
                refused[place] = f"run {change.run} of file {row.id} was never begun: the file is in run {row.run}"
        return refused

    def _is_new(self, topic: str, partition: int, offset: int) -> bool:
        generation = self._generations.get(topic, 1)
        known = self._database.stored_of.get((topic, partition, offset))
        self._database.stored_of[topic, partition, offset] = generation
        return known != generation


def _change(row: MemoryFile, change: StatusUpdate) -> None:
    """What a statement says; what it does not say stays, save what only the end of a run can know."""
    row.status = change.status
    row.error = change.error
    for name in ("partition", "offset", "attempt", "steps", "started_at"):
        value = getattr(change, name)
        if value is not None:
            setattr(row, name, value)
    if change.status.terminal:
        row.s3_location, row.worker_id = change.s3_location, change.worker_id
        row.sha256, row.size, row.finished_at = change.sha256, change.size, change.at
    else:
        row.s3_location, row.worker_id = change.s3_location or row.s3_location, change.worker_id or row.worker_id
        row.finished_at = None
    if change.status is Status.PROCESSING:
        row.progress_at = change.at
    done = row.steps if change.status is Status.COMPLETED else change.step
    row.step = row.step if done is None and change.status is not Status.COMPLETED else done
