"""What the rules need of the world, as protocols.

`filemill.adapters` has the real ones and the fakes beside them; `tests/contract` holds both to the same behaviour.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from filemill.domain.files import StatusUpdate
from filemill.domain.messages import Headers
from filemill.domain.offsets import Commit
from filemill.domain.records import Record, TopicIdentity
from filemill.domain.worker_events import WorkerEvent


class DeliveryReport(msgspec.Struct, frozen=True):
    """Where the broker put a record; or, with `error`, why it did not. `too_large`: and never will."""

    partition: int
    offset: int
    error: str | None = None
    too_large: bool = False


class Publisher(Protocol):
    """Writes records. Acknowledgements are handed out inside `poll`, on the thread that calls it."""

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

        Raises Unavailable where the queue is full (poll, then try again), PermanentError where it is too large.
        """

    def poll(self, seconds: float = 0) -> int:
        """Wait up to `seconds` for acknowledgements and hand them out; returns how many there were."""

    def flush(self, seconds: float) -> int:
        """Wait until nothing is queued, `seconds` at most; returns how many records are left."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has, asked of the broker. Raises Unavailable; 0 for no such topic."""


class StoredObject(msgspec.Struct, frozen=True):
    """An entry of a listing."""

    key: str
    size: int


PutMode = Literal["create", "overwrite"]


class ObjectStore(Protocol):
    """One bucket. Raises Unavailable where the service is away or refuses us."""

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object whole. If there is one already, "create" raises Exists and keeps it.

        A service that knows no conditional writes overwrites it in either mode.
        """

    async def get(self, key: str) -> bytes:
        """An object's bytes. Raises NotFound."""

    def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, in pages, in the order of their keys' UTF-8 bytes."""


class Lease(Protocol):
    """The right to be the active one of several. Fenced: each take-over has a greater number."""

    @property
    def fencing(self) -> int | None:
        """The number of our holding. One that changed over `acquire` says that the lease was not ours in between."""

    def acquire(self) -> bool:
        """Take the lease if it is free or expired, or renew it where it is ours; whether it is ours now."""

    def release(self) -> None:
        """Give it up, so that a standby need not wait for its expiry. Harmless where it is not ours."""


class ClaimedRow(msgspec.Struct, frozen=True):
    """An outbox row with its publish number and partition, both durable by now, and what its message needs."""

    outbox_id: int
    sequence: int
    partition: int
    file_id: int
    run: int
    title: str
    description: str
    requested_at: datetime
    traceparent: str
    generation: int = 1  # of the topic that number and partition were given for


class PublishedRow(msgspec.Struct, frozen=True):
    """An outbox row that the broker acknowledged."""

    claimed: ClaimedRow
    offset: int


class Outbox(Protocol):
    """Accepted requests that are not on Kafka yet. Each call is one transaction, fenced by the relay's lease."""

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number under which this topic is known; a topic of that name which is new gets the next one."""

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Number the oldest unnumbered rows and return them. Raises NotLeader."""

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Take their numbers from rows that were numbered for a topic which is gone: `claim` gives them new ones.

        The numbers are on record, and nobody gets them again. Returns how many there were. Raises NotLeader.
        """

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Rows numbered above `after` and not settled, by a predecessor for instance, in the order of numbers."""

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete what the broker has, and note where it put it. A row settled already is passed over."""


class ApplyResult(msgspec.Struct, frozen=True):
    """What became of a batch of changes: how many rows changed, and which ids no row has.

    `refused`: why a change cannot be true, by its place in the batch. Such a one changed nothing.
    """

    changed: int
    unknown_ids: list[int]
    rejected: dict[int, str] = {}


class RejectedRecord(msgspec.Struct, frozen=True):
    """A record that could not be read or used, and why."""

    topic: str
    partition: int
    offset: int
    reason: str


class ReceivedEvent(msgspec.Struct, frozen=True):
    """An event of `worker.events`, and its place there."""

    partition: int
    offset: int
    event: WorkerEvent


class StatusStore(Protocol):
    """The rows' statuses, and how far the events have been read: both change in one transaction."""

    def now(self) -> datetime:
        """The store's clock: all moments in it are by that one."""

    def positions(self, topics: Mapping[str, TopicIdentity] | None = None) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition, as far as it is of these very topics.

        What is applied from now on is stored as of them. A topic that is not given stays what it was.
        """

    def apply(
        self,
        changes: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord] = (),
        events: Sequence[ReceivedEvent] = (),
    ) -> ApplyResult:
        """Apply changes that supersede, store what workers said, and move the positions, all or nothing.

        A change that names another file's object, or a run that the row has not begun, is refused and holds up nobody.
        Raises NotLeader or UnusableData, and then nothing is written.
        """


class RebalanceListener(Protocol):
    """Told of assignments, on the thread that reads, inside `read` or `close`."""

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        """Partitions came; for each that has a commit, its offset and metadata (no entry: -1001 and '')."""

    def on_revoked(self, partitions: Sequence[int]) -> None:
        """Partitions are about to go: what is committed before this returns still counts."""

    def on_lost(self, partitions: Sequence[int]) -> None:
        """Partitions are gone: commit nothing."""


class RecordSource(Protocol):
    """A member of a consumer group, on one topic."""

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits `seconds` at most for the first. Must be called often: it keeps us a member."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Read no more of these for now."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Read them again."""

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Of these partitions the offset to read next, also where no record is there; absent where nothing was read."""

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit without waiting; `on_done` gets those that the broker took, inside a later `read`."""

    def commit_sync(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait; returns those that the broker took."""

    def close(self) -> None:
        """Leave the group: `revoked` is called for what is assigned."""


class ShareSource(Protocol):
    """A member of a share group, on one topic: records one by one, no partition is anybody's."""

    @property
    def batch_seconds(self) -> float:
        """How long a batch may be held: then its locks run out, or the member is put out for not polling."""

    def read(self, seconds: float) -> list[Record]:
        """The next batch; waits `seconds` at most. All of the last one must be accepted or released by now."""

    def accept(self, partition: int, offset: int) -> None:
        """Its effects are durable: never again."""

    def release(self, partition: int, offset: int) -> None:
        """Somebody else may have it now."""

    def commit_async(self) -> None:
        """Send what was accepted and released, without waiting."""

    def commit_sync(self, seconds: float) -> None:
        """Send it, and wait."""

    def close(self) -> None:
        """Leave the group."""
