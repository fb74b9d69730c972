"""Which offset may be committed while the records of a partition finish in any order. Pure; one thread.

Kafka stores one committed offset per partition: all records below it are finished. With many records in progress it is
the lowest unfinished offset. Finished offsets above it are stored in the commit's metadata, so the next owner does not
reprocess them. If they do not fit, some are reprocessed, which is correct too. The Confluent Parallel Consumer does
the same.
"""

import base64
import zlib
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

# The broker refuses more than offset.metadata.max.bytes (4,096); one oversize partition fails the whole commit call.
METADATA_MAX_CHARACTERS = 4000
WORKER_ID_MAX_CHARACTERS = 200

# A longer bitmap is truncated: the records beyond it are reprocessed.
_BITMAP_MAX_BYTES = 64 * 1024


class CommitMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker and the epoch of a commit, and the finished offsets above the committed one (`done`, encoded).

    `topic_id` is the id of the topic that the offset belongs to (KIP-516), "" if unknown: Kafka stores a commit by the
    topic's name, which a recreated topic keeps. `worker` is "" in a commit of an offset reset.
    """

    worker: str
    epoch: int
    done: str = ""
    topic_id: str = ""


class Commit(msgspec.Struct, frozen=True):
    """One partition's commit: the next offset to read, and the metadata as text.

    `version` is the tracker's version that it describes, for `OffsetTracker.on_committed`.
    """

    offset: int
    metadata: str
    version: int


class StoredCommit(msgspec.Struct, frozen=True):
    """A commit in `__consumer_offsets`. `at` is the broker's time of it, in seconds since the epoch."""

    partition: int
    offset: int
    metadata: str
    at: float

    def __str__(self) -> str:
        return f"commit of {self.offset} on partition {self.partition} at {self.at:.3f} ({self.metadata[:120]})"


class RecordedReset(msgspec.Struct, frozen=True):
    """An audited reset of a partition's offset. `at` is the time of its audit record, just before the reset."""

    partition: int
    old: int
    new: int
    at: float

    def skips(self, partition: int, offset: int) -> bool:
        """Whether the reset skipped this record."""
        return partition == self.partition and self.old <= offset < self.new


class OffsetTracker:
    """The offsets of one partition during one epoch.

    `already_finished`: offsets above the `committed` one (-1: none) that the last owner had finished.
    """

    def __init__(self, already_finished: Iterable[int] = (), committed: int = -1) -> None:
        self._committed = committed
        self._finished_before = set(already_finished)
        self._delivered: deque[int] = deque()  # ascending, from the lowest unfinished on
        self._finished: set[int] = set()  # those of `_delivered` that are finished
        self._next: int | None = None  # one past the last delivered
        self._version = 0  # grows with each finished record
        self._acknowledged_version = 0

    @property
    def unfinished(self) -> int:
        """How many delivered records are not finished."""
        return len(self._delivered) - len(self._finished)

    @property
    def span(self) -> int:
        """How many records there are from the lowest unfinished one to the last delivered."""
        return len(self._delivered)

    @property
    def position(self) -> int | None:
        """The offset that may be committed: the lowest unfinished one, or one past the last tracked; None at first."""
        return self._delivered[0] if self._delivered else self._next

    @property
    def has_uncommitted(self) -> bool:
        """Whether a record finished since the last accepted commit."""
        return self._version != self._acknowledged_version

    @property
    def committed_version(self) -> int:
        """Increases with each commit that the broker accepted."""
        return self._acknowledged_version

    def goes_back(self, offset: int) -> bool:
        """Whether an offset is at or below one delivered before, which `deliver` refuses."""
        return self._next is not None and offset < self._next

    def track(self, offset: int) -> bool:
        """Track a record that was read; returns False if it is already finished and must not be processed.

        Offsets ascend, and gaps are allowed. Raises ValueError for an offset at or below one that was tracked before.
        """
        if self.goes_back(offset):
            raise ValueError(f"offset {offset} was delivered already; the next is {self._next} or above")
        if self._next is None and offset < self._committed:
            self._finished_before.clear()  # they belong to an earlier log
        self._next = offset + 1
        self._delivered.append(offset)
        if offset in self._finished_before:
            self._finished_before.discard(offset)
            self.finish(offset)
            return False
        return True

    def advance_to(self, position: int) -> None:
        """Set the next offset to the reader's position, if all records before it were tracked.

        The position is above the last record if offsets without records follow it: control records or removed ones.
        """
        if position > (self._committed if self._next is None else self._next):
            self._next = position
            self._version += 1

    def finish(self, offset: int) -> None:
        """Mark a record as finished: all its effects are durable. A second call has no effect."""
        if not self._delivered or offset < self._delivered[0]:
            return
        self._finished.add(offset)
        self._version += 1
        while self._delivered and self._delivered[0] in self._finished:
            self._finished.discard(self._delivered.popleft())

    def finished_beyond(self) -> list[int]:
        """Finished offsets above the position, ascending, including those of the last owner."""
        position = self.position
        beyond = self._finished | {known for known in self._finished_before if position is None or known > position}
        return sorted(beyond)

    def next_commit(self, worker: str, epoch: int, topic_id: str = "", *, force: bool = False) -> Commit | None:
        """The next commit; None if nothing has finished since the last accepted one.

        `topic_id` is the id of the topic that the offsets belong to, "" if unknown. `force` returns a commit in that
        case too: its answer shows whether the broker still accepts our commits. None then only if nothing was tracked.
        """
        position = self.position
        if position is None or (self._version == self._acknowledged_version and not force):
            return None
        metadata = encode_metadata(worker, epoch, position, self.finished_beyond(), topic_id)
        return Commit(position, metadata, self._version)

    def on_committed(self, commit: Commit) -> None:
        """Record that the broker accepted a commit."""
        self._acknowledged_version = max(self._acknowledged_version, commit.version)


