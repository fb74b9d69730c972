"""What a page claims about workers and the group while something obstructs its view."""

from typing import Any

import pytest

from filemill.domain.worker_events import WorkerCondition
from filemill.queries.group import GroupMember, GroupState
from filemill.queries.workers import WorkerView
from filemill_dashboard.views.group_view import view_group
from filemill_dashboard.views.visibility import (
    CLEAR,
    DETECTION_SECONDS,
    SETTLE_SECONDS,
    LocalProcess,
    ShownState,
    ViewTracker,
    Visibility,
    shown_counts,
)
from tests.dashboard.test_advice import NOW

KAFKA_AWAY = Visibility(frozenset({"kafka"}), reachable_seconds=0, events_seconds=0)
JUST_BACK = Visibility(reachable_seconds=3, events_seconds=3)


def worker(name: str, condition: WorkerCondition, *, silent: float = 30.0, pid: int | None = None) -> WorkerView:
    blank: dict[str, Any] = dict.fromkeys(WorkerView.__struct_fields__)
    values = {"id": name, "condition": condition, "heard_seconds_ago": silent, "starts": 1, "owned": [], "pid": pid}
    return WorkerView(**{**blank, **values})


@pytest.mark.parametrize("condition", list(WorkerCondition))
def test_every_state_is_unknown_while_kafka_is_unreachable(condition: WorkerCondition) -> None:
    assert KAFKA_AWAY.worker_state(worker("w", condition)) is ShownState.UNKNOWN


@pytest.mark.parametrize("condition", list(WorkerCondition))
def test_an_outage_of_s3_hides_no_state(condition: WorkerCondition) -> None:
    view = Visibility(frozenset({"s3"}), reachable_seconds=0)
    assert view.worker_state(worker("w", condition)).value == condition.value
    assert not view.settled


def test_silence_means_nothing_until_clients_have_reconnected() -> None:
    silent = worker("w", WorkerCondition.DEAD)
    assert JUST_BACK.worker_state(silent) is ShownState.UNKNOWN
    assert JUST_BACK.worker_state(worker("w", WorkerCondition.BUSY)) is ShownState.BUSY
    assert Visibility(events_seconds=SETTLE_SECONDS).worker_state(silent) is ShownState.DEAD


def test_silence_counts_until_the_latest_check_of_kafka() -> None:
    view = Visibility(checked_seconds_ago=4)
    assert view.worker_state(worker("w", WorkerCondition.DEAD, silent=9)) is ShownState.UNKNOWN
    assert view.worker_state(worker("w", WorkerCondition.DEAD, silent=11)) is ShownState.DEAD


@pytest.mark.parametrize(
    ("condition", "process", "shown"),
    [
        (WorkerCondition.BUSY, LocalProcess(None), ShownState.DEAD),
        (WorkerCondition.BUSY, LocalProcess(7, suspended=True), ShownState.SUSPENDED),
        (WorkerCondition.IDLE, LocalProcess(8), ShownState.STARTING),
        (WorkerCondition.STOPPED, LocalProcess(8), ShownState.STARTING),
        (WorkerCondition.IDLE, LocalProcess(7), ShownState.IDLE),
        (WorkerCondition.DEAD, LocalProcess(7), ShownState.SILENT),
        (WorkerCondition.DEAD, None, ShownState.DEAD),
    ],
)
def test_the_process_of_this_machine_decides(
    condition: WorkerCondition, process: LocalProcess | None, shown: ShownState
) -> None:
    assert CLEAR.worker_state(worker("w", condition, pid=7), process) is shown


def test_a_process_that_has_ended_is_known_during_an_outage() -> None:
    assert KAFKA_AWAY.worker_state(worker("w", WorkerCondition.BUSY, pid=7), LocalProcess(None)) is ShownState.DEAD


