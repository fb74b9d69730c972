"""What `verify` keeps of the topics, and what it asks of it."""

from collections.abc import Iterator

import pytest

from filemill.domain.partitioning import Placement
from filemill.errors import Unavailable
from filemill.verification.topic_index import Cancelled, DeadLetter, Evidence, Request, Result


@pytest.fixture
def evidence() -> Iterator[Evidence]:
    evidence = Evidence()
    yield evidence
    evidence.close()


def test_results_of_a_run_come_in_their_order_and_those_without_a_run_after_them(evidence: Evidence) -> None:
    first, other, foreign, again = (
        Result(7, 1, "failed", 0, 1),
        Result(7, 2, "completed", 0, 2),
        Result(7, None, "completed", 1, 1),
        Result(7, 1, "completed", 2, 1),
    )
    evidence.keep("results", [first, other, foreign, again, Result(8, 1, "completed", 0, 3)])
    evidence.index()
    told = evidence.told(6, 7)
    assert told.results(7, 1) == [first, again, foreign]
    assert told.results(7, 3) == [foreign]
    assert told.results(8, 1) == [], "it was not asked for"
    assert evidence.duplicate_results() == 1


def test_nothing_is_known_of_empty_topics(evidence: Evidence) -> None:
    evidence.index()
    assert evidence.duplicate_results() == evidence.repeats() == evidence.dead_letters() == 0
    assert list(evidence.published()) == []
    assert evidence.committed_unfinished() == []


def test_numbers_are_those_that_were_given(evidence: Evidence) -> None:
    numbers = [(2, 1), (1, 0), (2, 2), (None, 0), (2**63 - 1, 0)]
    evidence.keep("requests", [Request(1, 1, number, partition, 0) for number, partition in numbers])
    evidence.index()
    assert evidence.disown(3) == 1
    assert list(evidence.published()) == [Placement(1, 0), Placement(2, 1)]
    assert list(evidence.on_two_partitions()) == [2]
    assert evidence.repeats() == 1


def test_a_commit_may_pass_what_has_ended_and_nothing_else(evidence: Evidence) -> None:
    def at(offset: int, file_id: int | None, run: int | None = 1) -> Request:
        return Request(file_id, run, offset + 1, 0, offset)

    evidence.keep("requests", [at(0, 1), at(1, 2), at(2, 3), at(3, 4), at(4, None), at(5, 5, None), at(6, 6)])
    evidence.keep("results", [Result(1, 1, "completed", 0, 0), Result(2, 9, "completed", 0, 1)])
    evidence.keep("results", [Result(5, None, "completed", 0, 2)])
    evidence.keep("dead_letters", [DeadLetter(3, 0, 2), DeadLetter(None, None, None)])
    evidence.keep("cancelled", [Cancelled(0, 3)])
    evidence.index()
    evidence.committed = {0: 6, 1: None, 2: 0}
    assert [request.offset for request in evidence.committed_unfinished()] == [1, 4]
    assert evidence.dead_letters() == 2
    assert evidence.told(1, 9).dead_letters == {3}


def test_no_room_is_said_to_be_that(evidence: Evidence) -> None:
    evidence._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(Unavailable, match=r"temporary file .TMPDIR says where.: .* full"):
        evidence.keep("requests", (Request(number, 1, number, 0, number) for number in range(10_000)))


def test_dead_letters_of_one_record_are_one_distinct_dead_letter(evidence: Evidence) -> None:
    assert evidence.distinct_dead_letters() == 0
    evidence.keep("dead_letters", [DeadLetter(7, 0, 5)] * 3 + [DeadLetter(8, 0, 6), DeadLetter(None, None, None)])
    assert (evidence.dead_letters(), evidence.distinct_dead_letters()) == (5, 3)
