"""Fake of the port Outbox."""

from collections.abc import Sequence

from filemill.adapters.memory.database import MemoryDatabase, MemoryRequest
from filemill.adapters.memory.lease import MemoryLease
from filemill.domain.partitioning import assign_partitions
from filemill.domain.records import TopicIdentity
from filemill.ports import Claimed, Published


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
            places = assign_partitions(self._database.next_number, len(waiting), partitions)
            self._database.next_number += len(waiting)
            for row, place in zip(waiting, places, strict=True):
                row.number, row.partition, row.generation = place.sequence, place.partition, generation
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
