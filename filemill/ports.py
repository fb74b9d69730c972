"""What the rules need of the world, as protocols.

`filemill.adapters` has the real ones and the fakes beside them; `tests/contract` holds both to the same behaviour.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from filemill.files import Change
from filemill.messages import Headers, InvalidMessage
from filemill.offsets import Commit
from filemill.telemetry import WorkerEvent


class Missing(Exception):
    """An object that is not there."""


class Exists(Exception):
    """An object that is there already."""


class NotLeader(Exception):
    """The lease is somebody else's now: stop at once, nothing of this step was written."""


class Record(msgspec.Struct, frozen=True):
    """One record of a topic as read.

    `timestamp_ms` is the broker's or the producer's, as the topic is set up; 0 if there is none, or if it is not within
    the years 1970 to 9999. `headers_error`: why the headers cannot be read; `headers` is empty then.
    """

    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    deliveries_left: int | None = None  # how often a share group will hand it out again; None where nobody counts
    headers_error: str | None = None
    by_broker: bool = False  # whether the timestamp is the broker's: a producer may write any

    def refuse_unreadable(self) -> None:
        """Raise InvalidMessage if the headers cannot be read."""
        if self.headers_error is not None:
            raise InvalidMessage(self.headers_error)


class TopicIdentity(msgspec.Struct, frozen=True):
    """Which topic has a name now: its id and its cluster's, which another topic of that name has not."""

    topic_id: str
    cluster_id: str
    partitions: int

    def same(self, other: "TopicIdentity | None") -> bool:
        """Whether the other is this very topic, whatever partitions were added."""
        return other is not None and (self.topic_id, self.cluster_id) == (other.topic_id, other.cluster_id)


class Receipt(msgspec.Struct, frozen=True):
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
        on_receipt: Callable[[Receipt], None] | None = None,
        *,
        key: str | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Queue a record.

        Raises retry.Unavailable where the queue is full (poll, then try again), retry.Poisonous where it is too large.
        """

    def poll(self, seconds: float = 0) -> int:
        """Wait up to `seconds` for acknowledgements and hand them out; returns how many there were."""

    def flush(self, seconds: float) -> int:
        """Wait until nothing is queued, `seconds` at most; returns how many records are left."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has, asked of the broker. Raises retry.Unavailable; 0 for no such topic."""


class StoredObject(msgspec.Struct, frozen=True):
    """An entry of a listing."""

    key: str
    size: int


PutMode = Literal["create", "overwrite"]


class ObjectStore(Protocol):
    """One bucket. Raises retry.Unavailable where the service is away or refuses us."""

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object whole. If there is one already, "create" raises Exists and keeps it.

        A service that knows no conditional writes overwrites it in either mode.
        """

    async def get(self, key: str) -> bytes:
        """An object's bytes. Raises Missing."""

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


class Claimed(msgspec.Struct, frozen=True):
    """An outbox row with its publish number and partition, both durable by now, and what its message needs."""

    outbox_id: int
    publish_number: int
    partition: int
    file_id: int
    run: int
    title: str
    description: str
    requested_at: datetime
    traceparent: str
    generation: int = 1  # of the topic that number and partition were given for


class Published(msgspec.Struct, frozen=True):
    """An outbox row that the broker acknowledged."""

    claimed: Claimed
    offset: int


class Outbox(Protocol):
    """Accepted requests that are not on Kafka yet. Each call is one transaction, fenced by the relay's lease."""

    def generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number under which this topic is known; a topic of that name which is new gets the next one."""

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[Claimed]:
        """Number the oldest unnumbered rows and return them. Raises NotLeader."""

    def give_up(self, rows: Sequence[Claimed]) -> int:
        """Take their numbers from rows that were numbered for a topic which is gone: `claim` gives them new ones.

        The numbers are on record, and nobody gets them again. Returns how many there were. Raises NotLeader.
        """

    def claimed(self, limit: int, after: int = 0) -> list[Claimed]:
        """Rows numbered above `after` and not settled, by a predecessor for instance, in the order of numbers."""

    def settle(self, published: Sequence[Published]) -> None:
        """Delete what the broker has, and note where it put it. A row settled already is passed over."""


class UnusableData(Exception):
    """The database refuses a value of a batch: a record's fault, not the server's. Nothing of the batch is written."""


class Applied(msgspec.Struct, frozen=True):
    """What became of a batch of changes: how many rows changed, and which ids no row has.

    `refused`: why a change cannot be true, by its place in the batch. Such a one changed nothing.
    """

    changed: int
    unknown: list[int]
    refused: dict[int, str] = {}


class Rejected(msgspec.Struct, frozen=True):
    """A record that could not be read or used, and why."""

    topic: str
    partition: int
    offset: int
    reason: str


class HeardEvent(msgspec.Struct, frozen=True):
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
        changes: Sequence[Change],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[Rejected] = (),
        events: Sequence[HeardEvent] = (),
    ) -> Applied:
        """Apply changes that supersede, store what workers said, and move the positions, all or nothing.

        A change that names another file's object, or a run that the row has not begun, is refused and holds up nobody.
        Raises NotLeader or UnusableData, and then nothing is written.
        """


class RebalanceListener(Protocol):
    """Told of assignments, on the thread that reads, inside `read` or `close`."""

    def assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        """Partitions came; for each that has a commit, its offset and metadata (no entry: -1001 and '')."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Partitions are about to go: what is committed before this returns still counts."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Partitions are gone: commit nothing."""


class RecordSource(Protocol):
    """A member of a consumer group, on one topic.

    A commit that names another topic's id than the topic has now is ignored at an assignment: the partition is read
    from its beginning, and `assigned` is told that there is no commit.
    """

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from, "" if unknown. The broker is not asked."""

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Up to `limit` records; waits `seconds` at most for the first. Must be called often: it keeps us a member.

        Raises retry.Expelled if the topic was deleted and created again. `revoked` has been called by then.
        """

    def pause(self, partitions: Sequence[int]) -> None:
        """Read no more of these for now."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Read them again."""

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Of these partitions the offset to read next, also where no record is there; absent where nothing was read."""

    def commit(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit without waiting; `on_done` gets those that the broker took, inside a later `read`."""

    def commit_now(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait; returns those that the broker took."""

    def close(self) -> None:
        """Leave the group: `revoked` is called for what is assigned."""


class SharedSource(Protocol):
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

    def commit(self) -> None:
        """Send what was accepted and released, without waiting."""

    def commit_now(self, seconds: float) -> None:
        """Send it, and wait."""

    def close(self) -> None:
        """Leave the group."""
