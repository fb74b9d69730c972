"""Fakes of the ports to Kafka: one broker, publishers, and members whose assignment the test decides.

`tests/contract` holds the publisher to what the real one does.
"""

import itertools
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from filemill.messages import Headers
from filemill.offsets import Commit, of_another_topic, topic_of
from filemill.ports import RebalanceListener, Receipt, Record, TopicIdentity
from filemill.retry import Expelled, Poisonous, Unavailable

MESSAGE_MAX_BYTES = 2 * 1024 * 1024
NO_OFFSET = -1001  # Kafka's own mark for "nothing committed"


class Committed(msgspec.Struct, frozen=True):
    """A commit that the broker took; `owned`: whether the member had the partition at that moment."""

    partition: int
    commit: Commit
    owned: bool


class MemoryBroker:
    """Topics and one group's commits. Any thread.

    `away`: a sentence; until it is None again publishers keep their records queued and questions raise Unavailable.
    `refuses`: a sentence; records are refused with it, and counted. Neither is the fault of a record.
    """

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self.away: str | None = None
        self.refuses: str | None = None
        self.refused = 0
        self.commits: list[Committed] = []
        self.marks: set[tuple[str, int, int]] = set()
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
        """Delete the topic and create another one of its name."""
        with self.changed:
            self._logs[topic] = [[] for _ in range(total)]
            self._recreated[topic] = self._recreated.get(topic, 0) + 1

    def identity(self, topic: str) -> TopicIdentity | None:
        """Which topic has this name now; None for no such topic."""
        if self.away is not None:
            raise Unavailable(self.away)
        count = self.partitions(topic)
        return TopicIdentity(f"{topic}-{self._recreated.get(topic, 0)}", "memory", count) if count else None

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 for no such topic."""
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
            stamp = int(time.time() * 1000)
            log.append(Record(topic, partition, len(log), value, list(headers or []), stamp, by_broker=True))
            self.changed.notify_all()
            return len(log) - 1

    def mark(self, topic: str, partition: int) -> None:
        """Write what takes an offset and is no record, as the marker that ends a transaction."""
        offset = self.append(topic, partition, None)
        self.marks.add((topic, partition, offset))

    def committed(self, partition: int) -> tuple[int, str]:
        """The group's offset and metadata, as an assignment tells them."""
        for each in reversed(self.commits):
            if each.partition == partition:
                return each.commit.offset, each.commit.metadata
        return NO_OFFSET, ""


