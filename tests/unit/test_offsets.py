"""Which offset may be committed while records finish in any order."""

import base64
import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.domain.offsets import (
    Commit,
    CommitMetadata,
    OffsetTracker,
    decode_metadata,
    encode_metadata,
    is_of_another_topic,
    topic_id_in,
)
from filemill_workers.file_processor.dispatcher import SPAN_RECORDS


def _delivered(*offsets: int) -> OffsetTracker:
    partition = OffsetTracker()
    for offset in offsets:
        assert partition.track(offset)
    return partition


# --- one after the other


def test_without_records_there_is_nothing_to_commit() -> None:
    partition = OffsetTracker()
    assert partition.position is None
    assert partition.next_commit("w", 1) is None


def test_tracking_alone_commits_nothing() -> None:
    partition = _delivered(5, 6)
    assert partition.position == 5
    assert partition.unfinished == 2
    assert partition.next_commit("w", 1) is None


def test_the_position_is_the_lowest_unfinished_offset() -> None:
    partition = _delivered(5, 6, 7, 8)
    for offset in (6, 8, 7):
        partition.finish(offset)
        assert partition.position == 5
    assert partition.finished_beyond() == [6, 7, 8]
    partition.finish(5)
    assert partition.position == 9
    assert partition.finished_beyond() == []


def test_the_position_passes_offsets_without_records() -> None:
    partition = _delivered(5, 9, 40)
    partition.finish(5)
    assert partition.position == 9
    partition.finish(9)
    assert partition.position == 40
    partition.finish(40)
    assert partition.position == 41


def test_finishing_twice_has_no_effect() -> None:
    partition = _delivered(5, 6)
    partition.finish(6)
    partition.finish(6)
    assert partition.unfinished == 1
    partition.finish(5)
    partition.finish(5)
    assert (partition.unfinished, partition.position) == (0, 7)


def test_tracking_an_offset_twice_raises() -> None:
    partition = _delivered(5, 9)
    for offset in (4, 5, 7, 9):
        with pytest.raises(ValueError, match="delivered already"):
            partition.track(offset)
    assert partition.track(10)


def test_offsets_finished_by_the_last_owner_are_skipped() -> None:
    partition = OffsetTracker([7, 9])
    assert [partition.track(offset) for offset in (5, 6, 7, 8, 9)] == [True, True, False, True, False]
    assert partition.unfinished == 3
    assert partition.finished_beyond() == [7, 9]
    for offset in (5, 6):
        partition.finish(offset)
    assert partition.position == 8
    partition.finish(8)
    assert partition.position == 10


def test_offsets_finished_in_another_log_are_not_skipped() -> None:
    partition = OffsetTracker([7, 9], committed=5)
    assert [partition.track(offset) for offset in range(10)] == [True] * 10


def test_offsets_finished_by_the_last_owner_stay_in_the_metadata() -> None:
    partition = OffsetTracker([7, 900])
    partition.track(5)
    partition.track(6)
    partition.finish(5)
    commit = partition.next_commit("w", 2)
    assert commit is not None
    assert decode_metadata(commit.metadata, commit.offset)[1] == [7, 900]


def test_a_commit_is_due_until_it_is_accepted() -> None:
    partition = _delivered(5, 6)
    partition.finish(5)
    first = partition.next_commit("w", 1)
    assert first is not None
    assert first.offset == 6
    assert partition.next_commit("w", 1) == first, "a failed commit is retried"
    partition.on_committed(first)
    assert partition.next_commit("w", 1) is None


def test_records_that_finish_during_a_commit_are_due_after_it() -> None:
    partition = _delivered(5, 6, 7)
    partition.finish(5)
    first = partition.next_commit("w", 1)
    assert first is not None
    partition.finish(7)
    partition.on_committed(first)
    second = partition.next_commit("w", 1)
    assert second is not None
    assert (second.offset, decode_metadata(second.metadata, 6)[1]) == (6, [7])


def test_a_late_commit_result_does_not_go_back() -> None:
    partition = _delivered(5, 6)
    partition.finish(5)
    first = partition.next_commit("w", 1)
    partition.finish(6)
    second = partition.next_commit("w", 1)
    assert first is not None
    assert second is not None
    partition.on_committed(second)
    partition.on_committed(first)
    assert partition.next_commit("w", 1) is None


def test_a_finished_record_above_the_position_makes_a_commit_due() -> None:
    partition = _delivered(5, 6)
    partition.finish(6)
    commit = partition.next_commit("w", 1)
    assert commit is not None
    assert commit.offset == 5


def test_a_control_record_at_the_end_is_committed_when_all_records_before_it_are_finished() -> None:
    partition = _delivered(5, 6)
    partition.advance_to(8)
    assert partition.position == 5
    partition.finish(6)
    partition.finish(5)
    commit = partition.next_commit("w", 1)
    assert commit is not None
    assert commit.offset == 8
    partition.on_committed(commit)
    partition.advance_to(8)
    assert partition.next_commit("w", 1) is None
    assert partition.track(8), "the next record is at the reader's position"


