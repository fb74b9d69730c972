"""What `verify` keeps of the topics, and what it asks of it."""

from collections.abc import Iterator

import pytest

from filemill.domain.partitioning import Placement
from filemill.errors import Unavailable
from filemill.verification.topic_index import CancelledRecord, DeadLetterRecord, RequestRecord, ResultRecord, TopicIndex


@pytest.fixture
def evidence() -> Iterator[TopicIndex]:
    evidence = TopicIndex()
    yield evidence
    evidence.close()


def test_results_of_a_run_come_in_their_order_and_those_without_a_run_after_them(evidence: TopicIndex) -> None:
    first, other, foreign, again = (
        ResultRecord(7, 1, "failed", 0, 1),
        ResultRecord(7, 2, "completed", 0, 2),
        ResultRecord(7, None, "completed", 1, 1),
        ResultRecord(7, 1, "completed", 2, 1),
    )
    evidence.insert("results", [first, other, foreign, again, ResultRecord(8, 1, "completed", 0, 3)])
    evidence.create_indexes()
    told = evidence.facts(6, 7)
    assert told.results(7, 1) == [first, again, foreign]
    assert told.results(7, 3) == [foreign]
    assert told.results(8, 1) == [], "it was not asked for"
    assert evidence.duplicate_results() == 1


def test_nothing_is_known_of_empty_topics(evidence: TopicIndex) -> None:
    evidence.create_indexes()
    assert evidence.duplicate_results() == evidence.repeats() == evidence.dead_letters() == 0
    assert list(evidence.sequences()) == []
    assert evidence.committed_unfinished() == []


def test_numbers_are_those_that_were_given(evidence: TopicIndex) -> None:
    numbers = [(2, 1), (1, 0), (2, 2), (None, 0), (2**63 - 1, 0)]
    evidence.insert("requests", [RequestRecord(1, 1, number, partition, 0) for number, partition in numbers])
    evidence.create_indexes()
    assert evidence.ignore_unknown_sequences(3) == 1
    assert list(evidence.sequences()) == [Placement(1, 0), Placement(2, 1)]
    assert list(evidence.sequences_on_two_partitions()) == [2]
    assert evidence.repeats() == 1


def test_a_commit_may_pass_what_has_ended_and_nothing_else(evidence: TopicIndex) -> None:
    def at(offset: int, file_id: int | None, run: int | None = 1) -> RequestRecord:
        return RequestRecord(file_id, run, offset + 1, 0, offset)

    evidence.insert("requests", [at(0, 1), at(1, 2), at(2, 3), at(3, 4), at(4, None), at(5, 5, None), at(6, 6)])
    evidence.insert("results", [ResultRecord(1, 1, "completed", 0, 0), ResultRecord(2, 9, "completed", 0, 1)])
    evidence.insert("results", [ResultRecord(5, None, "completed", 0, 2)])
    evidence.insert("dead_letters", [DeadLetterRecord(3, 0, 2), DeadLetterRecord(None, None, None)])
    evidence.insert("cancelled", [CancelledRecord(0, 3)])
    evidence.create_indexes()
    evidence.committed = {0: 6, 1: None, 2: 0}
    assert [request.offset for request in evidence.committed_unfinished()] == [1, 4]
    assert evidence.dead_letters() == 2
    assert evidence.facts(1, 9).dead_letters == {3}


def test_no_room_is_said_to_be_that(evidence: TopicIndex) -> None:
    evidence._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(Unavailable, match=r"temporary file .TMPDIR says where.: .* full"):
        evidence.insert("requests", (RequestRecord(number, 1, number, 0, number) for number in range(10_000)))


def test_dead_letters_of_one_record_are_one_distinct_dead_letter(evidence: TopicIndex) -> None:
    assert evidence.distinct_dead_letters() == 0
    evidence.insert(
        "dead_letters",
        [DeadLetterRecord(7, 0, 5)] * 3 + [DeadLetterRecord(8, 0, 6), DeadLetterRecord(None, None, None)],
    )
    assert (evidence.dead_letters(), evidence.distinct_dead_letters()) == (5, 3)