class _Queued(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    value: bytes | None
    headers: Headers | None
    on_receipt: Callable[[Receipt], None] | None


class MemoryPublisher:
    """A producer. (port: Publisher). Any thread.

    A record stands in the log at once, while the broker is there; its receipt waits for `poll`: to drop the publisher
    between the two is a crash between the two.
    """

    def __init__(self, broker: MemoryBroker, queue_records: int = 100_000) -> None:
        self._broker = broker
        self._queue_records = queue_records
        self._queue: deque[_Queued] = deque()
        self._receipts: deque[tuple[Callable[[Receipt], None], Receipt]] = deque()
        self._turn = itertools.count()
        self._lock = threading.RLock()

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
        """Queue a record, and send it if the broker is there."""
        if len(value or b"") > MESSAGE_MAX_BYTES:
            raise Poisonous(f"a record of {len(value or b'')} bytes is too large for Kafka")
        if len(self._queue) + len(self._receipts) >= self._queue_records:
            raise Unavailable("the producer's queue is full")
        if partition is None:
            choice = next(self._turn) if key is None else zlib.crc32(key.encode())
            partition = choice % max(1, self._broker.partitions(topic))
        with self._lock:
            self._queue.append(_Queued(topic, partition, value, headers, on_receipt))
            self._send()

    def poll(self, seconds: float = 0) -> int:
        """Hand out acknowledgements; waits the whole time where there are none."""
        self._send()
        if not self._receipts and seconds:
            time.sleep(seconds)
            self._send()
        due = len(self._receipts)
        for _ in range(due):
            on_receipt, receipt = self._receipts.popleft()
            on_receipt(receipt)
        return due

    def flush(self, seconds: float) -> int:
        """Send what can be sent, and hand out what there is."""
        self.poll(seconds if self._queue else 0)
        return len(self._queue)

    def partitions(self, topic: str) -> int:
        """Ask the broker."""
        if self._broker.away is not None:
            raise Unavailable(self._broker.away)
        return self._broker.partitions(topic)

    def _send(self) -> None:
        with self._lock:
            while self._queue and self._broker.away is None:
                queued = self._queue.popleft()
                receipt = self._stored(queued)
                if queued.on_receipt is not None:
                    self._receipts.append((queued.on_receipt, receipt))

    def _stored(self, queued: _Queued) -> Receipt:
        if self._broker.refuses is not None:
            self._broker.refused += 1
            return Receipt(-1, -1, error=self._broker.refuses)
        if queued.partition >= self._broker.partitions(queued.topic):
            return Receipt(-1, -1, error="Local: Unknown partition")
        offset = self._broker.append(queued.topic, queued.partition, queued.value, queued.headers)
        return Receipt(queued.partition, offset)


class MemorySource:
    """A member of a group on one topic, with an assignment on demand. (port: RecordSource).

    `assign`, `revoke` and `lose` may be called from any thread; the listener hears of them inside the next `read`.
    `refuses_commits` has every commit refused. `notices_recreation`: whether it hears at once that the topic was
    recreated; the real one may hear of it some seconds later.
    """

    def __init__(self, broker: MemoryBroker, topic: str, listener: RebalanceListener) -> None:
        self.refuses_commits = False
        self.notices_recreation = True
        self.paused: set[int] = set()
        self.closed = False
        self._broker = broker
        self._topic = topic
        self._listener = listener
        self._positions: dict[int, int] = {}  # of what is assigned
        self._topic_ids: dict[int, str] = {}
        self._begun: set[int] = set()  # those of which anything was read
        self._todo: deque[Callable[[], None]] = deque()

    @property
    def owned(self) -> list[int]:
        """The partitions assigned."""
        return sorted(self._positions)

    def assign(self, partitions: Sequence[int]) -> None:
        """Give it these as well."""
        self._soon(lambda: self._assign(partitions))

    def revoke(self, partitions: Sequence[int]) -> None:
        """Take these away in good order."""
        self._soon(lambda: self._revoke(partitions))

    def lose(self, partitions: Sequence[int]) -> None:
        """Take these away without warning."""
        self._soon(lambda: self._lose(partitions))

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Do what is due, then read."""
        with self._broker.changed:
            if not self._todo and not self._readable():
                self._broker.changed.wait(seconds)
        while self._todo:
            self._todo.popleft()()
        if self.notices_recreation:
            self._check_topic()
        records: list[Record] = []
        for partition in self._readable():
            position = self._positions[partition]
            taken = self._broker.log(self._topic, partition)[position : position + limit - len(records)]
            self._positions[partition] += len(taken)
            self._begun.update({partition} if taken else ())
            records += [one for one in taken if (one.topic, partition, one.offset) not in self._broker.marks]
        return records

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from."""
        return self._topic_ids.get(partition, "")

    def pause(self, partitions: Sequence[int]) -> None:
        """Read no more of these."""
        self.paused |= set(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        """Read them again."""
        self.paused -= set(partitions)

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The next offset of each."""
        return {partition: self._positions[partition] for partition in partitions if partition in self._begun}

    def commit(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit; the answer comes inside a later `read`."""
        taken = self._take(commits)
        self._soon(lambda: on_done(taken))

    def commit_now(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait."""
        del seconds
        return self._take(commits)

    def close(self) -> None:
        """Leave the group."""
        if self.closed:
            return
        self._revoke(self.owned)
        self.closed = True

    def _soon(self, act: Callable[[], None]) -> None:
        with self._broker.changed:
            self._todo.append(act)
            self._broker.changed.notify_all()

    def _readable(self) -> list[int]:
        for partition, position in self._positions.items():
            if position > len(self._broker.log(self._topic, partition)):
                self._positions[partition] = 0  # as `auto.offset.reset` does it
        return [
            partition
            for partition, position in sorted(self._positions.items())
            if partition not in self.paused and position < len(self._broker.log(self._topic, partition))
        ]

    def _assign(self, partitions: Sequence[int]) -> None:
        topic_id = self._topic_id_now()
        committed = {}
        for partition in partitions:
            offset, metadata = self._broker.committed(partition)
            if of_another_topic(metadata, topic_id):
                offset, metadata = NO_OFFSET, ""
            committed[partition] = offset, metadata
            self._topic_ids[partition] = topic_id or topic_of(metadata)
        self._positions |= {partition: max(0, offset) for partition, (offset, _) in committed.items()}
        self.paused -= set(partitions)
        self._listener.assigned(committed)

    def _topic_id_now(self) -> str:
        try:
            identity = self._broker.identity(self._topic)
        except Unavailable:
            return ""
        return identity.topic_id if identity else ""

    def _check_topic(self) -> None:
        topic_id = self._topic_id_now()
        if not topic_id:
            return
        if set(self._topic_ids.values()) - {"", topic_id}:
            self.close()
            raise Expelled(f"{self._topic} was deleted and created again")
        self._topic_ids = dict.fromkeys(self._topic_ids, topic_id)

    def _revoke(self, partitions: Sequence[int]) -> None:
        leaving = [partition for partition in partitions if partition in self._positions]
        if leaving:
            self._listener.revoked(leaving)
        self._forget(leaving)

    def _lose(self, partitions: Sequence[int]) -> None:
        self._forget(partitions)
        self._listener.lost(partitions)

    def _forget(self, partitions: Sequence[int]) -> None:
        self.paused -= set(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self._topic_ids.pop(partition, None)
            self._begun.discard(partition)

    def _take(self, commits: Mapping[int, Commit]) -> Mapping[int, Commit]:
        if self.refuses_commits:
            return {}
        for partition, commit in commits.items():
            self._broker.commits.append(Committed(partition, commit, owned=partition in self._positions))
        return commits
