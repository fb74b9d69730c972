"""What the topics say: the other half of every comparison that `verify` makes with the rows.

It is kept in a temporary file of SQLite's, which is gone with the process, however that ends: a million files take no
more memory than a thousand.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_topic
from filemill.config.settings import Settings
from filemill.domain.messages import (
    RUN_HEADER,
    SEQUENCE_HEADER,
    FileCreated,
    dead_letter_origin,
    decode,
    file_id_in,
    int_header,
)
from filemill.domain.partitioning import Placement
from filemill.domain.records import Record
from filemill.domain.worker_events import EventKind, decode_event
from filemill.errors import InvalidMessage, Unavailable

# Once what they are over is there: kept up with each record they would cost twice as much.
INDEXES = """
    CREATE INDEX requests_by_number ON requests (number, partition);
    CREATE INDEX results_by_file ON results (file_id, run);
    CREATE INDEX dead_letters_by_file ON dead_letters (file_id);
    CREATE INDEX dead_letters_by_place ON dead_letters (partition, "offset");
    CREATE INDEX cancelled_by_place ON cancelled (partition, "offset");
"""
COMMITTED_UNFINISHED = """
    SELECT * FROM requests AS request WHERE partition = ? AND "offset" < ?
    AND NOT EXISTS (
        SELECT 1 FROM results WHERE file_id = request.file_id AND (run IS NULL OR run = request.run)
    ) AND NOT EXISTS (
        SELECT 1 FROM dead_letters WHERE partition = request.partition AND "offset" = request."offset"
    ) AND NOT EXISTS (
        SELECT 1 FROM cancelled WHERE partition = request.partition AND "offset" = request."offset"
    ) ORDER BY "offset"