def encode_metadata(worker: str, epoch: int, position: int, finished_beyond: Sequence[int], topic_id: str = "") -> str:
    """The commit's metadata as ASCII JSON of at most METADATA_MAX_CHARACTERS.

    The finished offsets above `position` are a bitmap (bit i stands for position + 1 + i), deflated, in base64. If it
    does not fit, it is truncated.
    """
    worker = worker.encode("ascii", "replace").decode()[:WORKER_ID_MAX_CHARACTERS]
    bitmap = _bitmap(position, finished_beyond)
    while True:
        done = base64.b64encode(zlib.compress(bitmap, 9)).decode() if bitmap else ""
        text = msgspec.json.encode(CommitMetadata(worker, epoch, done, topic_id)).decode()
        if len(text) <= METADATA_MAX_CHARACTERS:
            return text
        bitmap = bitmap[: len(bitmap) // 2].rstrip(b"\0")


def decode_metadata(text: str | None, position: int) -> tuple[CommitMetadata | None, list[int]]:
    """The metadata of a commit and its finished offsets above `position`; (None, []) if another program wrote it."""
    metadata = _read(text)
    if metadata is None or not metadata.done:
        return metadata, []
    try:
        inflate = zlib.decompressobj()
        bitmap = inflate.decompress(base64.b64decode(metadata.done, validate=True), _BITMAP_MAX_BYTES)
    except (ValueError, zlib.error):
        return None, []
    offsets = [
        position + 1 + index * 8 + bit for index, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1
    ]
    return metadata, offsets


def topic_id_in(metadata: str | None) -> str:
    """The id of the topic that a commit is of; "" if the commit does not name it, as those of foreign workers."""
    seen = _read(metadata)
    return "" if seen is None else seen.topic_id


def is_of_another_topic(metadata: str | None, topic_id: str) -> bool:
    """Whether a commit is of another topic than this one. False if either is unknown."""
    return bool(topic_id) and topic_id_in(metadata) not in {"", topic_id}


def _read(text: str | None) -> CommitMetadata | None:
    try:
        return msgspec.json.decode(text, type=CommitMetadata) if text else None
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None


def _bitmap(position: int, finished_beyond: Sequence[int]) -> bytes:
    bits = [offset - position - 1 for offset in finished_beyond if offset > position]
    bits = [bit for bit in bits if bit < _BITMAP_MAX_BYTES * 8]
    bitmap = bytearray(max(bits, default=-1) // 8 + 1)
    for bit in bits:
        bitmap[bit // 8] |= 1 << bit % 8
    return bytes(bitmap)
