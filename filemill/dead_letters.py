"""Dead letters: what is in `file.create.dlq`, which of it is still broken, and sending it through once more.

A replay is a new run of the file: the row goes back to pending and the request through the outbox, like any other. So a
replay is numbered, can be seen and cancelled, and cannot happen twice for one failure: the row is not failed any more.
What names no file of ours (broken JSON, an id that no row has) cannot be replayed, and says so.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_reader import read_topic
from filemill.adapters.postgres_operations import retry_files
from filemill.adapters.tables import File, Tombstone
from filemill.messages import RUN, file_id_in, header, number_header
from filemill.ports import Record
from filemill.settings import Settings

# A file that has failed this many runs is broken for a reason that another one does not mend.
MAX_RUNS = 5
BATCH_FILES = 100
# A page keeps this many in memory: the newest.
KEPT_RECORDS = 20_000
_NUMBERS = re.compile(r"(?<![A-Za-z0-9])\d+")  # S3 keeps its


class LetterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a dead letter. `still_broken`: its file has failed in this run and has not been tried since.

    `refusal` is why it cannot be replayed, None where it can.
    """

    at: datetime
    file_id: int | None
    run: int | None
    reason: str
    attempts: str | None
    worker: str | None
    source: str
    trace: str | None
    still_broken: bool
    refusal: str | None


class DeadLetter(LetterFacts, frozen=True, kw_only=True):
    """One record of the topic."""

    partition: int
    offset: int
    value: bytes | None
    headers: list[tuple[str, str]] = []

    @property
    def place(self) -> str:
        """Where it is, as `partition:offset`, the form that commands take."""
        return f"{self.partition}:{self.offset}"


class Replay(msgspec.Struct, frozen=True):
    """What a replay did, or with `dry_run` would do: files per reason, and the files themselves."""

    dry_run: bool
    reasons: dict[str, int]
    files: list[int]
    refused: dict[str, str]


def read_dead_letters(settings: Settings, admin: KafkaAdmin, engine: sa.Engine) -> list[DeadLetter]:
    """All of the topic, oldest first. Raises retry.Unavailable."""
    topic = settings.topic_dead_letters
    return judge(list(read_topic(settings, topic, admin.offsets(None, topic), "dlq")), engine)


class LetterBox:
    """The topic, read once and then only what is new: for who asks again and again. One thread at a time."""

    def __init__(self, settings: Settings, engine: sa.Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._records: dict[tuple[int, int], Record] = {}
        self._next: dict[tuple[str, int], int] = {}

    def read(self, admin: KafkaAdmin) -> list[DeadLetter]:
        """The newest `KEPT_RECORDS`, oldest first, judged by how their files stand now. Raises retry.Unavailable."""
        topic = self._settings.topic_dead_letters
        spans = admin.offsets(None, topic)
        if any((part.end or 0) > max(part.begin or 0, self._next.get((topic, part.partition), 0)) for part in spans):
            for record in read_topic(self._settings, topic, spans, "dlq", self._next):
                self._records[record.partition, record.offset] = record
        self._next = {(topic, part.partition): part.end or 0 for part in spans}
        begins = {part.partition: part.begin or 0 for part in spans}
        kept = [record for record in self._records.values() if record.offset >= begins.get(record.partition, 0)]
        kept = sorted(kept, key=lambda record: record.timestamp_ms)[-KEPT_RECORDS:]
        self._records = {(record.partition, record.offset): record for record in kept}
        return judge(kept, self._engine)


def judge(records: Sequence[Record], engine: sa.Engine) -> list[DeadLetter]:
    """What the records say, and how their files stand now; oldest first. Raises retry.Unavailable."""
    ids = {file_id for record in records if (file_id := file_id_in(record.value)) is not None}
    standing: dict[int, tuple[str, int]] = {}
    buried: set[int] = set()
    if ids:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(File.id, File.status, File.run).where(File.id.in_(ids)))
            standing = {row.id: (row.status, row.run) for row in rows}
            buried = set(connection.execute(sa.select(Tombstone.file_id).where(Tombstone.file_id.in_(ids))).scalars())
    letters = [_letter(record, standing, buried) for record in records]
    return sorted(letters, key=lambda letter: (letter.at, letter.partition, letter.offset))


def _letter(record: Record, standing: dict[int, tuple[str, int]], buried: set[int]) -> DeadLetter:
    file_id, run = file_id_in(record.value), number_header(record.headers, RUN)
    status, current = standing.get(file_id or 0, (None, 0))
    still_broken = file_id is None or (status == "failed" and (run or 1) == current)
    return DeadLetter(
        partition=record.partition,
        offset=record.offset,
        at=datetime.fromtimestamp(record.timestamp_ms / 1000, UTC),
        file_id=file_id,
        run=run,
        reason=header(record.headers, "filemill-reason") or "no reason given: not one of our workers' dead letters",
        attempts=header(record.headers, "filemill-attempts"),
        worker=header(record.headers, "filemill-worker"),
        source="/".join(header(record.headers, f"filemill-{part}") or "?" for part in ("topic", "partition", "offset")),
        trace=header(record.headers, "filemill-trace"),
        value=record.value,
        still_broken=still_broken,
        refusal=_refusal(file_id, run, status, current, deleted=file_id in buried),
        headers=[(name, (value or b"").decode(errors="backslashreplace")) for name, value in record.headers or []],
    )


def _refusal(file_id: int | None, run: int | None, status: str | None, current: int, *, deleted: bool) -> str | None:
    if file_id is None:
        return "it names no file"
    if deleted:
        return f"file {file_id} was deleted"
    if status is None:
        return f"no file has the id {file_id}"
    if (run or 1) != current:
        return f"file {file_id} was tried again since (run {current})"
    if status != "failed":
        return f"file {file_id} is {status}"
    return None


def histogram(letters: Iterable[DeadLetter]) -> dict[str, int]:
    """How many dead letters have which reason, numbers in it left out; the most frequent first."""
    return dict(Counter(likeness(letter.reason) for letter in letters).most_common())


def likeness(reason: str) -> str:
    """A reason with the numbers in it left out: what the histogram counts as one."""
    return _NUMBERS.sub("N", reason)


def replay(
    engine: sa.Engine,
    letters: Sequence[DeadLetter],
    *,
    actor: str,
    rate: float,
    dry_run: bool,
    max_runs: int = MAX_RUNS,
    progress: Callable[[int], None] = lambda _count: None,
) -> Replay:
    """Start a new run of each letter's file, at most `rate` files a second. Interrupted, it can be called again.

    A file in its `max_runs`-th run or beyond is refused: a loop of failure and replay ends there.
    """
    refused = {letter.place: letter.refusal for letter in letters if letter.refusal is not None}
    wanted: dict[int, DeadLetter] = {}
    for letter in letters:
        if letter.refusal is not None or letter.file_id is None:
            continue
        if (letter.run or 1) >= max_runs:
            refused[letter.place] = f"file {letter.file_id} has failed {letter.run} runs: a loop, unless you allow more"
        else:
            wanted[letter.file_id] = letter
    result = Replay(dry_run, histogram(wanted.values()), [], refused)
    if dry_run:
        result.files.extend(sorted(wanted))
        return result
    ids, batch = sorted(wanted), max(1, min(BATCH_FILES, int(rate)))
    due = time.monotonic()
    for start in range(0, len(ids), batch):
        time.sleep(max(0.0, due - time.monotonic()))
        part = ids[start : start + batch]
        with engine.begin() as connection:
            result.files.extend(retry_files(connection, part, actor=actor, action="dlq.replay"))
        due += len(part) / rate
        progress(len(result.files))
    return result
