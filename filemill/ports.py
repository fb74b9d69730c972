"""Ports: what the use cases and the workers need of Kafka, Postgres and S3, as protocols.

`filemill.adapters` contains the real implementations and in-memory ones. `tests/contract` runs the same tests on both.

Three offsets of a partition must not be confused:

- The position of a reader is the offset of the next record that it will read. `RecordSource.positions` returns it for a
  member of a group. A `TopicReader` is in no group: its caller stores the positions.
- The committed offset is the group's, stored by the broker. A new owner of the partition begins to read there. All
  records below it are finished. `RecordSource.commit_async` and `commit_sync` store it.
- A record is finished once all its effects are durable. Records finish in any order, so finished offsets may lie above
  the committed offset. `OffsetTracker` derives the committed offset from them, and the metadata of a commit lists those
  above it. In a share group there is no committed offset: each record is acknowledged by itself.
"""

import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from filemill.domain.files import StatusUpdate
from filemill.domain.messages import Headers
from filemill.domain.offsets import Commit
from filemill.domain.records import Record, TopicIdentity
from filemill.domain.worker_events import WorkerEvent

# Returns a time in seconds that never goes back. `time.monotonic` is the real one.
Clock = Callable[[], float]


class DeliveryReport(msgspec.Struct, frozen=True):
    """Partition and offset of a record that the broker stored, or the error.

    `too_large`: the broker will never store this record. `code`: the machine-readable code of the error.
    """

    partition: int
    offset: int
    error: str | None = None
    too_large: bool = False
    code: str | None = None


