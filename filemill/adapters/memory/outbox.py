"""In-memory Outbox."""

from collections.abc import Sequence

from msgspec import json

from filemill.adapters.memory.database import MemoryDatabase, MemoryOutboxRow
from filemill.adapters.memory.lease import MemoryLease
from filemill.domain.partitioning import assign_partitions
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import TopicIdentity
from filemill.ports import ClaimedRow, PublishedRow


class MemoryOutbox:
    """The outbox of one queue, for the holder of `lease`. (port: Outbox)."""

    def __init__(self, database: MemoryDatabase, lease: MemoryLease, queue: str = DEFAULT_QUEUE) -> None:
        self._database = database
        self._lease = lease
        self._queue = queue

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The generation of this topic."""
        with self._database.transaction():
            return self._database.generation(topic, identity)

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Take the sequence numbers from these rows, and record them."""
        with self._database.transaction():
            self._lease.fence()
            found = [
                (row, stored)
                for row in rows
                if (stored := self._database.outbox.get(row.outbox_id)) and stored.sequence == row.sequence
            ]
            for row, stored in found:
                self._database.discarded_sequences[row.sequence] = row.file_id
                stored.sequence = stored.partition = None
            return len(found)

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Give the oldest rows sequence numbers and partitions."""
        with self._database.transaction():
            waiting = [row for row in self._rows() if row.sequence is None][:limit]
            if not waiting:
                return []
            self._lease.fence()
            next_sequence = self._database.next_sequences.get(self._queue, 1)
            placements = assign_partitions(next_sequence, len(waiting), partitions)
            self._database.next_sequences[self._queue] = next_sequence + len(waiting)
            for row, placement in zip(waiting, placements, strict=True):
                row.sequence, row.partition, row.generation = placement.sequence, placement.partition, generation
            return [self._claimed(row, row.sequence or 0) for row in waiting]

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Claimed rows with sequence numbers above `after`."""
        with self._database.transaction():
            stored = [row for row in self._rows() if row.sequence is not None]
            rows = [self._claimed(row, row.sequence or 0) for row in stored]
        rows.sort(key=lambda row: row.sequence)
        return [row for row in rows if row.sequence > after][:limit]

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete the rows and store their offsets."""
        with self._database.transaction():
            for row in published:
                stored = self._database.outbox.get(row.claimed.outbox_id)
                if stored is not None and stored.sequence == row.claimed.sequence:
                    del self._database.outbox[row.claimed.outbox_id]
                    publications = self._database.publications_of.setdefault(self._queue, {})
                    publications.setdefault(row.claimed.sequence, row)

    def _rows(self) -> list[MemoryOutboxRow]:
        return [row for row in self._database.outbox.values() if row.queue == self._queue]

    def _claimed(self, row: MemoryOutboxRow, sequence: int) -> ClaimedRow:
        file = self._database.files[row.file_id]
        return ClaimedRow(
            row.id,
            sequence,
            row.partition or 0,
            row.file_id,
            row.run,
            file.title,
            file.description,
            file.created_at,
            row.traceparent,
            row.generation,
            file.handler,
            file.parameters,
            json.encode(file.inputs).decode() if file.inputs else None,
        )
