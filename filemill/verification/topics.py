"""The only reader of topics in verification. It yields typed records to two stores.

`filemill.adapters.sqlite.topic_index` keeps them on disk for `verify`, which looks at the state at one moment.
`topic_history` keeps them in memory for the commit audit and the lab, which look at each step.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_topic
from filemill.adapters.sqlite.topic_index import TopicIndex
from filemill.config.settings import Settings
from filemill.domain.messages import (
    RUN_HEADER,
    SEQUENCE_HEADER,
    FileCreated,
    dead_letter_origin,
    decode,
    file_id_in,
    header,
    int_header,
)
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import Record
from filemill.domain.topic_records import (
    CancelledRecord,
    DeadLetterRecord,
    IndexedResult,
    RequestRecord,
    ResultRecord,
    StoredEvent,
)
from filemill.domain.worker_events import decode_event
from filemill.errors import InvalidMessage


class TopicCoverage:
    """How much of each topic was read, and what was unreadable."""

    def __init__(self) -> None:
        self.unreadable_events = 0
        # By topic.
        self.unreadable_headers: Counter[str] = Counter()
        self.payload_bytes: Counter[str] = Counter()
        # Topics that have lost records from their beginning: a missing record proves nothing there.
        self.truncated: set[str] = set()
        # By topic and partition: where it began when it was first read, and the end of what was read.
        self.begins: dict[tuple[str, int], int] = {}
        self.read_to: dict[tuple[str, int], int] = {}


class TopicScanner:
    """Reads topics from their beginnings to their present ends. Every method raises Unavailable.

    A second call of a method continues at the end of the first. Unreadable values are counted and left out.
    """

    def __init__(self, settings: Settings, admin: KafkaAdmin, client: str, since: datetime | None = None) -> None:
        """`since` leaves out older requests, results and dead letters, but no worker events."""
        self.coverage = TopicCoverage()
        self._settings = settings
        self._queues = settings.all_queues
        self._admin = admin
        self._client = client
        self._since = since

    def requests(self, queue: str = DEFAULT_QUEUE) -> Iterator[RequestRecord]:
        """The records of a queue's topic."""
        for record in self._read(self._queues[queue].topic, self._since):
            run, sequence = int_header(record.headers, RUN_HEADER), int_header(record.headers, SEQUENCE_HEADER)
            file_id = file_id_in(record.value)
            yield RequestRecord(file_id, run, sequence, record.partition, record.offset, _at(record), queue)

    def results(self) -> Iterator[ResultRecord]:
        """The readable records of `file.created`."""
        for record in self._read(self._settings.topic_created, self._since):
            try:
                record.require_readable_headers()
                event = decode(record.value, FileCreated)
            except InvalidMessage:
                self.coverage.unreadable_events += 1
            else:
                yield ResultRecord(record.partition, record.offset, _at(record), event)

    def dead_letters(self) -> Iterator[DeadLetterRecord]:
        """The records of the dead letter topic."""
        names = {queue.topic: queue.name for queue in self._queues.values()}
        for record in self._read(self._settings.topic_dead_letters, self._since):
            partition, offset = dead_letter_origin(record.headers) or (None, None)
            queue = names.get(header(record.headers, "filemill-topic") or "", DEFAULT_QUEUE)
            yield DeadLetterRecord(file_id_in(record.value), partition, offset, _at(record), queue)

    def worker_events(self) -> Iterator[StoredEvent]:
        """The readable records of `worker.events`."""
        for record in self._read(self._settings.topic_worker_events, None):
            try:
                record.require_readable_headers()
                event = decode_event(record.value)
            except InvalidMessage:
                self.coverage.unreadable_events += 1
            else:
                yield StoredEvent(_at(record), event)

    def _read(self, topic: str, since: datetime | None) -> Iterator[Record]:
        coverage, parts = self.coverage, self._admin.offsets(None, topic)
        if any(part.begin for part in parts):
            coverage.truncated.add(topic)
        begins = dict(coverage.read_to)
        if since is not None and not any(key[0] == topic for key in begins):
            found = self._admin.offsets_at(topic, int(1000 * since.timestamp()))
            begins.update({(topic, partition): offset for partition, offset in found.items()})
        for part in parts:
            coverage.begins.setdefault((topic, part.partition), part.begin or 0)
        coverage.read_to.update({(topic, part.partition): part.end for part in parts if part.end is not None})
        for record in read_topic(self._settings, topic, parts, self._client, begins):
            coverage.payload_bytes[topic] += _size(record)
            if record.headers_error is not None:
                coverage.unreadable_headers[topic] += 1
            yield record


class TopicSnapshot:
    """What `verify` knows of Kafka: the topics' contents, and the state of the group before they were read."""

    def __init__(self, settings: Settings, admin: KafkaAdmin, generations: dict[str, int], index: TopicIndex) -> None:
        """`generations`: the number of the present topic of each name, 0 if there is none."""
        self.index = index
        self.generations = generations
        # By queue and by partition of its topic.
        self.committed: dict[str, dict[int, int | None]] = {}
        self.owners: dict[str, dict[int, str]] = {}
        self._settings = settings
        self._admin = admin
        self._scanner = TopicScanner(settings, admin, "verify")
        self.coverage = self._scanner.coverage
        self.coverage.truncated.update(topic for topic, generation in generations.items() if generation != 1)

    def read(self) -> None:
        """Read the state of the group and all topics. Raises Unavailable."""
        settings, admin, scanner = self._settings, self._admin, self._scanner
        # Committed offsets first: a record that is committed by now must have its result on the topics read later.
        # Owners before them: a worker that read a record before its removal commits it, or loses its partition.
        for queue in settings.all_queues.values():
            of_queue = settings.of_queue(queue.name)
            self.owners[queue.name] = {}
            if of_queue.offsets_group is not None:
                group = admin.describe_group(of_queue.offsets_group, queue.topic)
                self.owners[queue.name] = {number: one.client_id for one in group.members for number in one.partitions}
            parts = admin.offsets(of_queue.offsets_group, queue.topic)
            self.committed[queue.name] = {part.partition: part.committed for part in parts}
        self.read_results()
        self.index.insert("cancelled", _cancelled(scanner.worker_events()))
        for name in settings.all_queues:
            self.index.insert("requests", scanner.requests(name))
        self.index.create_indexes()

    def read_results(self) -> None:
        """Read the results and dead letters that arrived since the last call. Raises Unavailable."""
        self.index.insert("results", map(_indexed, self._scanner.results()))
        self.index.insert("dead_letters", self._scanner.dead_letters())


def _indexed(record: ResultRecord) -> IndexedResult:
    event = record.event
    return IndexedResult(event.file_id, event.run, event.status, record.partition, record.offset)


def _cancelled(events: Iterator[StoredEvent]) -> Iterator[CancelledRecord]:
    return (cancelled for event in events if (cancelled := event.cancelled) is not None)


def _size(record: Record) -> int:
    return len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)


def _at(record: Record) -> float:
    return record.timestamp_ms / 1000