"""


class RequestRecord(NamedTuple):
    """A record of `file.create`: whose, and where it stands. `file_id` None: unreadable."""

    file_id: int | None
    run: int | None
    sequence: int | None
    partition: int
    offset: int


class ResultRecord(NamedTuple):
    """A record of `file.created`: how whose run ended, and where that stands. `run` None: it counts for any."""

    file_id: int
    run: int | None
    status: str
    partition: int
    offset: int


class DeadLetterRecord(NamedTuple):
    """A record of the dead letters: whose, and its place on `file.create`; None is what it does not say."""

    file_id: int | None
    partition: int | None
    offset: int | None


class CancelledRecord(NamedTuple):
    """The place on `file.create` of a run that a worker let go because it was cancelled."""

    partition: int
    offset: int


Kept = type[RequestRecord | ResultRecord | DeadLetterRecord | CancelledRecord]
TABLES: dict[str, Kept] = {
    "requests": RequestRecord,
    "results": ResultRecord,
    "dead_letters": DeadLetterRecord,
    "cancelled": CancelledRecord,
}


class TopicFacts:
    """What the topics say of some files."""

    def __init__(self, results: Iterable[ResultRecord], dead_letters: Iterable[int]) -> None:
        """`results` in the order in which they were read, `dead_letters` by their files."""
        self.dead_letters = frozenset(dead_letters)
        self._results: dict[int, list[ResultRecord]] = {}
        for result in results:
            self._results.setdefault(result.file_id, []).append(result)

    def results(self, file_id: int, run: int) -> list[ResultRecord]:
        """Those of a run, in the order in which they were read; after them those without a run."""
        known = self._results.get(file_id, [])
        return [one for one in known if one.run == run] + [one for one in known if one.run is None]


class TopicIndex:
    """All that the topics hold, up to their ends at the beginning of the reading."""

    def __init__(self) -> None:
        self.unreadable_events = 0
        # Records whose headers cannot be read, by topic.
        self.unreadable_headers: Counter[str] = Counter()
        self.committed: dict[int, int | None] = {}
        self.partitions = 0
        # Topics whose beginning is gone by retention: what they do not say proves nothing.
        self.truncated: set[str] = set()
        # Who owned the partitions of the requests when their committed offsets were asked.
        self.owners: dict[int, str] = {}
        # Of each topic, the number under which what was read is stored: see adapters/postgres_topics.py.
        self.generations: dict[str, int] = {}
        # How far each topic was read, by topic and partition: what lies beyond is not known.
        self.read_to: dict[tuple[str, int], int] = {}
        # Where each partition began when it was first read.
        self.begins: dict[tuple[str, int], int] = {}
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA journal_mode = OFF")
        for table, record in TABLES.items():
            columns = ", ".join(f'"{field}"' for field in record._fields)
            self._database.execute(f"CREATE TABLE {table} ({columns})")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def insert(
        self, table: str, rows: Iterable[RequestRecord | ResultRecord | DeadLetterRecord | CancelledRecord]
    ) -> None:
        """Put records into the table of their kind. Raises Unavailable where there is no room."""
        places = ", ".join("?" for _ in TABLES[table]._fields)
        with _room():
            self._database.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - a name of ours
            self._database.commit()

    def create_indexes(self) -> None:
        """Make it quick to ask, once most is there. Raises Unavailable where there is no room."""
        with _room():
            self._database.executescript(INDEXES)

    def ignore_unknown_sequences(self, next_number: int) -> int:
        """Take publish numbers from here on for somebody else's, who may claim any; returns how many have one."""
        with _room():
            return self._database.execute(
                "UPDATE requests SET number = NULL WHERE number >= ?", (next_number,)
            ).rowcount

    def has_request(self, number: int, file_id: int) -> bool:
        """Whether a record with this publish number asks for this file."""
        found = self._rows("SELECT count(*) FROM requests WHERE number = ? AND file_id = ?", (number, file_id))
        return bool(next(found)[0])

    def first_sequence(self) -> int | None:
        """The least publish number on `file.create`."""
        ((least,),) = self._rows("SELECT min(number) FROM requests")
        return None if least is None else int(least)

    def facts(self, first_id: int, last_id: int) -> TopicFacts:
        """What the topics say of the files from one id to another."""
        ids = first_id, last_id
        results = self._rows("SELECT * FROM results WHERE file_id BETWEEN ? AND ? ORDER BY rowid", ids)
        letters = self._rows("SELECT file_id FROM dead_letters WHERE file_id BETWEEN ? AND ?", ids)
        return TopicFacts(map(ResultRecord._make, results), (file_id for (file_id,) in letters))

    def sequences(self) -> Iterator[Placement]:
        """The publish numbers on `file.create`, each once, ascending, with the partition that was read first."""
        numbers = "SELECT number, partition, min(rowid) FROM requests WHERE number IS NOT NULL GROUP BY number"
        return (Placement(number, partition) for number, partition, _ in self._rows(f"{numbers} ORDER BY number"))

    def sequences_on_two_partitions(self) -> Iterator[int]:
        """The publish numbers that stand on more than one partition, ascending."""
        numbers = "SELECT number FROM requests WHERE number IS NOT NULL GROUP BY number"
        return (number for (number,) in self._rows(f"{numbers} HAVING min(partition) < max(partition) ORDER BY number"))

    def committed_unfinished(self) -> list[RequestRecord]:
        """What the group's commits have passed without a result, a dead letter or a word that it was cancelled."""
        spans = [(partition, committed) for partition, committed in self.committed.items() if committed]
        return [RequestRecord._make(row) for span in spans for row in self._rows(COMMITTED_UNFINISHED, span)]

    def repeats(self) -> int:
        """How many records of `file.create` repeat a publish number."""
        return self._count("SELECT count(number) - count(DISTINCT number) FROM requests")

    def duplicate_results(self) -> int:
        """How many records of `file.created` are not the first of their run."""
        return self._count("SELECT sum(times - 1) FROM (SELECT count(*) AS times FROM results GROUP BY file_id, run)")

    def dead_letters(self) -> int:
        """How many there are."""
        return self._count("SELECT count(*) FROM dead_letters")

    def distinct_dead_letters(self) -> int:
        """How many records died: one that was read again came several times. Those without a place count each."""
        return self._count(
            'SELECT count(DISTINCT partition || char(58) || "offset") + sum(partition IS NULL) FROM dead_letters'
        )

    def _count(self, query: str) -> int:
        ((count,),) = self._rows(query)
        return count or 0

    def _rows(self, query: str, parameters: Sequence[int] = ()) -> Iterator[tuple[Any, ...]]:
        with _room():
            yield from self._database.execute(query, parameters)


