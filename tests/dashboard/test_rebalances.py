"""Who owned which partition when, from what workers said."""

from datetime import UTC, datetime, timedelta
from typing import Any

from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.queries.history import Act, Ownership, OwnershipEvent
from filemill_dashboard.components.chart_annotations import annotations_of, describe
from filemill_dashboard.views.rebalances import OwnershipPeriod, ownership_changes, ownership_periods

UNTIL = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after the beginning of a period of 100."""
    return UNTIL - timedelta(seconds=100 - seconds)


def said(worker: str, kind: EventKind, seconds: float, before: float | None = None, **fields: Any) -> OwnershipEvent:
    heard = None if before is None else at(before)
    return OwnershipEvent(WorkerEvent(kind=kind, worker_id=worker, timestamp=at(seconds), **fields), heard)


def known(*told: OwnershipEvent, **heard: float) -> Ownership:
    return Ownership(at(0), UNTIL, list(told), {worker: at(seconds) for worker, seconds in heard.items()})


def spans(found: list[OwnershipPeriod]) -> list[tuple[int, str, float, float, str | None]]:
    return [
        (
            band.partition,
            band.worker,
            (band.start - at(0)).total_seconds(),
            (band.end - at(0)).total_seconds(),
            band.end_reason,
        )
        for band in found
    ]


def test_a_partition_that_is_handed_over_has_a_gap_and_a_pause() -> None:
    history = known(
        said("a", EventKind.HEARTBEAT, -1, owned=[0, 1], epoch=1),
        said("a", EventKind.REVOKED, 40, partitions=[1], owned=[0]),
        said("b", EventKind.ASSIGNED, 42, partitions=[1], owned=[1], epoch=2, cause="a member joined"),
        a=99,
        b=99,
    )
    found = ownership_periods(history)
    assert spans(found) == [
        (0, "a", 0, 100, None),
        (1, "a", 0, 40, "revoked"),
        (1, "b", 42, 100, None),
    ]
    (move,) = ownership_changes(history, found)
    assert (move.partition, move.previous_owner, move.worker, move.previous_end_reason) == (1, "a", "b", "revoked")
    assert (move.pause_seconds, move.epoch, move.cause) == (2.0, 2, "a member joined")


def test_a_killed_worker_had_its_partitions_until_it_was_last_heard_of() -> None:
    history = known(
        said("a", EventKind.ASSIGNED, 10, partitions=[0], owned=[0]),
        said("b", EventKind.ASSIGNED, 60, partitions=[0], owned=[0]),
        a=50,
        b=99,
    )
    assert spans(ownership_periods(history)) == [(0, "a", 10, 50, "silent"), (0, "b", 60, 100, None)]


def test_a_worker_that_was_killed_and_started_again_did_not_own_in_between() -> None:
    history = known(
        said("a", EventKind.HEARTBEAT, -2, owned=[0]),
        said("a", EventKind.STARTED, 30, before=20),
        said("a", EventKind.ASSIGNED, 33, partitions=[0], owned=[0]),
        said("a", EventKind.STOPPED, 70),
        a=70,
    )
    found = ownership_periods(history)
    assert spans(found) == [(0, "a", 0, 20, "silent"), (0, "a", 33, 70, "stopped")]
    assert [move.pause_seconds for move in ownership_changes(history, found)] == [13.0]


def test_nothing_told_is_nothing_known() -> None:
    assert ownership_periods(known()) == []


def test_a_mark_says_who_did_what() -> None:
    def act(action: str, **detail: Any) -> Act:
        return Act(1, UNTIL, "page", action, detail)

    assert describe(act("stack.scale", role="processor", count=4)) == "4 × processor · page"
    assert describe(act("stack.kill", worker="w-1")) == "kill w-1 · page"
    assert describe(act("quiet", worker=None)) == "quiet all workers · page"
    assert describe(act("dlq.replay", files=[[1, 2]])) == "replay: 1 files · page"
    (mark,) = annotations_of([act("quiet", worker="w-1")])
    assert mark.text == "quiet w-1 · page"
