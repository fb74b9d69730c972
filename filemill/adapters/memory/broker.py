"""Fake of a Kafka broker: topics, records and the commits of one group."""

import itertools
import threading
import time
from collections.abc import Mapping

import msgspec

from filemill.domain.messages import Headers
from filemill.domain.offsets import Commit
from filemill.domain.records import Record, TopicIdentity
from filemill.errors import Unavailable

NO_OFFSET = -1001  # Kafka's value for "nothing committed"


class RecordedCommit(msgspec.Struct, frozen=True):
    """A commit that the broker stored. `owned`: whether the member owned the partition at that time."""

    partition: int
    commit: Commit
    owned: bool


class MemoryBroker:
    """Topics and the commits of one group. Any thread.

    While `outage` has a text, publishers keep their records queued, and other calls raise Unavailable with that text.
    While `reject_reason` has a text, records are rejected with it and counted in `rejected`.
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self.outage: str | None = None
        self.reject_reason: str | None = None
        self.rejected = 0
        self.commits: list[RecordedCommit] = []
        self.control_records: set[tuple[str, int, int]] = set()
        self.changed = threading.Condition()
        self._logs: dict[str, list[list[Record]]] = {}
        self._recreated: dict[str, int] = {}
        for topic, count in partitions.items():
            self.add_partitions(topic, count)

    def add_partitions(self, topic: str, total: int) -> None:
        """Create the topic, or raise its partitions to `total`."""
        logs = self._logs.setdefault(topic, [])
        logs.extend([] for _ in range(total - len(logs)))

    def recreate(self, topic: str, total: int) -> None:
        """Delete the topic and create another one with its name."""
        with self.changed:
            self._logs[topic] = [[] for _ in range(total)]
            self._recreated[topic] = self._recreated.get(topic, 0) + 1

    def identity(self, topic: str) -> TopicIdentity | None:
        """The identity of the topic; None if it does not exist."""
        if self.outage is not None:
            raise Unavailable(self.outage)
        count = self.partitions(topic)
        return TopicIdentity(f"{topic}-{self._recreated.get(topic, 0)}", "memory", count) if count else None

    def partitions(self, topic: str) -> int:
        """The number of partitions; 0 if the topic does not exist."""
        return len(self._logs.get(topic, ()))

    def log(self, topic: str, partition: int) -> list[Record]:
        """The records of one partition."""
        return list(self._logs[topic][partition])

    def records(self, topic: str) -> list[Record]:
        """The topic's records, partition by partition."""
        return list(itertools.chain.from_iterable(self._logs[topic]))

    def append(self, topic: str, partition: int, value: bytes | None, headers: Headers | None = None) -> int:
        """Write a record; returns its offset."""
        with self.changed:
            log = self._logs[topic][partition]
            timestamp = int(time.time() * 1000)
            log.append(Record(topic, partition, len(log), value, list(headers or []), timestamp, by_broker=True))
            self.changed.notify_all()
            return len(log) - 1

    def append_control_record(self, topic: str, partition: int) -> None:
        """Write a control record, as the end of a transaction does: it has an offset, and is not read."""
        offset = self.append(topic, partition, None)
        self.control_records.add((topic, partition, offset))

    def committed(self, partition: int) -> tuple[int, str]:
        """The group's committed offset and metadata; NO_OFFSET and an empty text without a commit."""
        for each in reversed(self.commits):
            if each.partition == partition:
                return each.commit.offset, each.commit.metadata
        return NO_OFFSET, ""
