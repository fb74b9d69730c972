"""The advice on the Pipeline page."""

from datetime import UTC, datetime

import pytest

from filemill.domain.stalls import StalledPartition, StallReason
from filemill.queries.files import OutboxState
from filemill.queries.group import Flow, GroupMember, GroupState, Lags, LeaseState, PartitionLag
from filemill_dashboard.views.advice import advise, even_shares, trend
from filemill_dashboard.views.group_view import view_group
from filemill_dashboard.views.visibility import ShownState, Visibility

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EMPTY = OutboxState(0, None)
HELD = {name: LeaseState(name, f"{name}-1", held=True) for name in ("relay", "sync", "monitor")}


def group(*owned: list[int], age: float = 1.0, state: str = "STABLE") -> GroupState:
    members = [
        GroupMember(f"id-{place}", f"worker-{place}", "127.0.0.1", partitions)
        for place, partitions in enumerate(owned, start=1)
    ]
    return GroupState(NOW, age, state, "consumer", members)


def lags(count: int, lag: int = 0) -> Lags:
    return Lags(NOW, 1.0, [PartitionLag(partition, 0, 10, 10 - lag, lag) for partition in range(count)])


def advice_texts(*args: object, outbox: OutboxState = EMPTY, leases: dict[str, LeaseState] = HELD) -> list[str]:
    state, parts = args
    found = advise(state, parts, outbox, leases, interval_seconds=2)  # type: ignore[arg-type]
    return [f"{advice.tone}: {advice.what}. {advice.text}" for advice in found]


def test_a_healthy_group_needs_no_advice() -> None:
    assert advice_texts(group([0], [1], [2]), lags(3)) == []


def test_more_workers_than_partitions_leaves_one_idle() -> None:
    assert advice_texts(group([0], [1], [2], []), lags(3)) == [
        "none: 4 workers, 3 partitions: one idle. With 6 partitions, the workers would have 2/2/1/1."
    ]


def test_a_partition_without_an_owner_is_flagged() -> None:
    (advice,) = advice_texts(group([0], [2]), lags(3))
    assert advice.startswith("bad: Partition 1 without an owner.")


def test_a_partition_without_an_owner_during_a_rebalance_is_a_warning() -> None:
    (advice,) = advice_texts(group([0], [2], state="PREPARING_REBALANCING"), lags(3))
    assert advice.startswith("warn: Partition 1 without an owner. The group is rebalancing")


def test_a_group_without_members_needs_a_processor() -> None:
    assert advice_texts(group(state="EMPTY"), lags(3, lag=4)) == [
        "bad: No file processor is running. 12 records are waiting. Start one: `filemill run processor`."
    ]


def test_a_silent_monitor_is_reported_and_its_old_samples_are_not_used() -> None:
    (advice,) = advice_texts(group(age=300), lags(3))
    assert advice.startswith("warn: The group monitor has been silent for 5 min.")
    (advice,) = advice_texts(None, None)
    assert advice.startswith("warn: The group monitor has not reported yet.")


def test_requests_that_wait_in_the_outbox_are_reported_with_their_age() -> None:
    (advice,) = advice_texts(group([0, 1, 2]), lags(3), outbox=OutboxState(1234, 42.0))
    assert advice.startswith("warn: 1,234 accepted requests wait in the outbox. The oldest has waited for 42 s.")
    assert "No relay" not in advice
    leases = {**HELD, "relay": LeaseState("relay", "gone", held=False)}
    (advice,) = advice_texts(group([0, 1, 2]), lags(3), outbox=OutboxState(1, 42.0), leases=leases)
    assert "No relay is active" in advice


def test_a_missing_status_sync_is_reported() -> None:
    leases = {name: lease for name, lease in HELD.items() if name != "sync"}
    (advice,) = advice_texts(group([0, 1, 2]), lags(3), leases=leases)
    assert advice.startswith("warn: No status sync is active.")


@pytest.mark.parametrize(
    ("lag", "produced", "committed", "expected"),
    [
        (None, 1.0, 1.0, None),
        (10, None, 1.0, None),
        (10, 1.0, None, None),
        (10, 5.0, 5.1, "steady"),
        (100, 5.0, 10.0, "shrinking, clear in 20 s"),
        (100, 10.0, 5.0, "growing by 5.0 /s"),
    ],
)
def test_the_trend_of_the_lag(
    lag: int | None, produced: float | None, committed: float | None, expected: str | None
) -> None:
    assert trend(lag, Flow(produced, committed, 60)) == expected


