"""RecordSource and RebalanceListener: one suite for the fake and for each group protocol of a real broker."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from filemill.adapters.memory.broker import NO_OFFSET
from filemill.domain.offsets import Commit
from tests.contract.groups import EACH, PARTITIONS, GroupHarness, Member, commit, create_harness

ALL = set(range(PARTITIONS))
# An eager member reads and commits as a cooperative one does: only assignments differ.
EACH_READER = ["memory-cooperative", "classic-cooperative", "consumer"]
each_reader = pytest.mark.parametrize("group", EACH_READER, indirect=True)


@pytest.fixture(params=EACH)
def group(request: pytest.FixtureRequest) -> Iterator[GroupHarness]:
    """A group without members, on an empty topic."""
    harness = create_harness(request)
    yield harness
    harness.close()


@pytest.fixture
def member(group: GroupHarness) -> Member:
    """The only member: it owns all partitions."""
    member = group.join("first")
    group.wait(lambda: member.owned == ALL, member)
    return member


def two_members(group: GroupHarness) -> tuple[Member, Member]:
    first = group.join("first")
    group.wait(lambda: first.owned == ALL, first)
    second = group.join("second")
    group.wait(lambda: second.owned and first.owned | second.owned == ALL, first, second)
    return first, second


def test_the_first_assignment_has_every_partition_without_a_commit(member: Member) -> None:
    assert member.committed == dict.fromkeys(ALL, (NO_OFFSET, ""))
    assert member.calls("revoked") == member.calls("lost") == []


@each_reader
def test_records_of_a_partition_are_read_in_order(group: GroupHarness, member: Member) -> None:
    for partition in ALL:
        group.publish(partition, *(b"%d" % number for number in range(5)))
    group.wait(lambda: len(member.records) == 15, member)
    for partition in ALL:
        records = [record for record in member.records if record.partition == partition]
        assert [(record.offset, record.value) for record in records] == [(n, b"%d" % n) for n in range(5)]


@each_reader
def test_read_returns_at_most_the_limit(group: GroupHarness, member: Member) -> None:
    group.publish(0, *[b"x"] * 7)
    sizes: list[int] = []

    def read() -> bool:
        with member.calling():
            sizes.append(len(member.source.read(3, 0.1)))
        return sum(sizes) == 7

    group.wait(read)
    assert max(sizes) <= 3


def test_an_assignment_has_the_committed_offset_and_its_metadata(group: GroupHarness, member: Member) -> None:
    group.publish(1, b"a", b"b", b"c")
    group.wait(lambda: len(member.records) == 3, member)
    assert member.source.commit_sync({1: commit(2, "it's ✓")}, 10) == {1: commit(2, "it's ✓")}
    member.close()
    successor = group.join("second")
    group.wait(lambda: successor.owned == ALL and successor.records, successor)
    assert successor.committed == {0: (NO_OFFSET, ""), 1: (2, "it's ✓"), 2: (NO_OFFSET, "")}
    assert successor.offsets(1) == [2]


def test_a_second_member_gets_partitions_after_the_first_released_them(group: GroupHarness) -> None:
    first, second = two_members(group)
    assert first.owned.isdisjoint(second.owned)
    assert first.calls("lost") == second.calls("lost") == []
    for partition in second.owned:
        calls = [(name, kind) for name, kind, partitions in group.log if partition in partitions]
        assert calls == [("first", "assigned"), ("first", "revoked"), ("second", "assigned")]
    if group.cooperative:
        kept = [kind for name, kind, partitions in group.log if name == "first" and partitions & first.owned]
        assert kept == ["assigned"], "what does not move is not revoked"


def test_a_commit_inside_revoked_reaches_the_next_owner(group: GroupHarness) -> None:
    first = group.join("first")
    for partition in ALL:
        group.publish(partition, b"a", b"b")
    group.wait(lambda: len(first.records) == 6, first)

    def commit_all(partitions: Sequence[int]) -> None:
        commits = {partition: commit(1, "leaving") for partition in partitions}
        assert first.source.commit_sync(commits, 10) == commits

    first.before_revoke = commit_all
    second = group.join("second")
    group.wait(lambda: second.owned and first.owned | second.owned == ALL, first, second)
    group.wait(lambda: all(second.offsets(partition) for partition in second.owned), first, second)
    for partition in second.owned:
        assert second.committed[partition] == (1, "leaving")
        assert second.offsets(partition) == [1]


def test_an_expelled_member_loses_its_partitions(group: GroupHarness) -> None:
    first, second = two_members(group)
    owned, revoked = set(first.owned), first.calls("revoked")
    group.expel(first, second)
    group.wait(lambda: first.calls("lost"), first)
    assert set().union(*first.calls("lost")) == owned
    assert first.calls("revoked") == revoked


@each_reader
def test_a_paused_partition_is_not_read_until_it_is_resumed(group: GroupHarness, member: Member) -> None:
    member.source.pause([0, 2])
    for partition in ALL:
        group.publish(partition, b"x")
    group.wait(lambda: member.offsets(1), member)
    group.publish(1, b"y")
    group.wait(lambda: len(member.offsets(1)) == 2, member)
    assert member.offsets(0) == member.offsets(2) == []
    member.source.resume([0])
    group.wait(lambda: member.offsets(0), member)
    assert member.offsets(2) == []
    assert member.calls("revoked") == []


def test_a_reassigned_partition_is_not_paused(group: GroupHarness) -> None:
    first = group.join("first")
    group.wait(lambda: first.owned == ALL, first)
    first.source.pause(sorted(ALL))
    second = group.join("second")
    group.wait(lambda: second.owned and first.owned | second.owned == ALL, first, second)
    moved = set(second.owned)
    second.close()
    group.wait(lambda: first.owned == ALL, first)
    for partition in moved:
        group.publish(partition, b"x")
    group.wait(lambda: all(first.offsets(partition) for partition in moved), first)


@each_reader
def test_a_position_is_the_offset_after_the_last_record_read(group: GroupHarness, member: Member) -> None:
    assert member.source.positions(sorted(ALL)) == {}
    group.publish(2, b"a", b"b")
    group.wait(lambda: len(member.records) == 2, member)
    assert member.source.positions(sorted(ALL)) == {2: 2}
    assert member.source.positions([0, 1]) == {}


@each_reader
def test_a_position_skips_the_end_of_a_transaction(group: GroupHarness, member: Member) -> None:
    group.publish_transaction(0, b"a")
    group.wait(lambda: member.source.positions([0]) == {0: 2}, member)
    assert member.offsets(0) == [0]


@each_reader
def test_a_commit_callback_runs_inside_a_later_read(group: GroupHarness, member: Member) -> None:
    group.publish(0, b"a", b"b")
    group.wait(lambda: len(member.records) == 2, member)
    answers: list[Mapping[int, Commit]] = []
    commits = {0: commit(2, "both"), 1: commit(0, "none")}
    member.source.commit_async(commits, answers.append)
    assert answers == []
    group.wait(lambda: answers, member)
    assert answers == [commits]
    assert group.committed(0) == (2, "both")
    assert group.committed(1) == (0, "none")


@each_reader
def test_one_commit_may_follow_another(group: GroupHarness, member: Member) -> None:
    group.publish(0, b"a", b"b")
    group.wait(lambda: len(member.records) == 2, member)
    for offset in (1, 2):
        answers: list[Mapping[int, Commit]] = []
        member.source.commit_async({0: commit(offset)}, answers.append)
        group.wait(lambda: answers, member)  # noqa: B023 - it is called before the next round
        assert answers == [{0: commit(offset)}]
        assert group.committed(0) == (offset, "")


@each_reader
def test_commit_sync_returns_what_the_broker_stored(group: GroupHarness, member: Member) -> None:
    commits = {0: commit(0, "a"), 2: commit(0, "b")}
    assert member.source.commit_sync(commits, 10) == commits
    assert [group.committed(partition) for partition in range(PARTITIONS)] == [(0, "a"), (NO_OFFSET, ""), (0, "b")]


def test_close_revokes_and_a_commit_inside_counts(group: GroupHarness, member: Member) -> None:
    taken: list[Mapping[int, Commit]] = []
    member.before_revoke = lambda partitions: taken.append(
        member.source.commit_sync({partition: commit(0, "closed") for partition in partitions}, 10)
    )
    member.close()
    assert set().union(*member.calls("revoked")) == ALL
    assert member.owned == set()
    assert member.calls("lost") == []
    assert {partition for stored in taken for partition in stored} == ALL
    assert [group.committed(partition) for partition in range(PARTITIONS)] == [(0, "closed")] * PARTITIONS


def test_the_remaining_member_gets_the_partitions_of_a_closed_one(group: GroupHarness) -> None:
    first, second = two_members(group)
    second.close()
    group.wait(lambda: first.owned == ALL, first)
    assert first.calls("lost") == []