class Publisher(Protocol):
    """Writes records. `poll` calls the delivery callbacks, on its caller's thread."""

    def publish(
        self,
        topic: str,
        value: bytes | None,
        on_delivery: Callable[[DeliveryReport], None] | None = None,
        *,
        key: str | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Queue a record.

        Raises Unavailable if the queue is full (poll, then retry), PermanentError if the record is too large.
        """

    def poll(self, seconds: float = 0) -> int:
        """Wait up to `seconds` for delivery reports and call their callbacks; returns their number."""

    def flush(self, seconds: float) -> int:
        """Wait up to `seconds` until the queue is empty; returns how many records are left."""

    def partitions(self, topic: str) -> int:
        """The number of partitions, asked of the broker; 0 if the topic does not exist. Raises Unavailable."""


class StoredObject(msgspec.Struct, frozen=True):
    """One object of a listing; `size` in bytes."""

    key: str
    size: int


PutMode = Literal["create", "overwrite"]


class ObjectStore(Protocol):
    """One bucket. Raises Unavailable if the service is unreachable or refuses the credentials."""

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object. In the mode "create", raises AlreadyExists if the key exists and keeps that object.

        A "Content-Type" among the metadata replaces that of a text.
        A service without conditional writes overwrites it in either mode.
        """

    async def get(self, key: str) -> bytes:
        """An object's bytes. Raises NotFound."""

    def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, in pages, ordered by the UTF-8 bytes of their keys."""


class Upload(Protocol):
    """A multipart upload. The object appears when it is completed."""

    async def put_part(self, number: int, data: bytes) -> None:
        """Send a part, counted from 1. All but the last have at least 5 MiB. Raises Unavailable."""

    async def complete(self) -> None:
        """Make the object of the parts. Raises Unavailable."""

    async def abort(self) -> None:
        """Discard the parts. Raises Unavailable."""


class ObjectStreams(Protocol):
    """Objects of any size in the bucket, in bounded memory. Raises Unavailable as ObjectStore does."""

    def chunks(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes, chunk by chunk. Raises NotFound."""

    async def size(self, key: str) -> int | None:
        """The size of an object in bytes; None if it does not exist."""

    async def delete(self, key: str) -> None:
        """Delete an object, if it exists."""

    async def begin_upload(self, key: str, metadata: Mapping[str, str]) -> Upload:
        """Begin a multipart upload."""


class Lease(Protocol):
    """A lease makes one of several processes the leader. Each new holder gets a greater fencing token."""

    @property
    def fencing(self) -> int | None:
        """The token of the current holding. If `acquire` changes it, another process may have led in between."""

    def acquire(self) -> bool:
        """Take the lease if it is free or expired, or renew it; returns whether this process holds it."""

    def release(self) -> None:
        """Release the lease, so that a standby does not wait for its expiry. No effect without the lease."""


class ClaimedRow(msgspec.Struct, frozen=True):
    """An outbox row whose sequence number and partition are stored, with the content of its message.

    `generation`: the generation of the topic that number and partition belong to.
    """

    outbox_id: int
    sequence: int
    partition: int
    file_id: int
    run: int
    title: str
    description: str
    requested_at: datetime
    traceparent: str
    generation: int = 1
    handler: str = "text"
    parameters: str | None = None  # a JSON object as text
    inputs: str | None = None  # the same


class PublishedRow(msgspec.Struct, frozen=True):
    """An outbox row whose record the broker stored at `offset`."""

    claimed: ClaimedRow
    offset: int


class Outbox(Protocol):
    """Accepted requests of one queue that are not on Kafka yet, numbered from 1 in each queue.

    Each call is one transaction, fenced by the relay's lease.
    """

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The generation of this topic. A topic that was recreated under the same name gets the next one."""

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Assign sequence numbers and partitions to the oldest rows without one; returns them. Raises NotLeader."""

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Remove the sequence numbers of rows whose topic was deleted, so that `claim` assigns new ones.

        The discarded numbers are recorded and never used again. Returns how many rows had theirs removed. Raises
        NotLeader.
        """

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Rows with a sequence number above `after` that are not marked as published, in the order of numbers."""

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete these rows and record where their records are. A row that is already marked is skipped."""


class RejectionCode(enum.StrEnum):
    """Why the status sync rejected a record."""

    HEADERS_UNREADABLE = "headers-unreadable"
    INVALID_MESSAGE = "invalid-message"
    NOT_INTERPRETED = "not-interpreted"
    UNUSABLE_DATA = "unusable-data"
    UNKNOWN_FILE = "unknown-file"
    FOREIGN_OBJECT = "foreign-object"
    FUTURE_RUN = "future-run"


class RejectedUpdate(msgspec.Struct, frozen=True):
    """Why an update cannot be correct."""

    code: RejectionCode
    reason: str


class ApplyResult(msgspec.Struct, frozen=True):
    """The result of a batch of updates: the number of changed rows, and the ids that no row has.

    `rejected`: updates that cannot be correct, by their index in the batch. They changed nothing.
    """

    changed: int
    unknown_ids: list[int]
    rejected: dict[int, RejectedUpdate] = {}


class RejectedRecord(msgspec.Struct, frozen=True):
    """A record that could not be decoded or applied, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    code: RejectionCode = RejectionCode.INVALID_MESSAGE


class ReceivedEvent(msgspec.Struct, frozen=True):
    """An event of `worker.events`, with its partition and offset."""

    partition: int
    offset: int
    event: WorkerEvent


class StatusStore(Protocol):
    """The statuses of the files and the positions of the status sync. One transaction changes both."""

    def now(self) -> datetime:
        """The store's clock. All times in the store are by this clock."""

    def positions(self, topics: Mapping[str, TopicIdentity] | None = None) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition; positions of a topic that was recreated are left out.

        Later calls of `apply` store their positions for these topics. Topics that are not given are not affected.
        """

    def apply(
        self,
        updates: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord] = (),
        events: Sequence[ReceivedEvent] = (),
    ) -> ApplyResult:
        """Apply the updates that supersede, store events and rejected records, and advance the positions, atomically.

        An update that names another file's object, or a run that has not begun, is rejected; the others are applied.
        Raises NotLeader or UnusableData, and then nothing is written.
        """


class TopicReader(Protocol):
    """Reads all partitions of some topics, outside of any group. Its caller keeps the positions. One thread."""

    def identities(self) -> dict[str, TopicIdentity]:
        """The identities of the topics; one that does not exist is absent. Raises Unavailable."""

    def refresh(
        self, positions: Mapping[tuple[str, int], int], identities: Mapping[str, TopicIdentity] | None = None
    ) -> None:
        """Read all partitions that exist: known ones continue, new ones begin at their position or at the beginning.

        `positions` belong to the topics with these `identities`; without identities the broker is asked. A topic that
        was recreated is read from its beginning. Raises Unavailable.
        """

    def ends(self) -> dict[tuple[str, int], int]:
        """The end offset of each partition that is read, asked of the broker. Raises Unavailable."""

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits at most `seconds` for the first. Raises Unavailable."""

    def close(self) -> None:
        """Close the connection."""


class RebalanceListener(Protocol):
    """Receives the changes of a member's assignment, on the thread that reads, inside `read` or `close`."""

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        """Partitions were assigned, with their committed offset and metadata; -1001 and '' if there is none."""

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Partitions are about to be revoked. Commits still succeed until this returns."""

    def on_lost(self, partitions: Sequence[int]) -> None:
        """Partitions were lost: another member may own them. Commit nothing."""


class RecordSource(Protocol):
    """A member of a consumer group on one topic. One thread.

    At an assignment, a commit that names another topic id than the topic has now is ignored: the partition is read
    from its beginning, and `on_assigned` gets no commit for it.
    """

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from, "" if unknown. Makes no request."""

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits at most `seconds` for the first. Call it often: it keeps the membership.

        Raises Unavailable; MemberExpelled if a new member may continue, for example because the topic was recreated.
        In that case `on_revoked` was called before.
        """

    def pause(self, partitions: Sequence[int]) -> None:
        """Stop reading these partitions."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Read these partitions again."""

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The next offset to read of these partitions, whether a record is there or not; none before the first read."""

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit without waiting. A later `read` calls `on_done` with the commits that the broker accepted."""

    def commit_sync(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait up to `seconds`; returns the commits that the broker accepted."""

    def close(self) -> None:
        """Leave the group. Calls `on_revoked` for the assigned partitions."""


class ShareSource(Protocol):
    """A member of a share group on one topic: it gets single records, not partitions. One thread."""

    @property
    def batch_seconds(self) -> float:
        """How long a batch may be held. After that its locks expire, or the member is expelled for not polling."""

    def read(self, seconds: float) -> list[Record]:
        """The next batch; waits at most `seconds`. All records of the last batch must be acknowledged before."""

    def accept(self, partition: int, offset: int) -> None:
        """Acknowledge a record whose effects are durable: it is not delivered again."""

    def release(self, partition: int, offset: int) -> None:
        """Return a record to the group: any member may get it."""

    def commit_async(self) -> None:
        """Send the acknowledgements without waiting."""

    def commit_sync(self, seconds: float) -> None:
        """Send the acknowledgements and wait up to `seconds`."""

    def close(self) -> None:
        """Leave the group."""
