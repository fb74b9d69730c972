"""The index of topic contents that `verify` uses."""

from collections.abc import Iterator

import pytest

from filemill.adapters.sqlite.topic_index import TopicIndex
from filemill.domain.partitioning import Placement
from filemill.domain.topic_records import CancelledRecord, DeadLetterRecord, IndexedResult, RequestRecord
from filemill.errors import Unavailable


@pytest.fixture
def index() -> Iterator[TopicIndex]:
    index = TopicIndex()
    yield index
    index.close()


def test_results_of_a_run_keep_their_order_and_precede_those_without_a_run(index: TopicIndex) -> None:
    first, other, foreign, again = (
        IndexedResult(7, 1, "failed", 0, 1),
        IndexedResult(7, 2, "completed", 0, 2),
        IndexedResult(7, None, "completed", 1, 1),
        IndexedResult(7, 1, "completed", 2, 1),
    )
    index.insert("results", [first, other, foreign, again, IndexedResult(8, 1, "completed", 0, 3)])
    index.create_indexes()
    facts = index.facts(6, 7)
    assert facts.results(7, 1) == [first, again, foreign]
    assert facts.results(7, 3) == [foreign]
    assert facts.results(8, 1) == [], "its id is outside the range"
    assert index.duplicate_results() == 1


def test_empty_topics_give_empty_results(index: TopicIndex) -> None:
    index.create_indexes()
    assert index.duplicate_results() == index.repeats() == index.dead_letters() == 0
    assert list(index.sequences()) == []
    assert index.committed_unfinished({}) == []


def test_unassigned_sequence_numbers_are_ignored(index: TopicIndex) -> None:
    numbers = [(2, 1), (1, 0), (2, 2), (None, 0), (2**63 - 1, 0)]
    index.insert("requests", [RequestRecord(1, 1, number, partition, 0) for number, partition in numbers])
    index.create_indexes()
    assert index.ignore_unknown_sequences(3) == 1
    assert list(index.sequences()) == [Placement(1, 0), Placement(2, 1)]
    assert list(index.sequences_on_two_partitions()) == [2]
    assert index.repeats() == 1


def test_a_commit_may_pass_finished_records_only(index: TopicIndex) -> None:
    def at(offset: int, file_id: int | None, run: int | None = 1) -> RequestRecord:
        return RequestRecord(file_id, run, offset + 1, 0, offset)

    index.insert("requests", [at(0, 1), at(1, 2), at(2, 3), at(3, 4), at(4, None), at(5, 5, None), at(6, 6)])
    index.insert("results", [IndexedResult(1, 1, "completed", 0, 0), IndexedResult(2, 9, "completed", 0, 1)])
    index.insert("results", [IndexedResult(5, None, "completed", 0, 2)])
    index.insert("dead_letters", [DeadLetterRecord(3, 0, 2), DeadLetterRecord(None, None, None)])
    index.insert("cancelled", [CancelledRecord(0, 3)])
    index.create_indexes()
    found = index.committed_unfinished({0: 6, 1: None, 2: 0})
    assert [request.offset for request in found] == [1, 4]
    assert index.dead_letters() == 2
    assert index.facts(1, 9).dead_letters == {3}


def test_a_full_temporary_folder_raises_unavailable(index: TopicIndex) -> None:
    index._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(Unavailable, match=r"temporary file .set TMPDIR.: .* full"):
        index.insert("requests", (RequestRecord(number, 1, number, 0, number) for number in range(10_000)))


def test_several_dead_letters_of_a_record_count_as_one_record(index: TopicIndex) -> None:
    assert index.distinct_dead_letters() == 0
    index.insert(
        "dead_letters",
        [DeadLetterRecord(7, 0, 5)] * 3 + [DeadLetterRecord(8, 0, 6), DeadLetterRecord(None, None, None)],
    )
    assert (index.dead_letters(), index.distinct_dead_letters()) == (5, 3)
