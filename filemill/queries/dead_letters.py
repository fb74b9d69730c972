"""Reading the topic of dead letters: a small index in memory; payloads are read by position when they are shown.

A topic of gigabytes is read in batches of a few megabytes. The index keeps file, reason and position of the newest
`KEPT_RECORDS` records, with texts cut to a bounded length. An unreadable record is an entry with a `problem`.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_records_at, read_topic
from filemill.adapters.postgres.tables import DeadLetterDismissal, File, Tombstone
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import LogOffsets
from filemill.domain.dead_letters import (
    DeadLetter,
    DeadLetterEntry,
    DismissalKey,
    FileState,
    dead_letter_entry,
    dead_letters,
    parse_place,
)
from filemill.domain.messages import header
from filemill.domain.records import Record, TopicIdentity
from filemill.errors import Unavailable

# The index holds this many records, the newest.
KEPT_RECORDS = 20_000
# During a read the index may hold this many more, so that it is not cut for each record.
SLACK_RECORDS = 5_000
# Size of the payloads and headers that a list or a command holds in memory at once.
CHUNK_BYTES = 1024 * 1024
# A caller waits this long for a read that another caller has started.
WAIT_SECONDS = 30.0


_FILES = sa.select(File.id, File.status, File.run, File.finished_at)


class DeadLetterSnapshot(msgspec.Struct, frozen=True):
    """The dead letters, oldest first. `truncated`: there are older records that the index does not hold."""

    items: list[DeadLetter]
    truncated: bool = False


class DeadLetterContent(msgspec.Struct, frozen=True):
    """What the index does not keep of a record. The value of a header without a value is None, which is not empty."""

    value: bytes | None
    headers: list[tuple[str, str | None]]
    trace: str | None


def current_dead_letters(entries: Collection[DeadLetterEntry], engine: sa.Engine) -> list[DeadLetter]:
    """The dead letters of these entries, with the current state of their files; oldest first. Raises Unavailable."""
    ids = sorted({entry.file_id for entry in entries if entry.file_id is not None})
    files: dict[int, FileState] = {}
    deleted: set[int] = set()
    dismissed: set[DismissalKey] = set()
    if entries:
        columns = DeadLetterDismissal.partition, DeadLetterDismissal.offset, DeadLetterDismissal.timestamp_ms
        with engine.connect() as connection:
            dismissed = {(row[0], row[1], row[2]) for row in connection.execute(sa.select(*columns))}
    if ids:
        named = sa.func.any(sa.bindparam("ids", ids))
        with engine.connect() as connection:
            rows = connection.execute(_FILES.where(File.id == named))
            files = {row.id: FileState(row.status, row.run, row.finished_at) for row in rows}
            deleted = set(connection.execute(sa.select(Tombstone.file_id).where(Tombstone.file_id == named)).scalars())
    return dead_letters(entries, files, deleted, dismissed)


class DeadLetterIndex:
    """Any thread. One read at a time continues where the last one stopped; callers that wait share the next read."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        *,
        kept_records: int = KEPT_RECORDS,
        slack_records: int = SLACK_RECORDS,
    ) -> None:
        self._settings = settings
        self._kept_records = kept_records
        self._slack_records = slack_records
        self._topic = settings.topic_dead_letters
        self._engine = engine
        self._lock = threading.Lock()
        self._begun = 0
        self._latest: DeadLetterSnapshot | Unavailable = DeadLetterSnapshot([])
        self._identity: TopicIdentity | None = None
        self._entries: dict[tuple[int, int], DeadLetterEntry] = {}
        self._next: dict[tuple[str, int], int] = {}
        # By partition: the time of the latest record with a credible time.
        self._times: dict[int, int] = {}
        self._truncated = False

    def read(self, admin: KafkaAdmin) -> DeadLetterSnapshot:
        """Read new records; returns all dead letters with the current state of their files. Raises Unavailable."""
        before = self._begun
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise Unavailable("the dead letters are still being read: try again", code="dead-letters-busy")
        try:
            if self._begun == before:  # else a read began after this call, and has finished
                self._begun += 1
                self._latest = self._try(admin)
            latest = self._latest
        finally:
            self._lock.release()
        if isinstance(latest, Unavailable):
            raise latest
        return latest

    def find(self, admin: KafkaAdmin, places: Sequence[str]) -> dict[str, DeadLetter]:
        """The dead letters at these positions (`partition:offset`); those that do not exist are left out.

        The position of any of its records finds a dead letter, even if the index does not hold that record any more.
        """
        known = {letter.key: letter for letter in self.read(admin).items}
        wanted = {place: parsed for place in places if (parsed := parse_place(place)) is not None}
        with self._lock:
            keys = {place: self._entries[at].key for place, at in wanted.items() if at in self._entries}
        found = {place: known[key] for place, key in keys.items() if key in known}
        missing = {at: place for place, at in wanted.items() if place not in found}
        for record in self._read_places(admin, list(missing)):
            entry = dead_letter_entry(record, 0)
            place = missing[record.partition, record.offset]
            found[place] = known.get(entry.key) or current_dead_letters([entry], self._engine)[0]
        return found

    def contents(self, admin: KafkaAdmin, letters: Sequence[DeadLetter]) -> list[DeadLetterContent | None]:
        """The contents of the latest records of some dead letters (see `chunks`); None: the record is gone."""
        places = [letter.latest for letter in letters]
        found = {(record.partition, record.offset): _content(record) for record in self._read_places(admin, places)}
        return [found.get(place) for place in places]

    def content(self, admin: KafkaAdmin, place: tuple[int, int]) -> DeadLetterContent | None:
        """The content of the record at a position; None: it is gone. Raises Unavailable."""
        return next((_content(record) for record in self._read_places(admin, [place])), None)

    def _read_places(self, admin: KafkaAdmin, places: Sequence[tuple[int, int]]) -> Iterator[Record]:
        if not places:
            return iter(())
        spans = {part.partition: part for part in admin.offsets(None, self._topic)}
        there = [place for place in places if place[0] in spans and _holds(spans[place[0]], place[1])]
        return read_records_at(self._settings, self._topic, there, "dlq")

    def _try(self, admin: KafkaAdmin) -> DeadLetterSnapshot | Unavailable:
        try:
            return self._read(admin)
        except Unavailable as error:
            return error

    def _read(self, admin: KafkaAdmin) -> DeadLetterSnapshot:
        identity = admin.identities([self._topic]).get(self._topic)
        if identity is not None and not identity.is_same_topic(
            self._identity
        ):  # recreated: the offsets are of other records
            self._forget()
            self._identity = identity
        spans = admin.offsets(None, self._topic)
        begins = {part.partition: part.begin or 0 for part in spans}
        for part in spans:
            known = self._next.get((self._topic, part.partition), 0)
            start = max(known, begins[part.partition], (part.end or 0) - self._kept_records)
            self._truncated = self._truncated or start > max(known, begins[part.partition])
            self._next[self._topic, part.partition] = start
        for record in read_topic(self._settings, self._topic, spans, "dlq", dict(self._next)):
            self._add(record)
            self._next[self._topic, record.partition] = record.offset + 1  # counts even if the rest fails
        for part in spans:
            place = self._topic, part.partition
            self._next[place] = max(self._next[place], part.end or 0)
        there = [one for one in self._entries.values() if one.partition in begins]
        self._keep(one for one in there if one.offset >= begins[one.partition])
        return DeadLetterSnapshot(current_dead_letters(list(self._entries.values()), self._engine), self._truncated)

    def _add(self, record: Record) -> None:
        entry = dead_letter_entry(record, self._times.get(record.partition, 0))
        self._times[record.partition] = entry.order_ms
        self._entries[entry.partition, entry.offset] = entry
        if len(self._entries) > self._kept_records + self._slack_records:
            self._keep(self._entries.values())

    def _keep(self, entries: Iterable[DeadLetterEntry]) -> None:
        """Keep the newest of these entries."""
        kept = list(entries)
        if len(kept) > self._kept_records:
            kept = sorted(kept, key=lambda one: one.order)[-self._kept_records :]
            self._truncated = True
        self._entries = {(one.partition, one.offset): one for one in kept}

    def _forget(self) -> None:
        self._entries, self._next, self._times, self._truncated = {}, {}, {}, False


def read_dead_letters(settings: Settings, admin: KafkaAdmin, engine: sa.Engine) -> list[DeadLetter]:
    """The dead letters, oldest first, read once. Raises Unavailable."""
    return DeadLetterIndex(settings, engine).read(admin).items


def chunks(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Split dead letters into lists whose contents fit into `CHUNK_BYTES`; a larger one is a list of its own."""
    chunk: list[DeadLetter] = []
    weight = 0
    for letter in letters:
        if chunk and weight + letter.weight > CHUNK_BYTES:
            yield chunk
            chunk, weight = [], 0
        chunk.append(letter)
        weight += letter.weight
    if chunk:
        yield chunk


def _holds(part: LogOffsets, offset: int) -> bool:
    return (part.begin or 0) <= offset < (part.end or 0)


def _content(record: Record) -> DeadLetterContent:
    headers = [(name, _text(value)) for name, value in record.headers or []]
    return DeadLetterContent(record.value, headers, header(record.headers, "filemill-trace"))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")
