"""Fakes of the ports to Postgres and S3: for unit tests, and for trying an idea without a server.

`tests/contract` holds them to what the real ones do. A server that is away is a sentence in `away`: until it is None
again, every call raises Unavailable with it. Kafka's fakes are in memory_kafka.py.
"""

import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from filemill.domain.files import (
    Change,
    ForeignKey,
    NewFile,
    Standing,
    Status,
    canonical_key,
    claim_key,
    fold,
    supersedes,
    to_milliseconds,
)
from filemill.domain.messages import new_traceparent
from filemill.domain.partitioning import slots
from filemill.domain.records import TopicIdentity
from filemill.domain.worker_events import WorkerEvent
from filemill.errors import AlreadyExists, NotFound, NotLeader, Unavailable, UnusableData
from filemill.ports import Applied, Claimed, HeardEvent, Published, PutMode, Rejected, StoredObject

LIST_PAGE = 1000
INT32_MAX = 2**31 - 1


class MemoryFile(msgspec.Struct):
    """A row of `files`. Kafka's partition and offset under the port's names."""

    id: int
    title: str
    description: str
    created_at: datetime
    status: Status = Status.PENDING
    run: int = 1
    s3_location: str | None = None
    sha256: str | None = None
    size: int | None = None
    worker_id: str | None = None
    partition: int | None = None
    offset: int | None = None
    attempt: int | None = None
    step: int | None = None
    steps: int | None = None
    progress_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None


class MemoryRequest(msgspec.Struct):
    """A row of the outbox. `number` and `partition` are None until it is claimed."""

    id: int
    file_id: int
    run: int
    traceparent: str
    number: int | None = None
    partition: int | None = None
    generation: int = 1


class _Held(msgspec.Struct):
    holder: str
    fencing: int
    expires_at: float


class MemoryDatabase:
    """What one Postgres database holds; leases, outboxes and status stores share it. Any thread.

    `clock` gives seconds, for the leases; `now` is the time of day.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.clock = clock
        self.now = now
        self.away: str | None = None
        self.files: dict[int, MemoryFile] = {}
        self.outbox: dict[int, MemoryRequest] = {}
        self.next_number = 1
        self.publications: dict[int, Published] = {}  # by publish number
        self.leases: dict[str, _Held] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.position_generations: dict[tuple[str, int], int] = {}
        self.topics: dict[str, list[TopicIdentity]] = {}  # those that a name has had
        self.abandoned: dict[int, int] = {}  # file ids, by publish number
        # By topic, partition and offset, and by partition and offset: of the topic that was last read there.
        self.rejected: dict[tuple[str, int, int], str] = {}
        self.events: dict[tuple[int, int], WorkerEvent] = {}
        self.stored_of: dict[tuple[str, int, int], int] = {}  # the topic's number, by those places
        self._file_ids, self._outbox_ids = itertools.count(1), itertools.count(1)  # never given twice
        self._lock = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One at a time. The fakes raise, if they do, before they write: there is nothing to roll back."""
        with self._lock:
            if self.away is not None:
                raise Unavailable(self.away)
            yield

    def submit(self, files: Sequence[NewFile], requested_at: datetime | None = None) -> list[int]:
        """Accept requests, as `postgres_outbox.submit_many` does; returns their ids."""
        with self.transaction():
            created_at = to_milliseconds(requested_at or datetime.now(UTC))
            rows = [MemoryFile(next(self._file_ids), file.title, file.description, created_at) for file in files]
            for row in rows:
                self.files[row.id] = row
                self.queue(row.id)
            return [row.id for row in rows]

    def retry(self, file_id: int) -> None:
        """Begin a file's next run, as `postgres_operations.retry_files` does."""
        with self.transaction():
            row = self.files[file_id]
            self.files[file_id] = MemoryFile(
                row.id,
                row.title,
                row.description,
                row.created_at,
                run=row.run + 1,
                s3_location=row.s3_location,
                sha256=row.sha256,
                size=row.size,
            )
            self.queue(file_id, row.run + 1)

    def generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number of this topic among those of its name, from 1."""
        known = self.topics.setdefault(topic, [])
        number = next((place for place, one in enumerate(known, 1) if one.same(identity)), None)
        if number is None:
            known.append(identity)
        return number or len(known)

    def queue(self, file_id: int, run: int = 1) -> None:
        """Put a file's run into the outbox."""
        place = next(self._outbox_ids)
        self.outbox[place] = MemoryRequest(place, file_id, run, new_traceparent())