def test_a_single_control_record_after_the_commit_is_committed() -> None:
    partition = OffsetTracker([], committed=7)
    partition.advance_to(7)
    assert partition.position is None
    assert partition.next_commit("w", 1) is None, "the broker has it already"
    partition.advance_to(8)
    commit = partition.next_commit("w", 1)
    assert commit is not None
    assert commit.offset == 8


# --- any order, with failed commits and successors


class Partition(RuleBasedStateMachine):
    """The log of a partition, its successive owners, and the commits that the broker stored."""

    @initialize(start=st.integers(0, 100))
    def begin(self, start: int) -> None:
        self.log_end = start
        self.log: list[int] = []  # offsets that exist
        self.done: set[int] = set()  # effects that are durable
        self.executions: dict[int, int] = {}
        self.broker: tuple[int, str] = (start, "")
        self.epoch = 0
        self.assign()

    def assign(self) -> None:
        self.epoch += 1
        position, metadata = self.broker
        _, finished = decode_metadata(metadata, position)
        assert set(finished) <= self.done
        self.offsets = OffsetTracker(finished, position)
        self.read_from = position
        self.open: list[int] = []
        self.in_commit: Commit | None = None
        self.covered = {offset for offset in self.log if offset < position} | set(finished)

    @rule(gap=st.integers(0, 3), count=st.integers(1, 5))
    def produce(self, gap: int, count: int) -> None:
        for number in range(count):
            self.log_end += gap if number == 0 else 0
            self.log.append(self.log_end)
            self.log_end += 1

    @rule()
    def end_a_transaction(self) -> None:
        self.log_end += 1

    @precondition(lambda self: all(offset < self.read_from for offset in self.log))
    @rule()
    def reach_the_end(self) -> None:
        self.read_from = self.log_end
        self.offsets.advance_to(self.log_end)

    @rule(count=st.integers(1, 6))
    def read(self, count: int) -> None:
        for offset in [offset for offset in self.log if offset >= self.read_from][:count]:
            self.read_from = offset + 1
            if self.offsets.track(offset):
                assert offset not in self.covered, "covered by an accepted commit, but reprocessed"
                self.open.append(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.done.add(offset)
        self.offsets.finish(offset)

    @rule()
    def commit(self) -> None:
        commit = self.offsets.next_commit("worker", self.epoch)
        if commit is not None:
            assert all(offset in self.done for offset in self.log if offset < commit.offset)
            self.in_commit = commit

    @precondition(lambda self: self.in_commit is not None)
    @rule()
    def accept_the_commit(self) -> None:
        assert self.in_commit is not None
        self.broker = (self.in_commit.offset, self.in_commit.metadata)
        self.offsets.on_committed(self.in_commit)
        self.in_commit = None

    @precondition(lambda self: self.in_commit is not None)
    @rule()
    def lose_the_response(self) -> None:
        assert self.in_commit is not None
        self.broker = (self.in_commit.offset, self.in_commit.metadata)
        self.in_commit = None

    @precondition(lambda self: self.in_commit is not None)
    @rule()
    def reject_the_commit(self) -> None:
        self.in_commit = None

    @rule()
    def crash(self) -> None:
        self.assign()

    @invariant()
    def the_position_never_passes_an_unfinished_record(self) -> None:
        position = self.offsets.position
        if position is not None:
            assert position <= self.log_end
            assert all(offset in self.done for offset in self.log if offset < position)
        assert all(offset in self.done for offset in self.log if offset < self.broker[0])

    @invariant()
    def offsets_in_the_metadata_are_finished(self) -> None:
        assert set(self.offsets.finished_beyond()) <= self.done
        assert self.offsets.unfinished == len(self.open)

    @invariant()
    def no_finished_offset_is_lost(self) -> None:
        """Each offset that is neither unfinished nor unread is finished."""
        assert all(offset in self.done or offset in self.open or offset >= self.read_from for offset in self.log)


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# --- metadata

TOPIC, OTHER_TOPIC = "6VmNvGvxSMyOEtcoYgpS2A", "Tj7u0cCkR0yJ9yZ8bF1h3w"
_offsets = st.sets(st.integers(0, 4000) | st.integers(0, 10**7), max_size=300)


@given(st.integers(0, 2**40), _offsets, st.text(max_size=300), st.integers(0, 2**63 - 1), st.sampled_from(["", TOPIC]))
def test_metadata_is_short_ascii_and_lists_only_finished_offsets(
    position: int, beyond: set[int], worker: str, epoch: int, topic_id: str
) -> None:
    finished = sorted(position + 1 + step for step in beyond)
    text = encode_metadata(worker, epoch, position, finished, topic_id)
    assert len(text) <= 4000
    assert text.isascii()
    metadata, decoded = decode_metadata(text, position)
    assert metadata is not None
    assert (metadata.epoch, metadata.topic_id) == (epoch, topic_id)
    assert decoded == finished[: len(decoded)], "a prefix of the finished offsets"


@given(st.sets(st.integers(1, 2000), max_size=100))
def test_metadata_lists_all_finished_offsets_if_they_fit(beyond: set[int]) -> None:
    text = encode_metadata("worker-1", 3, 0, sorted(beyond))
    assert decode_metadata(text, 0) == (
        CommitMetadata("worker-1", 3, json.loads(text).get("done", "")),
        sorted(beyond),
    )


def test_metadata_that_does_not_fit_is_truncated() -> None:
    chance = random.Random(1)
    scattered = [offset for offset in range(1, 200_000) if chance.random() < 0.5]
    text = encode_metadata("w", 1, 0, scattered, TOPIC)
    assert len(text) <= 4000, "the broker accepts 4,096, and one oversize partition fails the commit of all"
    _, decoded = decode_metadata(text, 0)
    assert decoded == scattered[: len(decoded)]
    assert 5000 < len(decoded) < len(scattered)


def test_metadata_has_room_for_the_whole_span_of_a_partition() -> None:
    """With the longest worker id, the largest epoch, and a bitmap that cannot be compressed."""
    chance = random.Random(1)
    scattered = [offset for offset in range(1, SPAN_RECORDS) if chance.random() < 0.5]
    text = encode_metadata("w" * 300, 2**63 - 1, 0, scattered, TOPIC)
    assert len(text) <= 4000
    assert decode_metadata(text, 0)[1] == scattered


def test_a_thousand_contiguous_finished_offsets_need_little_space() -> None:
    assert len(encode_metadata("w", 1, 0, list(range(2, 1001)))) < 200


def test_a_worker_id_is_truncated_and_converted_to_ascii() -> None:
    metadata, _ = decode_metadata(encode_metadata('wörker"\\\n' * 100, 1, 0, [5]), 0)
    assert metadata is not None
    assert metadata.worker.startswith('w?rker"\\\n')
    assert len(metadata.worker) == 200


def _done(raw: bytes) -> str:
    return json.dumps({"worker": "w", "epoch": 1, "done": base64.b64encode(raw).decode()})


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "NO_METADATA",
        "{",
        "null",
        "[]",
        "\ud800",
        "{}",
        '{"worker": 5, "epoch": 1}',
        '{"worker": "w", "epoch": "1"}',
        '{"worker": "w", "epoch": 1, "done": 7}',
        '{"worker": "w", "epoch": 1, "done": "not base64!"}',
        '{"worker": "w", "epoch": 1, "done": "é"}',
        '{"worker": "w", "epoch": 1, "done": "AAAA"}',
        '{"x":' + "[" * 2000 + "]" * 2000 + "}",
        _done(b""),
        _done(zlib.compress(b"abc")[:-5] + b"xxxxx"),
    ],
)
def test_foreign_metadata_contains_no_finished_offsets(text: str | None) -> None:
    assert decode_metadata(text, 5)[1] == []


