"""Stalled partitions and their reasons."""

from typing import Any

import pytest

from filemill.domain.offsets import OffsetTracker
from filemill.domain.stalls import PartitionOwner, StalledPartition, StallReason, UnchangedOffset, find_stall
from filemill.domain.worker_events import OldestRecord, Vitals, WorkerCondition
from filemill_workers.file_processor.oldest_records import OldestRecordTracker

LONG = 100.0
STUCK_ON_7 = OldestRecord(2, 7, LONG)


def asked(
    *,
    seconds: float = LONG,
    undisturbed: float = float("inf"),
    condition: WorkerCondition | None = WorkerCondition.BUSY,
    processing: float | None = 20.0,
    **vitals: Any,
) -> StalledPartition | None:
    """Partition 2 with a lag of 5, at offset 7; its owner takes 20 s for a record, so that it has 36 s in all."""
    told = Vitals(**vitals) if condition is not None else None
    owner = PartitionOwner(
        worker_id="w", condition=condition, silent_seconds=9.0, processing_seconds=processing, vitals=told
    )
    still = UnchangedOffset(2, 7, 5, seconds, undisturbed)
    return find_stall(still, owner, processing_seconds=60.0, session_seconds=6.0)


@pytest.mark.parametrize(
    ("owner", "reason", "sentence"),
    [
        ({"oldest_records": [STUCK_ON_7], "in_flight": 1}, StallReason.RECORD, "stuck on record P2·7 for 100 s"),
        ({"oldest_records": [OldestRecord(2, None, 0, 40)]}, StallReason.COMMITS, "no commit was accepted for 40 s"),
        ({"quiet": True}, StallReason.QUIET, "resume it with `filemill workers resume w`"),
        ({"breaker": "S3: refused"}, StallReason.BREAKER, "waits for a server (S3: refused)"),
        ({"condition": WorkerCondition.DEAD}, StallReason.SILENT, "sent nothing for 9 s"),
        ({"condition": None}, StallReason.UNKNOWN, "sends no heartbeats"),
        ({}, StallReason.UNKNOWN, "none of its records in progress"),
        ({"in_flight": 3, "busy_seconds": LONG}, StallReason.UNKNOWN, "none of its records in progress"),
    ],
)
def test_a_stalled_partition_has_its_reason(owner: dict[str, Any], reason: StallReason, sentence: str) -> None:
    found = asked(**owner)
    assert found is not None
    assert (found.reason, found.partition, found.committed, found.lag) == (reason, 2, 7, 5)
    assert sentence in found.sentence
    assert found.explained == (reason in (StallReason.QUIET, StallReason.BREAKER))


@pytest.mark.parametrize(
    "owner",
    [
        {"seconds": 36.0, "oldest_records": [STUCK_ON_7]},
        {"undisturbed": 5.0, "oldest_records": [STUCK_ON_7]},
        {"oldest_records": [OldestRecord(2, 7, 20.0)]},
        {"in_flight": 3, "busy_seconds": 1.0},
        {"in_flight": 3, "busy_seconds": 1.0, "oldest_records": [OldestRecord(1, 7, LONG)]},
        {"processing": None, "seconds": 76.0},
    ],
    ids=["has time left", "a breaker closed lately", "began lately", "waits for a place", "of another", "by settings"],
)
def test_a_partition_within_its_time_is_not_stalled(owner: dict[str, Any]) -> None:
    assert asked(**owner) is None


def test_a_worker_reports_the_age_of_the_oldest_record() -> None:
    now = 0.0
    oldest, offsets = OldestRecordTracker(lambda: now), OffsetTracker()
    assert oldest.sample({0: offsets}) == []
    for offset in range(3):
        offsets.track(offset)
    assert oldest.sample({0: offsets}) == [OldestRecord(0, 0, 0.0)]
    now = 8.0
    offsets.finish(1)
    assert oldest.sample({0: offsets}) == [OldestRecord(0, 0, 8.0)]
    now = 10.0
    offsets.finish(0)
    assert oldest.sample({0: offsets}) == [OldestRecord(0, 2, 0.0, 2.0)]
    commit = offsets.next_commit("w", 1)
    assert commit is not None
    offsets.on_committed(commit)
    now = 11.0
    assert oldest.sample({0: offsets}) == [OldestRecord(0, 2, 1.0)]
    assert oldest.sample({}) == []


def test_a_worker_reports_how_long_finished_records_wait_for_a_commit() -> None:
    now = 0.0
    oldest, offsets = OldestRecordTracker(lambda: now), OffsetTracker()
    offsets.track(0)
    offsets.finish(0)
    assert oldest.sample({3: offsets}) == [OldestRecord(3)]
    now = 30.0
    offsets.track(1)
    offsets.finish(1)
    assert oldest.sample({3: offsets}) == [OldestRecord(3, None, 0.0, 30.0)]
