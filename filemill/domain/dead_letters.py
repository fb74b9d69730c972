"""Dead letters: one for each record that a worker dead-lettered, and why one cannot be replayed.

A record of `file.create` has one dead letter. If the record is processed and dead-lettered again, the dead letter
counts that.
"""

import enum
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from filemill.domain.messages import RUN_HEADER, dead_letter_origin, file_id_in, header, int_header
from filemill.domain.records import Record

# A record whose timestamp is further ahead of this machine's clock has no credible time.
AHEAD_MILLISECONDS = 86_400_000
# Texts that the record's producer chose are cut to these lengths.
REASON_CHARACTERS = 300
NAME_CHARACTERS = 250
# A position as text.
PLACE = "[0-9]{1,9}:[0-9]{1,18}"
_PLACE = re.compile(PLACE)
_NUMBERS = re.compile(r"(?<![A-Za-z0-9])(?<!UTF-)\d+")  # not those of S3 and UTF-8


class ReplayRefusal(enum.StrEnum):
    """Why a dead letter cannot be replayed."""

    NO_FILE_ID = "no-file-id"
    FILE_DELETED = "file-deleted"
    UNKNOWN_FILE = "unknown-file"
    RETRIED_SINCE = "retried-since"
    NOT_FAILED = "not-failed"
    TOO_MANY_RUNS = "too-many-runs"
    OTHER_RUN = "other-run"


class DeadLetterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its position. `still_broken`: its file failed in this run and has not been retried.

    The record was dead-lettered `count` times, first `at first_at` and last `at`; None: the time is not credible. All
    other fields are of the last time. `code` and `reason` say why, for programs and for people; `code` is None if the
    producer gave none. `problem` says what of the dead letter is unreadable. `size` is the payload's, in bytes.
    `refusal` says why it cannot be replayed; None: it can. `dismissed`: somebody decided that nothing has to be done.
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
    dismissed: bool = False


class DeadLetter(DeadLetterFacts, frozen=True, kw_only=True):
    """The dead letter of one record. `partition` and `offset` are of the first time, `latest` of the last.

    `key` is equal for all records of the same dead letter. `weight` is the size of payload and headers, in bytes.
    `order` sorts a list. `refusal_code` is that of `refusal`. `latest_ms` is the time of the last record, 0 if it is
    not credible.
    """

    partition: int
    offset: int
    latest: tuple[int, int]
    key: int
    weight: int
    order: tuple[int, int, int]
    refusal_code: ReplayRefusal | None
    latest_ms: int

    @property
    def unresolved(self) -> bool:
        """Whether somebody has to act."""
        return self.still_broken and not self.dismissed

    @property
    def source_topic(self) -> str:
        """The topic of its record; "?" if another program wrote the dead letter without it."""
        return self.source.split("/", 1)[0]

    @property
    def place(self) -> str:
        """Its position as `partition:offset`, the form that commands take."""
        return f"{self.partition}:{self.offset}"


class DeadLetterEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the index keeps of one record of the topic. `at_ms` is None if the record's time is not credible.

    `order_ms` is the time by which the record is sorted: its own, or else that of the record before it.
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
        """By time, then by position."""
        return self.order_ms, self.partition, self.offset


class FileState(msgspec.Struct, frozen=True):
    """Status and run of a file now, and when that run ended; None: it has not, or that is not known."""

    status: str
    run: int
    finished_at: datetime | None = None


# A dismissal names a record by partition, offset and time: a record of a recreated topic has another time. If the
# source record is dead-lettered again, the dead letter's last record is another one, and nobody has dismissed it.
DismissalKey = tuple[int, int, int]


def dead_letter_entry(record: Record, before_ms: int) -> DeadLetterEntry:
    """The entry of a record, whatever its content. `before_ms`: the time of the record before it in its partition."""
    headers = record.headers or []
    problems = [] if record.headers_error is None else [record.headers_error]
    credible = 0 < record.timestamp_ms <= time.time() * 1000 + AHEAD_MILLISECONDS
    if not credible:
        problems.append("its timestamp is in the future" if record.timestamp_ms > 0 else "its timestamp is before 1970")
    problem = "; ".join(problems) or None
    unknown = f"the reason is unreadable: {problem}" if record.headers_error is not None else None
    reason = header(headers, "filemill-reason") or unknown or "no reason given: not written by a worker of filemill"
    topic, died_at = header(headers, "filemill-topic"), dead_letter_origin(headers)
    # The value is part of it: if the source topic was recreated, another record has the same position.
    whose = (record.partition, record.offset) if died_at is None else (topic, *died_at, record.value)
    return DeadLetterEntry(
        partition=record.partition,
        offset=record.offset,
        at_ms=record.timestamp_ms if credible else None,
        order_ms=record.timestamp_ms if credible else before_ms,
        size=len(record.value or b""),
        weight=len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in headers),
        key=hash(whose),
        file_id=file_id_in(record.value),
        run=int_header(headers, RUN_HEADER),
        code=_short(headers, "filemill-code"),
        reason=_cut(reason, REASON_CHARACTERS),
        attempts=_short(headers, "filemill-attempts"),
        worker=_short(headers, "filemill-worker"),
        source="/".join(_short(headers, f"filemill-{part}") or "?" for part in ("topic", "partition", "offset")),
        problem=problem,
    )


