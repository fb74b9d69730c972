"""Dead letters: what is in `file.create.dlq`, which of it is still broken, and sending it through once more.

A record of `file.create` has one dead letter, however often it was read and came here again: later ones are counted on
it. A replay is a new run of the file: the row goes back to pending and the request through the outbox, like any other.
So a replay is numbered, can be seen and cancelled, and cannot happen twice for one failure: the row is not failed any
more. What names no file of ours (broken JSON, an id that no row has) cannot be replayed, and says so.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.operations import retry_files
from filemill.adapters.postgres.tables import File, Tombstone
from filemill.domain.messages import RUN, dead_letter_place, file_id_in, header, number_header
from filemill.domain.records import Record

# A file that has failed this many runs is broken for a reason that another one does not mend.
MAX_RUNS = 5
BATCH_FILES = 100
# A record that is dated further ahead of this machine's clock than this has no credible time.
AHEAD_MILLISECONDS = 86_400_000
# What is kept of a text that whoever wrote the record has chosen.
REASON_CHARACTERS = 300
NAME_CHARACTERS = 250
_NUMBERS = re.compile(r"(?<![A-Za-z0-9])(?<!UTF-)\d+")  # S3 and UTF-8 keep theirs


class LetterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a dead letter. `still_broken`: its file has failed in this run and has not been tried since.

    The record that died was read `count` times: `first_at` is when it came here first, `at` when it came last; None is
    a time that is not credible. All else is of the last time. `refusal` is why it cannot be replayed, None where it
    can. `code` is the reason for programs, where a worker gave one. `problem` is what of the dead letter cannot be
    read. `size` is its payload's, in bytes.
    """

    at: datetime | None
    first_at: datetime | None
    count: int
    file_id: int | None
    run: int | None
    code: str | None
    reason: str
    attempts: str | None
    worker: str | None
    source: str
    size: int
    problem: str | None
    still_broken: bool
    refusal: str | None


class DeadLetter(LetterFacts, frozen=True, kw_only=True):
    """The dead letter of one record: `partition` and `offset` are the place of the first, `latest` that of the last.

    `key` is the same for all of them, `weight` is the bytes of payload and headers, `order` the place in the list.
    """

    partition: int
    offset: int
    latest: tuple[int, int]
    key: int
    weight: int
    order: tuple[int, int, int]

    @property
    def place(self) -> str:
        """Where it is, as `partition:offset`, the form that commands take."""
        return f"{self.partition}:{self.offset}"


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of one record of the topic. `at_ms` is None where its time is not credible.

    `order_ms` is its time for the order of the list: then that of the record before it.
    """

    partition: int
    offset: int
    at_ms: int | None
    order_ms: int
    size: int
    weight: int
    key: int
    file_id: int | None
    run: int | None
    code: str | None
    reason: str
    attempts: str | None
    worker: str | None
    source: str
    problem: str | None

    @property
    def order(self) -> tuple[int, int, int]:
        """By time, then by place."""
        return self.order_ms, self.partition, self.offset


class Replay(msgspec.Struct, frozen=True):
    """What a replay did, or with `dry_run` would do: files per reason, and the files themselves."""

    dry_run: bool
    reasons: dict[str, int]
    files: list[int]
    refused: dict[str, str]


def entry_of(record: Record, before_ms: int) -> Entry:
    """What is kept of a record, whatever is in it; `before_ms` is the time of the one before it in its partition."""
    headers = record.headers or []
    problems = [] if record.headers_error is None else [record.headers_error]
    credible = 0 < record.timestamp_ms <= time.time() * 1000 + AHEAD_MILLISECONDS
    if not credible:
        problems.append(
            "its time is ahead of now" if record.timestamp_ms > 0 else "its timestamp is no time since 1970"
        )
    problem = "; ".join(problems) or None
    unknown = f"no reason can be read: {problem}" if record.headers_error is not None else None
    reason = header(headers, "filemill-reason") or unknown or "no reason given: not one of our workers' dead letters"
    topic, died_at = header(headers, "filemill-topic"), dead_letter_place(headers)
    # The value belongs to it: where the source's topic was recreated, another record has the same place.
    whose = (record.partition, record.offset) if died_at is None else (topic, *died_at, record.value)
    return Entry(
        partition=record.partition,
        offset=record.offset,
        at_ms=record.timestamp_ms if credible else None,
        order_ms=record.timestamp_ms if credible else before_ms,
        size=len(record.value or b""),
        weight=len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in headers),
        key=hash(whose),
        file_id=file_id_in(record.value),
        run=number_header(headers, RUN),
        code=_short(headers, "filemill-code"),
        reason=_cut(reason, REASON_CHARACTERS),
        attempts=_short(headers, "filemill-attempts"),
        worker=_short(headers, "filemill-worker"),
        source="/".join(_short(headers, f"filemill-{part}") or "?" for part in ("topic", "partition", "offset")),
        problem=problem,
    )


def judge(entries: Iterable[Entry], engine: sa.Engine) -> list[DeadLetter]:
    """One dead letter for each record that died, and how its file stands now; oldest first.

    Raises Unavailable.
    """
    same: dict[int, list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: one.order):
        same.setdefault(entry.key, []).append(entry)
    ids = sorted({group[-1].file_id for group in same.values() if group[-1].file_id is not None})
    standing: dict[int, tuple[str, int]] = {}
    buried: set[int] = set()
    if ids:
        named = sa.func.any(sa.bindparam("ids", ids))
        with engine.connect() as connection:
            rows = connection.execute(sa.select(File.id, File.status, File.run).where(File.id == named))
            standing = {row.id: (row.status, row.run) for row in rows}
            buried = set(connection.execute(sa.select(Tombstone.file_id).where(Tombstone.file_id == named)).scalars())
    letters = [_letter(group, standing, buried) for group in same.values()]
    return sorted(letters, key=lambda letter: letter.order)


def _letter(group: Sequence[Entry], standing: dict[int, tuple[str, int]], buried: set[int]) -> DeadLetter:
    first, last = group[0], group[-1]
    status, current = standing.get(last.file_id or 0, (None, 0))
    still_broken = last.file_id is None or (status == "failed" and (last.run or 1) == current)
    return DeadLetter(
        partition=first.partition,
        offset=first.offset,
        latest=(last.partition, last.offset),
        key=last.key,
        weight=last.weight,
        order=last.order,
        at=_moment(last.at_ms),
        first_at=_moment(first.at_ms),
        count=len(group),
        file_id=last.file_id,
        run=last.run,
        code=last.code,
        reason=last.reason,
        attempts=last.attempts,
        worker=last.worker,
        source=last.source,
        size=last.size,
        problem=last.problem,
        still_broken=still_broken,
        refusal=_refusal(last.file_id, last.run, status, current, deleted=last.file_id in buried),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]} …"


def _short(headers: Sequence[tuple[str, bytes | None]], name: str) -> str | None:
    text = header(headers, name)
    return None if text is None else _cut(text, NAME_CHARACTERS)


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