def gather(settings: Settings, admin: KafkaAdmin, evidence: TopicIndex) -> None:
    """Read the topics from their beginnings to their present ends. Raises Unavailable."""
    # Committed offsets first: what is committed by now must have its result on the topics that are read after.
    # Owners before them: who had read a record before it was removed commits it, or has lost its partition.
    if settings.offsets_group is not None:
        group = admin.describe_group(settings.offsets_group, settings.topic_create)
        evidence.owners = {partition: one.client_id for one in group.members for partition in one.partitions}
    for part in admin.offsets(settings.offsets_group, settings.topic_create):
        evidence.committed[part.partition] = part.committed
        evidence.partitions += 1
    catch_up(settings, admin, evidence)
    events = _records(settings, admin, settings.topic_worker_events, evidence)
    evidence.insert("cancelled", _cancelled(events, evidence))
    requests = _records(settings, admin, settings.topic_create, evidence)
    evidence.insert("requests", map(_request, requests))
    evidence.create_indexes()


def catch_up(settings: Settings, admin: KafkaAdmin, evidence: TopicIndex) -> None:
    """Read on, through what came to the results and the dead letters since. Raises Unavailable."""
    results = _records(settings, admin, settings.topic_created, evidence)
    evidence.insert("results", _results(results, evidence))
    letters = _records(settings, admin, settings.topic_dead_letters, evidence)
    evidence.insert("dead_letters", map(_dead_letter, letters))


def _request(record: Record) -> RequestRecord:
    file_id, headers = file_id_in(record.value), record.headers
    run, number = int_header(headers, RUN_HEADER), int_header(headers, SEQUENCE_HEADER)
    return RequestRecord(file_id, run, number, record.partition, record.offset)


def _results(records: Iterable[Record], evidence: TopicIndex) -> Iterator[ResultRecord]:
    for record in records:
        try:
            record.require_readable_headers()
            event = decode(record.value, FileCreated)
        except InvalidMessage:
            evidence.unreadable_events += 1
        else:
            yield ResultRecord(event.file_id, event.run, event.status, record.partition, record.offset)


def _cancelled(records: Iterable[Record], evidence: TopicIndex) -> Iterator[CancelledRecord]:
    for record in records:
        try:
            record.require_readable_headers()
            event = decode_event(record.value)
        except InvalidMessage:
            evidence.unreadable_events += 1
            continue
        if event.kind is EventKind.CANCELLED and event.partition is not None and event.offset is not None:
            yield CancelledRecord(event.partition, event.offset)


def _dead_letter(record: Record) -> DeadLetterRecord:
    place = dead_letter_origin(record.headers) or (None, None)
    return DeadLetterRecord(file_id_in(record.value), *place)


def _records(settings: Settings, admin: KafkaAdmin, topic: str, evidence: TopicIndex) -> Iterator[Record]:
    spans = admin.offsets(None, topic)
    if any(part.begin for part in spans):
        evidence.truncated.add(topic)
    for part in spans:
        evidence.begins.setdefault((topic, part.partition), part.begin or 0)
    since = dict(evidence.read_to)
    evidence.read_to.update({(topic, part.partition): part.end for part in spans if part.end is not None})
    return _counted(read_topic(settings, topic, spans, "verify", since), evidence)


def _counted(records: Iterable[Record], evidence: TopicIndex) -> Iterator[Record]:
    """Pass them on, and count those whose headers cannot be read."""
    for record in records:
        if record.headers_error is not None:
            evidence.unreadable_headers[record.topic] += 1
        yield record


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"what the topics say cannot be kept in a temporary file (TMPDIR says where): {error}"
        ) from None
