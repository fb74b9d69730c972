"""Who owned which partition when: from the workers' events and from samples of the group."""

from datetime import UTC, datetime, timedelta
from typing import Any

from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.queries.group import GroupMember
from filemill.queries.history import AssignmentSample, AuditEntry, OwnershipEvent, OwnershipHistory
from filemill_dashboard.components.chart_annotations import annotations_of, describe
from filemill_dashboard.views.rebalances import PartitionOwnership, ownership_changes, ownership_periods

UNTIL = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """The moment `seconds` after the beginning of a period of 100 s."""
    return UNTIL - timedelta(seconds=100 - seconds)


def event(worker: str, kind: EventKind, seconds: float, previous: float | None = None, **fields: Any) -> OwnershipEvent:
    previous_at = None if previous is None else at(previous)
    return OwnershipEvent(WorkerEvent(kind=kind, worker_id=worker, timestamp=at(seconds), **fields), previous_at)


def sample(first: float, last: float, following: float | None, **owned: list[int]) -> AssignmentSample:
    """Equal samples from `first` to `last`, and when the next one followed; the members and their partitions."""
    members = [GroupMember(f"id-{name}", name, "127.0.0.1", partitions) for name, partitions in owned.items()]
    return AssignmentSample(at(first), at(last), None if following is None else at(following), members)


def known(*events: OwnershipEvent, samples: tuple[AssignmentSample, ...] = (), **last_heard: float) -> OwnershipHistory:
    heard = {worker: at(seconds) for worker, seconds in last_heard.items()}
    return OwnershipHistory(at(0), UNTIL, list(events), heard, list(samples))


def in_seconds(found: list[PartitionOwnership]) -> list[tuple[int, str, float, float, str | None]]:
    return [
        (
            period.partition,
            period.worker,
            (period.start - at(0)).total_seconds(),
            (period.end - at(0)).total_seconds(),
            period.end_reason,
        )
        for period in found
    ]


def test_a_revoked_and_assigned_partition_has_a_pause() -> None:
    history = known(
        event("a", EventKind.HEARTBEAT, -1, owned=[0, 1], epoch=1),
        event("a", EventKind.REVOKED, 40, partitions=[1], owned=[0]),
        event("b", EventKind.ASSIGNED, 42, partitions=[1], owned=[1], epoch=2, cause="a member joined"),
        a=99,
        b=99,
    )
    found = ownership_periods(history)
    assert in_seconds(found) == [
        (0, "a", 0, 100, None),
        (1, "a", 0, 40, "revoked"),
        (1, "b", 42, 100, None),
    ]
    (change,) = ownership_changes(history, found)
    assert (change.partition, change.previous_owner, change.worker) == (1, "a", "b")
    assert change.previous_end_reason == "revoked"
    assert (change.pause_seconds, change.epoch, change.cause) == (2.0, 2, "a member joined")


def test_a_killed_worker_owned_its_partitions_until_it_was_last_heard_of() -> None:
    history = known(
        event("a", EventKind.ASSIGNED, 10, partitions=[0], owned=[0]),
        event("b", EventKind.ASSIGNED, 60, partitions=[0], owned=[0]),
        a=50,
        b=99,
    )
    assert in_seconds(ownership_periods(history)) == [(0, "a", 10, 50, "silent"), (0, "b", 60, 100, None)]


def test_no_bar_grows_while_events_cannot_arrive() -> None:
    history = known(event("a", EventKind.ASSIGNED, 10, partitions=[0], owned=[0]), a=97)
    assert in_seconds(ownership_periods(history)) == [(0, "a", 10, 100, None)]
    assert in_seconds(ownership_periods(history, events_known=False)) == [(0, "a", 10, 97, "unknown")]


def test_after_an_outage_a_silent_owner_is_not_called_silent() -> None:
    history = known(event("a", EventKind.ASSIGNED, 10, partitions=[0], owned=[0]), a=50)
    assert in_seconds(ownership_periods(history, silence_known=False)) == [(0, "a", 10, 50, "unknown")]


