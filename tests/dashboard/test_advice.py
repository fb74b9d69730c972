"""The advice on the Pipeline page."""

from datetime import UTC, datetime

import pytest

from filemill.domain.stalls import StalledPartition, StallReason
from filemill.queries.files import OutboxState
from filemill.queries.group import Flow, GroupMember, GroupState, Lags, LeaseState, PartitionLag
from filemill_dashboard.views.advice import advise, even_shares, trend

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
