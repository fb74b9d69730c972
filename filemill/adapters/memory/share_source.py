"""In-memory ShareSource: a share group that delivers and locks records one by one, and its members."""

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from filemill.adapters.memory.broker import MemoryBroker
from filemill.domain.records import Record

DELIVERY_LIMIT = 10
BATCH_SECONDS = 10.0
BATCH_RECORDS = 1000

Key = tuple[int, int]  # partition and offset


class MemoryShareGroup:
    """A share group on one topic: the state of each record. Any thread.

    A record is available, acquired by one member, or done: accepted, or delivered `delivery_limit` times.
    """

    def __init__(self, broker: MemoryBroker, topic: str, delivery_limit: int = DELIVERY_LIMIT) -> None:
        self.broker = broker
        self.topic = topic
        self.delivery_limit = delivery_limit
        self.deliveries: dict[Key, int] = {}
        self.accepted: set[Key] = set()
        self._owners: dict[Key, MemoryShareSource] = {}

    def owner(self, key: Key) -> "MemoryShareSource | None":
        """The member that has acquired the record."""
        return self._owners.get(key)

    def acquire(self, member: "MemoryShareSource", limit: int) -> list[Record]:
        """Lock up to `limit` available records for a member, those of the lowest offsets first."""
        with self.broker.changed:
            taken = list(itertools.islice(self._available(), limit))
            for record in taken:
                key = record.partition, record.offset
                self._owners[key] = member
                self.deliveries[key] = self.deliveries.get(key, 0) + 1
            return [
                msgspec.structs.replace(
                    record, deliveries_left=self.delivery_limit - self.deliveries[record.partition, record.offset]
                )
                for record in taken
            ]

    def accept(self, member: "MemoryShareSource", keys: Sequence[Key]) -> None:
        """Store acknowledgements; of a record that another member has acquired meanwhile, none."""
        with self.broker.changed:
            for key in keys:
                if self._owners.get(key) is member:
                    del self._owners[key]
                    self.accepted.add(key)

    def release(self, member: "MemoryShareSource", keys: Sequence[Key] | None = None) -> None:
        """Make records available again; without `keys`, all that the member has acquired."""
        with self.broker.changed:
            for key in [key for key, owner in self._owners.items() if owner is member] if keys is None else keys:
                if self._owners.get(key) is member:
                    del self._owners[key]
            self.broker.changed.notify_all()

    def expire_locks(self) -> None:
        """Make every acquired record available again, as when its lock expires."""
        with self.broker.changed:
            self._owners.clear()
            self.broker.changed.notify_all()

    def _available(self) -> Iterator[Record]:
        for record in self.broker.records(self.topic):
            key = record.partition, record.offset
            exhausted = self.deliveries.get(key, 0) >= self.delivery_limit
            control = (self.topic, *key) in self.broker.control_records
            if key not in self._owners and key not in self.accepted and not exhausted and not control:
                yield record


class MemoryShareSource:
    """A member of a share group. (port: ShareSource). One thread."""

    def __init__(
        self, group: MemoryShareGroup, batch_seconds: float = BATCH_SECONDS, batch_records: int = BATCH_RECORDS
    ) -> None:
        self.batch_seconds = batch_seconds
        self.closed = False
        self._group = group
        self._batch_records = batch_records
        self._unacknowledged: set[Key] = set()
        self._accepted: list[Key] = []
        self._released: list[Key] = []

    def read(self, seconds: float) -> list[Record]:
        """Send the acknowledgements, then acquire the next batch."""
        if self._unacknowledged:
            raise RuntimeError(f"{len(self._unacknowledged)} records of the last batch are not acknowledged")
        self.commit_async()
        records = self._group.acquire(self, self._batch_records)
        if not records and seconds:
            with self._group.broker.changed:
                self._group.broker.changed.wait(seconds)
            records = self._group.acquire(self, self._batch_records)
        self._unacknowledged = {(record.partition, record.offset) for record in records}
        return records

    def accept(self, partition: int, offset: int) -> None:
        """Acknowledge a record, with the next `commit`."""
        self._acknowledge((partition, offset), self._accepted)

    def release(self, partition: int, offset: int) -> None:
        """Give a record back, with the next `commit`."""
        self._acknowledge((partition, offset), self._released)

    def commit_async(self) -> None:
        """Send what was accepted and released."""
        self._group.accept(self, self._accepted)
        self._group.release(self, self._released)
        self._accepted.clear()
        self._released.clear()

    def commit_sync(self, seconds: float) -> None:
        """Send what was accepted and released."""
        del seconds
        self.commit_async()

    def close(self) -> None:
        """Leave the group: what is acknowledged is sent, everything else is released."""
        self.commit_async()
        self._group.release(self)
        self._unacknowledged.clear()
        self.closed = True

    def _acknowledge(self, key: Key, acknowledged: list[Key]) -> None:
        if key in self._unacknowledged:
            self._unacknowledged.discard(key)
            acknowledged.append(key)