def test_a_killed_and_restarted_worker_owned_nothing_in_between() -> None:
    history = known(
        event("a", EventKind.HEARTBEAT, -2, owned=[0]),
        event("a", EventKind.STARTED, 30, previous=20),
        event("a", EventKind.ASSIGNED, 33, partitions=[0], owned=[0]),
        event("a", EventKind.STOPPED, 70),
        a=70,
    )
    found = ownership_periods(history)
    assert in_seconds(found) == [(0, "a", 0, 20, "silent"), (0, "a", 33, 70, "stopped")]
    assert [change.pause_seconds for change in ownership_changes(history, found)] == [13.0]


def test_without_events_and_samples_there_are_no_owners() -> None:
    assert ownership_periods(known()) == []


def test_a_member_without_events_is_an_owner_by_the_samples() -> None:
    history = known(
        event("a", EventKind.HEARTBEAT, -1, owned=[0, 1]),
        event("a", EventKind.REVOKED, 19, partitions=[1], owned=[0]),
        event("a", EventKind.ASSIGNED, 81, partitions=[1], owned=[0, 1], epoch=5),
        a=99,
        samples=(
            sample(0, 18, 20, a=[0, 1]),
            sample(20, 80, 82, a=[0], kafkajs=[1]),
            sample(82, 99, None, a=[0, 1]),
        ),
    )
    found = ownership_periods(history)
    assert in_seconds(found) == [
        (0, "a", 0, 100, None),
        (1, "a", 0, 19, "revoked"),
        (1, "kafkajs", 20, 81, "released"),  # the next owner's event is more exact than the next sample
        (1, "a", 81, 100, None),
    ]
    back, there = ownership_changes(history, found)
    assert (there.previous_owner, there.worker, there.pause_seconds) == ("a", "kafkajs", None)
    assert (back.previous_owner, back.worker, back.previous_end_reason) == ("kafkajs", "a", "released")
    assert back.pause_seconds is None, "two samples are too far apart to tell"


def test_a_foreign_owner_stays_one_while_other_members_change() -> None:
    history = known(
        samples=(
            sample(0, 30, 32, kafkajs=[0, 1], a=[2]),
            sample(32, 60, 62, kafkajs=[0], a=[1, 2]),
            sample(62, 99, None, kafkajs=[0], a=[2], b=[1]),
        ),
        a=99,
        b=99,
    )
    assert in_seconds(ownership_periods(history)) == [(0, "kafkajs", 0, 100, None), (1, "kafkajs", 0, 32, "released")]


def test_the_owner_is_unknown_where_samples_are_missing() -> None:
    history = known(samples=(sample(10, 20, None, kafkajs=[0]), sample(70, 80, None, kafkajs=[0])))
    assert in_seconds(ownership_periods(history)) == [
        (0, "kafkajs", 0, 20, "unknown"),
        (0, "kafkajs", 70, 80, "unknown"),
    ]


def test_a_foreign_owner_from_before_the_period_is_no_change() -> None:
    history = known(samples=(sample(1, 99, None, kafkajs=[0]),))
    assert ownership_changes(history, ownership_periods(history)) == []


def test_samples_say_nothing_about_workers_that_send_events() -> None:
    history = known(
        event("a", EventKind.ASSIGNED, 30, partitions=[0], owned=[0]),
        samples=(sample(0, 99, None, a=[0], late=[1]),),
        a=99,
        late=50,
    )
    assert in_seconds(ownership_periods(history)) == [(0, "a", 30, 100, None)]


def test_a_mark_names_the_operation_and_who_did_it() -> None:
    def act(action: str, **detail: Any) -> AuditEntry:
        return AuditEntry(1, UNTIL, "page", action, detail)

    assert describe(act("stack.scale", role="processor", count=4)) == "4 × processor · page"
    assert describe(act("stack.kill", worker="w-1")) == "kill w-1 · page"
    assert describe(act("quiet", worker=None)) == "quiet all workers · page"
    assert describe(act("dlq.replay", files=[[1, 2]])) == "replay: 1 file · page"
    (mark,) = annotations_of([act("quiet", worker="w-1")])
    assert mark.text == "quiet w-1 · page"
