"""In-memory database, which the in-memory leases, outboxes and status stores share."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from filemill.domain.files import NewFile, Status, truncate_to_milliseconds
from filemill.domain.messages import new_traceparent
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import TopicIdentity
from filemill.domain.worker_events import WorkerEvent
from filemill.errors import Unavailable
from filemill.ports import PublishedRow, RejectionCode


class MemoryFile(msgspec.Struct):
    """A row of `files`; `partition` and `offset` are named as in the port."""

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
    handler: str = "text"
    parameters: str | None = None
    inputs: dict[str, str] = {}
    queue: str = "default"
    content_type: str | None = None
    fraction: float | None = None
    message: str | None = None


class MemoryOutboxRow(msgspec.Struct):
    """A row of the outbox. `sequence` and `partition` are None until the row is claimed."""

    id: int
    file_id: int
    run: int
    traceparent: str
    sequence: int | None = None
    partition: int | None = None
    generation: int = 1
    queue: str = "default"


class _HeldLease(msgspec.Struct):
    holder: str
    fencing: int
    expires_at: float


class MemoryDatabase:
    """The rows of one database. Any thread.

    `clock` returns seconds, for the leases; `now` returns the time of day. While `outage` has a text, every call raises
    Unavailable with that text.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.clock = clock
        self.now = now
        self.outage: str | None = None
        self.files: dict[int, MemoryFile] = {}
        self.outbox: dict[int, MemoryOutboxRow] = {}
        self.next_sequences: dict[str, int] = {}  # by queue, from 1
        self.publications_of: dict[str, dict[int, PublishedRow]] = {}  # by queue and sequence number
        self.leases: dict[str, _HeldLease] = {}
        self.positions: dict[tuple[str, int], int] = {}
        self.position_generations: dict[tuple[str, int], int] = {}
        self.topics: dict[str, list[TopicIdentity]] = {}  # by name, in the order of their creation
        self.discarded_sequences: dict[int, int] = {}  # file ids, by sequence number
        # By topic, partition and offset, and by partition and offset; only of the newest topic of a name.
        self.rejected: dict[tuple[str, int, int], str] = {}
        self.rejection_codes: dict[tuple[str, int, int], RejectionCode] = {}
        self.events: dict[tuple[int, int], WorkerEvent] = {}
        # Whether its result was repeated, by file, run, worker and start of the delivery.
        self.deliveries: dict[tuple[int, int, str | None, datetime | None], bool] = {}
        self.stored_of: dict[tuple[str, int, int], int] = {}  # the topic's generation, by place
        self._file_ids, self._outbox_ids = itertools.count(1), itertools.count(1)  # never reused
        self._lock = threading.RLock()

    @property
    def next_sequence(self) -> int:
        """The next sequence number of the queue `default`."""
        return self.next_sequences.get(DEFAULT_QUEUE, 1)

    @property
    def publications(self) -> dict[int, PublishedRow]:
        """The publications of the queue `default` by sequence number."""
        return self.publications_of.setdefault(DEFAULT_QUEUE, {})

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction at a time. Callers raise before they write, so there is no rollback."""
        with self._lock:
            if self.outage is not None:
                raise Unavailable(self.outage)
            yield

    def submit(self, files: Sequence[NewFile], requested_at: datetime | None = None) -> list[int]:
        """Accept requests; returns their ids."""
        with self.transaction():
            created_at = truncate_to_milliseconds(requested_at or datetime.now(UTC))
            rows = [
                MemoryFile(
                    next(self._file_ids),
                    file.title,
                    file.description,
                    created_at,
                    handler=file.handler,
                    parameters=file.parameters,
                    inputs=file.inputs,
                    queue=file.queue or DEFAULT_QUEUE,
                )
                for file in files
            ]
            for row in rows:
                self.files[row.id] = row
                self.enqueue(row.id)
            return [row.id for row in rows]

    def retry(self, file_id: int) -> None:
        """Start the next run of a file."""
        with self.transaction():
            row = self.files[file_id]
            if row.started_at is not None and row.worker_id is not None:
                self.deliveries.setdefault((row.id, row.run, row.worker_id, row.started_at), False)
            self.files[file_id] = MemoryFile(
                row.id,
                row.title,
                row.description,
                row.created_at,
                run=row.run + 1,
                s3_location=row.s3_location,
                sha256=row.sha256,
                size=row.size,
                handler=row.handler,
                parameters=row.parameters,
                inputs=row.inputs,
                queue=row.queue,
            )
            self.enqueue(file_id, row.run + 1)

    def generation(self, topic: str, identity: TopicIdentity) -> int:
        """The generation of this topic, counted from 1 among the topics of its name."""
        known = self.topics.setdefault(topic, [])
        generation = next((count for count, one in enumerate(known, 1) if one.is_same_topic(identity)), None)
        if generation is None:
            known.append(identity)
        return generation or len(known)

    def enqueue(self, file_id: int, run: int = 1) -> None:
        """Insert a file's run into the outbox."""
        row_id = next(self._outbox_ids)
        queue = self.files[file_id].queue
        self.outbox[row_id] = MemoryOutboxRow(row_id, file_id, run, new_traceparent(), queue=queue)