def test_foreign_metadata_is_recognized() -> None:
    assert decode_metadata('{"worker": "w", "epoch": 1, "new": true}', 5) == (CommitMetadata("w", 1), [])
    assert decode_metadata("{}", 5) == (None, [])


def test_a_commit_names_the_topic_that_it_is_of() -> None:
    text = encode_metadata("w", 1, 7, [9], TOPIC)
    assert topic_id_in(text) == TOPIC
    assert is_of_another_topic(text, OTHER_TOPIC)
    assert not is_of_another_topic(text, TOPIC)
    assert not is_of_another_topic(text, ""), "the topic's id is unknown"


@pytest.mark.parametrize(
    "text", [None, "", "NO_METADATA", "{}", '{"worker": "w", "epoch": 1}', '{"worker": "w", "epoch": 1, "topic_id": 7}']
)
def test_a_commit_that_names_no_topic_may_be_of_any(text: str | None) -> None:
    assert topic_id_in(text) == ""
    assert not is_of_another_topic(text, TOPIC)


def test_commits_of_a_partition_name_the_topic_that_they_are_given() -> None:
    offsets = OffsetTracker()
    offsets.track(0)
    offsets.finish(0)
    commit = offsets.next_commit("w", 1, TOPIC)
    assert commit is not None
    assert (commit.offset, topic_id_in(commit.metadata)) == (1, TOPIC)


def test_a_zip_bomb_is_truncated() -> None:
    bomb = zlib.compress(b"\0" * 5_000_000 + b"\xff", 9)
    text = _done(bomb)
    _, decoded = decode_metadata(text, 0)
    assert decoded == []
    everything = _done(zlib.compress(b"\xff" * 2_500_000, 9))
    assert len(everything) < 4096
    _, decoded = decode_metadata(everything, 0)
    assert len(decoded) <= 64 * 1024 * 8


def test_a_partition_that_never_had_a_commit_has_no_finished_records() -> None:
    assert decode_metadata("", -1001) == (None, [])