def test_without_readers_there_is_no_forecast() -> None:
    assert trend(20, Flow(0.1, 5.0, 60), readers=0) == "no worker reads it"
    assert trend(0, Flow(0.0, 5.0, 60), readers=2) == "steady"


def test_an_outage_silences_all_advice() -> None:
    outage = Visibility(frozenset({"kafka"}), reachable_seconds=0, events_seconds=0)
    recovering = Visibility(reachable_seconds=5)
    for visibility in (outage, recovering):
        found = advise(
            group(state="EMPTY"), lags(3, lag=4), OutboxState(9, 60.0), {}, interval_seconds=2, visibility=visibility
        )
        assert found == []


def test_running_workers_without_membership_are_about_to_join() -> None:
    view = view_group(group(state="EMPTY"), {"w1": ShownState.IDLE})
    (advice,) = advise(group(state="EMPTY"), lags(3, lag=1), EMPTY, HELD, interval_seconds=2, view=view)
    assert (advice.tone, advice.what) == ("warn", "The group has no members")
    assert advice.text == "3 records are waiting. 1 worker is running and joins it. This should end within seconds."


def test_quiet_workers_with_a_backlog_are_reported() -> None:
    members = group([0], [1, 2])
    everyone = {"worker-1", "worker-2"}
    view = view_group(members, dict.fromkeys(everyone, ShownState.IDLE), everyone)
    (advice,) = advise(members, lags(3, lag=5), EMPTY, HELD, interval_seconds=2, view=view)
    assert (advice.tone, advice.what) == ("warn", "All 2 workers are quiet")
    assert advice.text.startswith("15 records wait. Resume them on the Workers page")
    view = view_group(members, dict.fromkeys(everyone, ShownState.IDLE), {"worker-1"})
    assert advise(members, lags(3, lag=5), EMPTY, HELD, interval_seconds=2, view=view) == []


def test_an_embedded_stack_needs_no_commands_of_containers() -> None:
    leases = {name: lease for name, lease in HELD.items() if name != "sync"}
    found = [
        *advise(group(state="EMPTY"), lags(3), OutboxState(1, 42.0), {}, interval_seconds=2, embedded=True),
        *advise(group([0, 1, 2], age=300), lags(3), EMPTY, leases, interval_seconds=2, embedded=True),
        *advise(None, None, EMPTY, HELD, interval_seconds=2, embedded=True),
    ]
    assert len(found) == 6
    assert [one.text for one in found if "filemill run" in one.text] == []
    assert "Scale the file processors on the Workers page." in found[0].text


def test_a_former_membership_causes_no_advice_about_idle_workers() -> None:
    members = [
        GroupMember("old", "worker-1", "h", [0, 1]),
        GroupMember("new", "worker-1", "h", []),
        GroupMember("other", "worker-2", "h", [2]),
    ]
    state = GroupState(NOW, 1.0, "STABLE", "consumer", members)
    view = view_group(state, {"worker-1": ShownState.IDLE, "worker-2": ShownState.IDLE})
    assert advise(state, lags(3), EMPTY, HELD, interval_seconds=2, view=view) == []


def test_partitions_are_distributed_evenly() -> None:
    assert even_shares(4, 6) == [2, 2, 1, 1]
    assert even_shares(3, 3) == [1, 1, 1]


def test_stalled_partitions_are_named_with_the_reason_and_the_remedy() -> None:
    def stalled(partition: int, reason: StallReason) -> StalledPartition:
        owner = f"w{partition}"
        return StalledPartition(partition, 7, 5, 60.0 + partition, owner, reason, f"partition {partition}: why")

    found = advise(
        group([0], [1], [2]),
        lags(3, lag=5),
        EMPTY,
        HELD,
        [stalled(0, StallReason.QUIET), stalled(1, StallReason.RECORD), stalled(2, StallReason.QUIET)],
        interval_seconds=2,
    )
    assert [(one.tone, one.what) for one in found] == [
        ("bad", "Partition 1 is stalled"),
        ("warn", "Partitions 0, 2 are stalled"),
    ]
    assert "Restart the worker" in found[0].text
    assert found[1].text == "Partition 2: why. The same applies to w0."
