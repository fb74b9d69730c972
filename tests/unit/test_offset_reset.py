"""The new offset of each partition for each target."""

import pytest

from filemill.domain.consumer_groups import LogOffsets
from filemill.services.offset_reset import PartitionReset, ResetPlan, ResetTarget, members_refusal, new_offsets

PARTS = [
    LogOffsets(0, begin=10, end=100, committed=40),
    LogOffsets(1, begin=0, end=50, committed=None),
    LogOffsets(2, begin=30, end=30, committed=5),  # all of it was removed by the retention meanwhile
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ResetTarget("earliest"), {0: 10, 1: 0, 2: 30}),
        (ResetTarget("latest"), {0: 100, 1: 50, 2: 30}),
        (ResetTarget("time"), {0: 60, 1: 50, 2: 30}),
        (ResetTarget("shift", by=7), {0: 47, 1: 7, 2: 30}),
        (ResetTarget("shift", by=-35), {0: 10, 1: 0, 2: 30}),
        (ResetTarget("shift", by=10**12), {0: 100, 1: 50, 2: 30}),
    ],
    ids=str,
)
def test_new_offsets_are_limited_to_the_records_of_the_partition(target: ResetTarget, expected: dict[int, int]) -> None:
    assert new_offsets(target, PARTS, {0: 60, 1: 50}) == expected


def test_a_plan_sums_up_its_partitions() -> None:
    plan = ResetPlan(
        [PartitionReset(0, 40, 45, [7, 9]), PartitionReset(1, 20, 5, []), PartitionReset(2, 3, 3, [])], None
    )
    assert plan.offsets == {0: 45, 1: 5}
    assert (plan.skipped, plan.repeated) == ([7, 9], 15)


@pytest.mark.parametrize(("members", "said"), [(1, "has a member:"), (3, "has 3 members:")])
def test_a_group_with_members_cannot_be_reset(members: int, said: str) -> None:
    assert said in (members_refusal(members) or "")
    assert members_refusal(0) is None