def dead_letters(
    entries: Iterable[DeadLetterEntry],
    files: Mapping[int, FileState],
    deleted: Collection[int],
    dismissed: Collection[DismissalKey] = (),
) -> list[DeadLetter]:
    """One dead letter for each record, oldest first. `files`: those that exist; `deleted`: ids with a tombstone."""
    same: dict[int, list[DeadLetterEntry]] = {}
    for entry in sorted(entries, key=lambda one: one.order):
        same.setdefault(entry.key, []).append(entry)
    found = [_dead_letter(group, files, deleted, dismissed) for group in same.values()]
    return sorted(found, key=lambda one: one.order)


def _dead_letter(
    group: Sequence[DeadLetterEntry],
    files: Mapping[int, FileState],
    deleted: Collection[int],
    dismissed: Collection[DismissalKey],
) -> DeadLetter:
    first, last = group[0], group[-1]
    file = None if last.file_id is None else files.get(last.file_id)
    in_run = file is not None and (last.run or 1) == file.run
    still_broken = last.file_id is None or (file is not None and file.status == "failed" and in_run)
    code, refusal = _refusal(last, file, deleted=last.file_id in deleted) or (None, None)
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
        refusal=refusal,
        refusal_code=code,
        dismissed=(last.partition, last.offset, last.at_ms or 0) in dismissed,
        latest_ms=last.at_ms or 0,
    )


def _refusal(last: DeadLetterEntry, file: FileState | None, *, deleted: bool) -> tuple[ReplayRefusal, str] | None:
    name = f"file {last.file_id}"
    if last.file_id is None:
        return ReplayRefusal.NO_FILE_ID, "the record has no valid file id"
    if deleted:
        return ReplayRefusal.FILE_DELETED, f"{name} was deleted"
    if file is None:
        return ReplayRefusal.UNKNOWN_FILE, f"{name} does not exist"
    if (last.run or 1) != file.run:
        return _refusal_in_another_run(last, file)
    if file.status != "failed":
        return ReplayRefusal.NOT_FAILED, f"{name} is {file.status}, not failed"
    return None


def _refusal_in_another_run(last: DeadLetterEntry, file: FileState) -> tuple[ReplayRefusal, str]:
    name, run, died_at = f"file {last.file_id}", last.run or 1, _moment(last.at_ms)
    ended_before = file.finished_at is not None and died_at is not None and file.finished_at < died_at
    if ended_before and file.status != "failed":
        reason = f"{name} was already {file.status}, in run {file.run}, when this record was dead-lettered"
        return ReplayRefusal.NOT_FAILED, reason
    if run < file.run and not ended_before:
        return ReplayRefusal.RETRIED_SINCE, f"{name} has been retried since; its current run is {file.run}"
    return ReplayRefusal.OTHER_RUN, f"{name} is in run {file.run}, and this dead letter is of run {run}"


def reason_counts(letters: Iterable[DeadLetter]) -> dict[str, int]:
    """How many dead letters have each reason, without the numbers in it; the most frequent first."""
    return dict(Counter(reason_fingerprint(letter.reason) for letter in letters).most_common())


def reason_fingerprint(reason: str) -> str:
    """A reason with `N` for each number in it: reasons of the same kind have the same one."""
    return _NUMBERS.sub("N", reason)


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]} …"


def _short(headers: Sequence[tuple[str, bytes | None]], name: str) -> str | None:
    text = header(headers, name)
    return None if text is None else _cut(text, NAME_CHARACTERS)


def parse_place(text: str) -> tuple[int, int] | None:
    """Partition and offset of `partition:offset`; None for another text."""
    if _PLACE.fullmatch(text) is None:
        return None
    partition, offset = text.split(":")
    return int(partition), int(offset)