def test_the_tracker_counts_from_the_end_of_an_outage() -> None:
    tracker = ViewTracker()
    assert tracker.observe(0.0, frozenset(), sync_active=True) == Visibility(sync_missing_seconds=0)
    assert not tracker.observe(1.0, frozenset({"kafka"}), sync_active=True).settled
    view = tracker.observe(1.0 + SETTLE_SECONDS - 0.1, frozenset(), sync_active=True)
    assert (view.settled, view.silence_known) == (False, False)
    view = tracker.observe(1.0 + SETTLE_SECONDS, frozenset(), sync_active=True)
    assert (view.settled, view.silence_known) == (True, True)


def test_without_a_status_sync_silence_means_nothing_but_advice_goes_on() -> None:
    tracker = ViewTracker()
    tracker.observe(0.0, frozenset(), sync_active=True)
    view = tracker.observe(DETECTION_SECONDS - 0.1, frozenset(), sync_active=False)
    assert (view.settled, view.silence_known, view.sync_missing) == (True, False, False)
    assert tracker.observe(DETECTION_SECONDS, frozenset(), sync_active=False).sync_missing


def test_the_cause_is_named_once() -> None:
    assert Visibility(frozenset({"kafka", "s3"})).obstacle == "Kafka is unreachable"
    assert Visibility(frozenset({"kafka", "postgres"})).obstacle == "PostgreSQL and Kafka are unreachable"
    assert CLEAR.obstacle == ""


def test_counts_follow_the_shown_states() -> None:
    listed = [worker("a", WorkerCondition.DEAD), worker("b", WorkerCondition.IDLE)]
    shown = {"a": ShownState.SILENT, "b": ShownState.DEAD}
    counts = shown_counts({WorkerCondition.DEAD: 3, WorkerCondition.IDLE: 2}, shown, listed)
    assert counts == {ShownState.DEAD: 3, ShownState.IDLE: 1, ShownState.SILENT: 1}


def group_of(*members: tuple[str, list[int]], state: str = "STABLE", protocol: str = "consumer") -> GroupState:
    listed = [GroupMember(f"id-{place}", name, "h", owned) for place, (name, owned) in enumerate(members)]
    return GroupState(NOW, 1.0, state, protocol, listed)


def test_a_killed_worker_is_counted_once_although_the_broker_lists_it_twice() -> None:
    view = view_group(group_of(("w1", [0, 1]), ("w1", []), ("w2", [2])), {"w1": ShownState.IDLE, "w2": ShownState.IDLE})
    assert ([member.client_id for member in view.members], view.former, view.readers) == (["w1", "w2"], 1, 2)
    assert view.owned == {0, 1, 2}
    assert view.rebalancing


def test_a_dead_worker_is_no_member() -> None:
    view = view_group(group_of(("w1", [0, 1, 2])), {"w1": ShownState.DEAD})
    assert (view.members, view.former, view.readers, view.running) == ([], 1, 0, 0)


def test_foreign_members_may_share_a_client_id() -> None:
    assert len(view_group(group_of(("kafkajs", [0]), ("kafkajs", [1])), {}).members) == 2


@pytest.mark.parametrize(
    ("state", "protocol", "text", "tone"),
    [
        ("STABLE", "consumer", "stable", "good"),
        ("UNKNOWN", "consumer", "reconciling", "busy"),
        ("UNKNOWN", "share", "not reported", "none"),
        ("PREPARING_REBALANCING", "classic", "preparing rebalancing", "busy"),
        ("EMPTY", "consumer", "empty", "warn"),
    ],
)
def test_the_state_of_a_group_has_a_name_and_a_tone(state: str, protocol: str, text: str, tone: str) -> None:
    view = view_group(group_of(("w1", [0]), state=state, protocol=protocol), {})
    assert (view.state, view.tone) == (text, tone)


def test_a_sample_of_the_group_from_before_an_outage_does_not_describe_the_present() -> None:
    tracker = ViewTracker()
    assert tracker.observe(0, frozenset(), sync_active=True).group_known(1000)
    assert not tracker.observe(10, frozenset({"kafka"}), sync_active=True).group_known(1)
    back = tracker.observe(13, frozenset({"s3"}), sync_active=False)
    assert not back.group_known(3.5)
    assert back.group_known(2.5)
    assert back.group_known(None)
