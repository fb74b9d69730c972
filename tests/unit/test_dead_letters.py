"""Dead letters from the records of their topic: one for each dead-lettered record, and why one cannot be replayed."""

import json
import time
from collections.abc import Collection
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from filemill.domain.dead_letters import (
    DeadLetter,
    FileState,
    ReplayRefusal,
    dead_letter_entry,
    dead_letters,
    parse_place,
    reason_counts,
)
from filemill.domain.records import Record
from filemill.services.dead_letters import Replay, replay
from tests.principals import TEST

NOW_MS = int(time.time() * 1000)


def record(
    offset: int, value: bytes | None = None, *, source: int = 5, run: int = 1, reason: str = "no luck"
) -> Record:
    body = json.dumps({"fileId": 1, "title": "a", "timestamp": "2026-01-04T12:00:00Z"}).encode()
    headers = {
        "filemill-reason": reason,
        "filemill-topic": "file.create",
        "filemill-partition": "0",
        "filemill-offset": str(source),
        "filemill-run": str(run),
    }
    return Record(
        topic="file.create.dlq",
        partition=0,
        offset=offset,
        timestamp_ms=NOW_MS + offset,
        value=body if value is None else value,
        headers=[(name, text.encode()) for name, text in headers.items()],
    )


def found(
    *records: Record,
    state: FileState | None = None,
    deleted: bool = False,
    dismissed: Collection[tuple[int, int, int]] = (),
) -> list[DeadLetter]:
    entries = [dead_letter_entry(one, 0) for one in records]
    return dead_letters(entries, {} if state is None else {1: state}, {1} if deleted else set(), dismissed)


def test_a_record_that_was_dead_lettered_twice_is_one_dead_letter() -> None:
    (letter,) = found(record(3), record(8), state=FileState("failed", 1))
    assert (letter.count, letter.place, letter.latest) == (2, "0:3", (0, 8))
    assert letter.still_broken
    assert letter.refusal_code is None


@pytest.mark.parametrize(
    ("state", "deleted", "code"),
    [
        (None, False, ReplayRefusal.UNKNOWN_FILE),
        (None, True, ReplayRefusal.FILE_DELETED),
        (FileState("failed", 2), False, ReplayRefusal.RETRIED_SINCE),
        (FileState("completed", 1), False, ReplayRefusal.NOT_FAILED),
    ],
)
def test_a_dead_letter_that_cannot_be_replayed_has_a_code(
    state: FileState | None, deleted: bool, code: ReplayRefusal
) -> None:
    (letter,) = found(record(3), state=state, deleted=deleted)
    assert letter.refusal_code is code
    assert letter.refusal
    assert not letter.still_broken


BEFORE = datetime.fromtimestamp((NOW_MS - 60_000) / 1000, UTC)
AFTER = datetime.fromtimestamp((NOW_MS + 60_000) / 1000, UTC)


@pytest.mark.parametrize(
    ("run", "state", "code", "words"),
    [
        (1, FileState("pending", 2), ReplayRefusal.RETRIED_SINCE, "has been retried since; its current run is 2"),
        (1, FileState("completed", 2, AFTER), ReplayRefusal.RETRIED_SINCE, "has been retried since"),
        (1, FileState("completed", 2, BEFORE), ReplayRefusal.NOT_FAILED, "was already completed, in run 2, when"),
        (1, FileState("failed", 2, BEFORE), ReplayRefusal.OTHER_RUN, "is in run 2, and this dead letter is of run 1"),
        (3, FileState("failed", 2, BEFORE), ReplayRefusal.OTHER_RUN, "is in run 2, and this dead letter is of run 3"),
        (3, FileState("completed", 2, AFTER), ReplayRefusal.OTHER_RUN, "is in run 2"),
        (2, FileState("completed", 2, BEFORE), ReplayRefusal.NOT_FAILED, "is completed, not failed"),
    ],
)
def test_only_a_file_with_a_later_run_that_ended_after_the_dead_letter_was_retried_since(
    run: int, state: FileState, code: ReplayRefusal, words: str
) -> None:
    (letter,) = found(record(3, run=run), state=state)
    assert (letter.refusal_code, letter.still_broken) == (code, False)
    assert words in (letter.refusal or "")


def test_a_dismissal_holds_until_the_record_is_dead_lettered_again() -> None:
    state, key = FileState("failed", 1), (0, 3, NOW_MS + 3)
    (letter,) = found(record(3), state=state, dismissed={key})
    assert (letter.dismissed, letter.unresolved, letter.still_broken) == (True, False, True)
    assert (*letter.latest, letter.latest_ms) == key
    (again,) = found(record(3), record(8), state=state, dismissed={key})
    assert (again.dismissed, again.unresolved) == (False, True)
    (of_a_recreated_topic,) = found(record(3), state=state, dismissed={(0, 3, NOW_MS - 9)})
    assert of_a_recreated_topic.unresolved


def test_a_record_without_a_file_id_cannot_be_replayed_and_is_still_broken() -> None:
    (letter,) = found(record(3, b"not JSON"))
    assert (letter.refusal_code, letter.still_broken) == (ReplayRefusal.NO_FILE_ID, True)


def dry_run_of(letters: list[DeadLetter], max_runs: int) -> Replay:
    never_connected = sa.create_engine("postgresql+psycopg://")
    return replay(never_connected, letters, principal=TEST, rate=1, dry_run=True, max_runs=max_runs)


def test_a_file_with_too_many_runs_is_not_replayed() -> None:
    letters = found(record(3, run=2), state=FileState("failed", 2))
    assert dry_run_of(letters, max_runs=3) == Replay(True, {"no luck": 1}, [1], {}, {})
    refused = dry_run_of(letters, max_runs=2)
    assert (refused.files, refused.reasons) == ([], {})
    assert refused.refusal_codes == {"0:3": ReplayRefusal.TOO_MANY_RUNS}
    assert refused.refused == {"0:3": "file 1 failed in run 2; the maximum number of runs is 2"}


def test_a_replay_reports_the_code_and_the_text_of_each_refusal() -> None:
    (letter,) = found(record(3, b"not JSON"))
    refused = dry_run_of([letter], max_runs=5)
    assert refused.refusal_codes == {"0:3": ReplayRefusal.NO_FILE_ID}
    assert refused.refused == {"0:3": "the record has no valid file id"}


def test_reasons_that_differ_in_their_numbers_are_counted_together() -> None:
    letters = found(
        record(1, source=1, reason="S3 returned 503 after 12 ms"),
        record(2, source=2, reason="S3 returned 500 after 7 ms"),
    )
    assert reason_counts(letters) == {"S3 returned N after N ms": 2}


@pytest.mark.parametrize(("text", "place"), [("0:12", (0, 12)), ("12", None), ("0:-1", None), ("a:b", None)])
def test_a_position_is_partition_and_offset(text: str, place: tuple[int, int] | None) -> None:
    assert parse_place(text) == place
