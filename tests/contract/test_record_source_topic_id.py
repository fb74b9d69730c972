"""RecordSource: where a member begins to read, and what it does when its topic is deleted and created again."""

from collections.abc import Iterator

import pytest

from filemill.adapters.memory.broker import NO_OFFSET
from filemill.domain.offsets import encode_metadata
from filemill.errors import MemberExpelled
from tests.contract.groups import EACH, PARTITIONS, GroupHarness, Member, create_harness

# Members are not polled while their topic is recreated, and must not be expelled for that.
MAX_POLL_MILLISECONDS = 60_000
FORMER_TOPIC = "Tj7u0cCkR0yJ9yZ8bF1h3w"


@pytest.fixture(params=EACH)
def group(request: pytest.FixtureRequest) -> Iterator[GroupHarness]:
    """A group without members, on an empty topic."""
    harness = create_harness(request, max_poll_milliseconds=MAX_POLL_MILLISECONDS)
    yield harness
    harness.close()


def test_a_member_continues_at_commits_of_this_topic_and_at_those_without_a_topic_id(group: GroupHarness) -> None:
    for partition in range(PARTITIONS):
        group.publish(partition, *[b"x"] * 4)
    named = encode_metadata("w", 1, 2, [3], group.topic_id())
    unnamed = encode_metadata("w", 1, 3, [])
    group.commit(0, 2, named)
    group.commit(1, 3, unnamed)
    member = group.join("first")
    group.wait(lambda: len(member.records) == 7, member)
    assert [member.offsets(partition) for partition in range(PARTITIONS)] == [[2, 3], [3], [0, 1, 2, 3]]
    assert member.committed == {0: (2, named), 1: (3, unnamed), 2: (NO_OFFSET, "")}
    assert {member.source.topic_id(partition) for partition in range(PARTITIONS)} == {group.topic_id()}


def test_a_member_reads_from_the_beginning_if_the_commit_is_of_another_topic(group: GroupHarness) -> None:
    group.publish(0, *[b"x"] * 4)
    group.commit(0, 2, encode_metadata("w", 1, 2, [3], FORMER_TOPIC))
    member = group.join("first")
    group.wait(lambda: len(member.records) == 4, member)
    assert member.offsets(0) == [0, 1, 2, 3]
    assert member.committed[0] == (NO_OFFSET, "")
    assert member.source.topic_id(0) == group.topic_id()


def test_a_member_leaves_when_its_topic_is_recreated_and_the_next_one_reads_all(group: GroupHarness) -> None:
    """Under KIP-848 the broker revokes and assigns the partitions, and the member may stay."""
    group.publish(0, b"a", b"b")
    members = [group.join("member-0")]
    group.wait(lambda: members[0].offsets(0) == [0, 1], members[0])
    former = members[0].source.topic_id(0)
    group.recreate()
    group.publish(0, *[b"x"] * 5)
    found: set[int] = set()

    def read_the_new_topic() -> bool:
        member: Member = members[-1]
        try:
            records = member.read()
        except MemberExpelled:
            assert member.owned == set()
            assert member.source.topic_id(0) == ""
            member.close()
            members.append(group.join(f"member-{len(members)}"))
            return False
        if member.source.topic_id(0) != former:
            found.update(record.offset for record in records)
        return len(found) == 5

    group.wait(read_the_new_topic)
    assert found == set(range(5))
    assert members[-1].source.topic_id(0) == group.topic_id() != former


def test_a_closed_member_may_be_closed_again(group: GroupHarness) -> None:
    member = group.join("first")
    member.close()
    member.source.close()