class MemoryLease:
    """One process's view of the lease `name`. (port: Lease)."""

    def __init__(self, database: MemoryDatabase, name: str, holder: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self.fencing: int | None = None

    def acquire(self) -> bool:
        """Renew, or take where it is free or expired."""
        with self._database.transaction():
            if self._renew():
                return True
            self.fencing = None
            held, now = self._database.leases.get(self._name), self._database.clock()
            if held is None or held.expires_at <= now:
                self.fencing = held.fencing + 1 if held else 1
                self._database.leases[self._name] = _Held(self._holder, self.fencing, now + self._seconds)
            return self.fencing is not None

    def fence(self) -> None:
        """Prove, at the beginning of a transaction of the holder's work, that it is ours. Raises NotLeader."""
        if not self._renew():
            self.fencing = None
            raise NotLeader(f"{self._holder} does not hold the lease {self._name!r} any more")

    def release(self) -> None:
        """Let it expire now."""
        if self.fencing is None:
            return
        with self._database.transaction():
            if self._renew():
                self._database.leases[self._name].expires_at = self._database.clock()
        self.fencing = None

    def _renew(self) -> bool:
        held, now = self._database.leases.get(self._name), self._database.clock()
        if held is None or (held.holder, held.fencing) != (self._holder, self.fencing) or held.expires_at <= now:
            return False
        held.expires_at = now + self._seconds
        return True


class MemoryOutbox:
    """The outbox of one database, for the holder of `lease`. (port: Outbox)."""

    def __init__(self, database: MemoryDatabase, lease: MemoryLease) -> None:
        self._database = database
        self._lease = lease

    def generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number of this topic among those of its name."""
        with self._database.transaction():
            return self._database.generation(topic, identity)

    def give_up(self, rows: Sequence[Claimed]) -> int:
        """Take their numbers away, on record."""
        with self._database.transaction():
            self._lease.fence()
            given = [
                (row, kept)
                for row in rows
                if (kept := self._database.outbox.get(row.outbox_id)) and kept.number == row.publish_number
            ]
            for row, kept in given:
                self._database.abandoned[row.publish_number] = row.file_id
                kept.number = kept.partition = None
            return len(given)

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[Claimed]:
        """Number the oldest rows."""
        with self._database.transaction():
            waiting = [row for row in self._database.outbox.values() if row.number is None][:limit]
            if not waiting:
                return []
            self._lease.fence()
            places = slots(self._database.next_number, len(waiting), partitions)
            self._database.next_number += len(waiting)
            for row, place in zip(waiting, places, strict=True):
                row.number, row.partition, row.generation = place.number, place.partition, generation
            return [self._claimed(row, row.number or 0) for row in waiting]

    def claimed(self, limit: int, after: int = 0) -> list[Claimed]:
        """Rows numbered above `after` and not settled."""
        with self._database.transaction():
            rows = [self._claimed(row, row.number) for row in self._database.outbox.values() if row.number is not None]
        rows.sort(key=lambda row: row.publish_number)
        return [row for row in rows if row.publish_number > after][:limit]

    def settle(self, published: Sequence[Published]) -> None:
        """Delete, and note the offset."""
        with self._database.transaction():
            for row in published:
                kept = self._database.outbox.get(row.claimed.outbox_id)
                if kept is not None and kept.number == row.claimed.publish_number:
                    del self._database.outbox[row.claimed.outbox_id]
                    self._database.publications.setdefault(row.claimed.publish_number, row)

    def _claimed(self, row: MemoryRequest, number: int) -> Claimed:
        file = self._database.files[row.file_id]
        return Claimed(
            row.id,
            number,
            row.partition or 0,
            row.file_id,
            row.run,
            file.title,
            file.description,
            file.created_at,
            row.traceparent,
            row.generation,
        )


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
        changes: Sequence[Change],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[Rejected] = (),
        events: Sequence[HeardEvent] = (),
    ) -> Applied:
        """Apply what supersedes, store events and move the positions."""
        with self._database.transaction():
            self._lease.fence()
            if any((change.attempt or 0) > INT32_MAX for change in changes):
                raise UnusableData("integer out of range")
            changed, unknown = 0, set()
            refused = self._refused(changes)
            for change in fold([change for place, change in enumerate(changes) if place not in refused]):
                row = self._database.files.get(change.file_id)
                if row is None:
                    unknown.add(change.file_id)
                elif supersedes(change, Standing(row.run, row.status, row.progress_at)):
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
            return Applied(changed, sorted(unknown), refused)

    def _refused(self, changes: Sequence[Change]) -> dict[int, str]:
        """Changes that cannot be true, by their place."""
        refused: dict[int, str] = {}
        taken = {canonical_key(row.s3_location): row.id for row in self._database.files.values() if row.s3_location}
        for place, change in enumerate(changes):
            row = self._database.files.get(change.file_id)
            try:
                key = claim_key(change.file_id, change.s3_location) if change.s3_location is not None else None
            except ForeignKey as error:
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


def _change(row: MemoryFile, change: Change) -> None:
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


class MemoryObjectStore:
    """A bucket. (port: ObjectStore)."""

    def __init__(self) -> None:
        self.away: str | None = None
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.puts: list[str] = []  # the keys, in the order of the writes

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object whole, if the mode allows it."""
        self._answer()
        if mode == "create" and key in self.objects:
            raise AlreadyExists(key)
        self.objects[key] = body
        self.metadata[key] = dict(metadata)
        self.puts.append(key)

    async def get(self, key: str) -> bytes:
        """An object's bytes."""
        self._answer()
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]

    async def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, a page at a time."""
        self._answer()
        keys = sorted(self.objects, key=str.encode)
        for start in range(0, len(keys), LIST_PAGE):
            yield [StoredObject(key, len(self.objects[key])) for key in keys[start : start + LIST_PAGE]]

    def _answer(self) -> None:
        if self.away is not None:
            raise Unavailable(self.away)
