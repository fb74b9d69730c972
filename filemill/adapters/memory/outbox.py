"""Fake of the port Outbox."""

from collections.abc import Sequence

from filemill.adapters.memory.database import MemoryDatabase, MemoryRequest
from filemill.adapters.memory.lease import MemoryLease
from filemill.domain.partitioning import assign_partitions
from filemill.domain.records import TopicIdentity
from filemill.ports import ClaimedRow, PublishedRow


class MemoryOutbox:
    """The outbox of one database, for the holder of `lease`. (port: Outbox)."""

    def __init__(self, database: MemoryDatabase, lease: MemoryLease) -> None:
        self._database = database
        self._lease = lease

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number of this topic among those of its name."""
        with self._database.transaction():
            return self._database.generation(topic, identity)

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Take their numbers away, on record."""
        with self._database.transaction():
            self._lease.fence()
            given = [
                (row, kept)
                for row in rows
                if (kept := self._database.outbox.get(row.outbox_id)) and kept.number == row.sequence
            ]
            for row, kept in given:
                self._database.abandoned[row.sequence] = row.file_id
                kept.number = kept.partition = None
            return len(given)

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Number the oldest rows."""
        with self._database.transaction():
            waiting = [row for row in self._database.outbox.values() if row.number is None][:limit]
            if not waiting:
                return []
            self._lease.fence()
            places = assign_partitions(self._database.next_number, len(waiting), partitions)
            self._database.next_number += len(waiting)
            for row, place in zip(waiting, places, strict=True):
                row.number, row.partition, row.generation = place.sequence, place.partition, generation
            return [self._claimed(row, row.number or 0) for row in waiting]

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Rows numbered above `after` and not settled."""
        with self._database.transaction():
            rows = [self._claimed(row, row.number) for row in self._database.outbox.values() if row.number is not None]
        rows.sort(key=lambda row: row.sequence)
        return [row for row in rows if row.sequence > after][:limit]

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete, and note the offset."""
        with self._database.transaction():
            for row in published:
                kept = self._database.outbox.get(row.claimed.outbox_id)
                if kept is not None and kept.number == row.claimed.sequence:
                    del self._database.outbox[row.claimed.outbox_id]
                    self._database.publications.setdefault(row.claimed.sequence, row)

    def _claimed(self, row: MemoryRequest, number: int) -> ClaimedRow:
        file = self._database.files[row.file_id]
        return ClaimedRow(
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
