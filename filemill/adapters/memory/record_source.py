"""In-memory RecordSource: a member of a consumer group whose assignment the test decides."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from filemill.adapters.memory.broker import NO_OFFSET, MemoryBroker, RecordedCommit
from filemill.domain.offsets import Commit, is_of_another_topic, topic_id_in
from filemill.domain.records import Record
from filemill.errors import MemberExpelled, Unavailable
from filemill.ports import RebalanceListener


class MemoryRecordSource:
    """A member of a group that reads one topic. (port: RecordSource).

    `assign`, `revoke` and `lose` may be called from any thread; the listener is called inside the next `read`. While
    `rejects_commits` is set, every commit fails. `notices_recreation`: whether the member notices a recreated topic at
    once. The real one may notice it some seconds later.
    """

    def __init__(self, broker: MemoryBroker, topic: str, listener: RebalanceListener) -> None:
        self.rejects_commits = False
        self.notices_recreation = True
        self.paused: set[int] = set()
        self.closed = False
        self._broker = broker
        self._topic = topic
        self._listener = listener
        self._positions: dict[int, int] = {}  # of the assigned partitions
        self._topic_ids: dict[int, str] = {}
        self._read_from: set[int] = set()  # those of which something was read
        self._pending: deque[Callable[[], None]] = deque()

    @property
    def owned(self) -> list[int]:
        """The assigned partitions."""
        return sorted(self._positions)

    def assign(self, partitions: Sequence[int]) -> None:
        """Assign these partitions in addition."""
        self._enqueue(lambda: self._assign(partitions))

    def revoke(self, partitions: Sequence[int]) -> None:
        """Revoke these partitions."""
        self._enqueue(lambda: self._revoke(partitions))

    def lose(self, partitions: Sequence[int]) -> None:
        """Lose these partitions, as an expelled member does."""
        self._enqueue(lambda: self._lose(partitions))

    def read(self, limit: int, seconds: float) -> list[Record]:
        """Process the pending assignments and commit results, then read."""
        with self._broker.changed:
            if not self._pending and not self._readable():
                self._broker.changed.wait(seconds)
        while self._pending:
            self._pending.popleft()()
        if self.notices_recreation:
            self._check_topic()
        records: list[Record] = []
        for partition in self._readable():
            position = self._positions[partition]
            taken = self._broker.log(self._topic, partition)[position : position + limit - len(records)]
            self._positions[partition] += len(taken)
            self._read_from.update({partition} if taken else ())
            records += [one for one in taken if (one.topic, partition, one.offset) not in self._broker.control_records]
        return records

    def topic_id(self, partition: int) -> str:
        """The id of the topic that an assigned partition is read from."""
        return self._topic_ids.get(partition, "")

    def pause(self, partitions: Sequence[int]) -> None:
        """Stop reading these partitions."""
        self.paused |= set(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        """Read these partitions again."""
        self.paused -= set(partitions)

    def positions(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """The next offset of each partition of which something was read."""
        return {partition: self._positions[partition] for partition in partitions if partition in self._read_from}

    def commit_async(self, commits: Mapping[int, Commit], on_done: Callable[[Mapping[int, Commit]], None]) -> None:
        """Commit; `on_done` is called inside a later `read`."""
        stored = self._store(commits)
        self._enqueue(lambda: on_done(stored))

    def commit_sync(self, commits: Mapping[int, Commit], seconds: float) -> Mapping[int, Commit]:
        """Commit and wait."""
        del seconds
        return self._store(commits)

    def close(self) -> None:
        """Leave the group."""
        if self.closed:
            return
        self.closed = True
        self._revoke(self.owned)

    def _enqueue(self, call: Callable[[], None]) -> None:
        with self._broker.changed:
            self._pending.append(call)
            self._broker.changed.notify_all()

    def _readable(self) -> list[int]:
        for partition, position in self._positions.items():
            if position > len(self._broker.log(self._topic, partition)):
                self._positions[partition] = 0  # as with auto.offset.reset=earliest
        return [
            partition
            for partition, position in sorted(self._positions.items())
            if partition not in self.paused and position < len(self._broker.log(self._topic, partition))
        ]

    def _assign(self, partitions: Sequence[int]) -> None:
        topic_id = self._current_topic_id()
        committed = {}
        for partition in partitions:
            offset, metadata = self._broker.committed(partition)
            if is_of_another_topic(metadata, topic_id):
                offset, metadata = NO_OFFSET, ""
            committed[partition] = offset, metadata
            self._topic_ids[partition] = topic_id or topic_id_in(metadata)
        self._positions |= {partition: max(0, offset) for partition, (offset, _) in committed.items()}
        self.paused -= set(partitions)
        self._listener.on_assigned(committed)

    def _current_topic_id(self) -> str:
        try:
            identity = self._broker.identity(self._topic)
        except Unavailable:
            return ""
        return identity.topic_id if identity else ""

    def _check_topic(self) -> None:
        topic_id = self._current_topic_id()
        if not topic_id:
            return
        if set(self._topic_ids.values()) - {"", topic_id}:
            self.close()
            raise MemberExpelled(f"{self._topic} was deleted and recreated")
        self._topic_ids = dict.fromkeys(self._topic_ids, topic_id)

    def _revoke(self, partitions: Sequence[int]) -> None:
        leaving = [partition for partition in partitions if partition in self._positions]
        if leaving:
            self._listener.on_revoked(leaving)
        self._forget(leaving)

    def _lose(self, partitions: Sequence[int]) -> None:
        self._forget(partitions)
        self._listener.on_lost(partitions)

    def _forget(self, partitions: Sequence[int]) -> None:
        self.paused -= set(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self._topic_ids.pop(partition, None)
            self._read_from.discard(partition)

    def _store(self, commits: Mapping[int, Commit]) -> Mapping[int, Commit]:
        if self.rejects_commits:
            return {}
        for partition, commit in commits.items():
            self._broker.commits.append(RecordedCommit(partition, commit, owned=partition in self._positions))
        return commits
