"""What begins, what waits, what is paused and resumed."""

import random
from collections import Counter, deque

from filemill.domain.records import Record
from filemill_workers.file_processor.dispatcher import (
    MIN_QUEUED_RECORDS,
    QUEUED_BYTES,
    QUEUED_RECORDS,
    SPAN_RECORDS,
    Dispatcher,
    PartitionUsage,
)


def records(partition: int, count: int, begin: int = 0, value: bytes = b"{}") -> list[Record]:
    return [Record("file.create", partition, begin + number, value, [], 0) for number in range(count)]


def intake_of(partitions: int, limit: int = 100, partition_limit: int = 100) -> Dispatcher:
    intake = Dispatcher(limit, partition_limit)
    intake.on_assigned(range(partitions))
    return intake


def loads(*unfinished: int) -> dict[int, PartitionUsage]:
    return {partition: PartitionUsage(count, count) for partition, count in enumerate(unfinished)}


def shares(begun: list[Record]) -> dict[int, int]:
    return dict(Counter(record.partition for record in begun))


def test_records_begin_in_order_and_no_more_than_the_worker_may_hold() -> None:
    intake = intake_of(1)
    intake.enqueue(records(0, 150))
    assert [record.offset for record in intake.dispatch(loads(0), held=False)] == list(range(100))
    assert intake.dispatch(loads(100), held=False) == []
    assert intake.paused
    assert [record.offset for record in intake.dispatch(loads(97), held=False)] == [100, 101, 102]
    assert intake.queued == 47
    intake.dispatch(loads(50), held=False)
    assert intake.queued == 0
    assert not intake.paused


def test_places_go_to_whoever_has_the_fewest_in_progress() -> None:
    intake = intake_of(3)
    intake.enqueue(records(0, 500))
    assert shares(intake.dispatch(loads(0, 0, 0), held=False)) == {0: 100}, "where one has work, it gets the worker"
    intake.enqueue(records(1, 500) + records(2, 500))
    assert shares(intake.dispatch(loads(90, 0, 0), held=False)) == {1: 5, 2: 5}
    assert shares(intake.dispatch(loads(40, 20, 10), held=False)) == {1: 10, 2: 20}
    assert shares(intake.dispatch(loads(0, 0, 0), held=False)) == {0: 34, 1: 33, 2: 33}


def test_fewer_places_than_partitions_go_round() -> None:
    intake = intake_of(5, limit=2)
    for partition in range(5):
        intake.enqueue(records(partition, 10))
    rounds = [intake.dispatch(loads(0, 0, 0, 0, 0), held=False) for _ in range(5)]
    assert shares([record for begun in rounds for record in begun]) == dict.fromkeys(range(5), 2)


def test_one_partition_holds_no_more_than_its_bound_and_stops_nobody_else() -> None:
    intake = intake_of(2, partition_limit=10)
    intake.enqueue(records(0, 50) + records(1, 5))
    assert shares(intake.dispatch(loads(8, 0), held=False)) == {0: 2, 1: 5}
    assert intake.dispatch(loads(10, 5), held=False) == []
    assert intake.paused


def test_a_partition_that_runs_far_ahead_of_its_oldest_record_waits_for_it() -> None:
    intake = intake_of(1)
    intake.enqueue(records(0, 10))
    assert intake.dispatch({0: PartitionUsage(1, SPAN_RECORDS)}, held=False) == []
    assert len(intake.dispatch({0: PartitionUsage(1, SPAN_RECORDS - 2)}, held=False)) == 2
    assert len(intake.dispatch({0: PartitionUsage(0, 0)}, held=False)) == 8


def test_on_hold_nothing_begins_and_nothing_is_read() -> None:
    intake = intake_of(2)
    intake.enqueue(records(0, 3))
    assert intake.dispatch(loads(0, 0), held=True) == []
    assert intake.flow_control(held=True) == ([0, 1], [])
    assert intake.paused
    assert len(intake.dispatch(loads(0, 0), held=False)) == 3
    assert intake.flow_control(held=False) == ([], [0, 1])
    assert not intake.paused


def test_a_partition_is_paused_while_its_own_queue_is_full_and_goes_on_at_half() -> None:
    intake = intake_of(2, limit=10_000, partition_limit=10_000)
    room = QUEUED_RECORDS // 2
    intake.enqueue(records(0, room - 1))
    assert intake.flow_control(held=False) == ([], [])
    intake.enqueue(records(0, 1, begin=room - 1))
    assert intake.flow_control(held=False) == ([0], [])
    assert len(intake.dispatch(loads(10_000 - room // 2 + 1, 0), held=False)) == room // 2 - 1
    assert intake.flow_control(held=False) == ([], []), "a pause costs a fetch: not for a few"
    assert len(intake.dispatch(loads(9_999, 0), held=False)) == 1
    assert intake.flow_control(held=False) == ([], [0])


def test_of_large_records_few_wait() -> None:
    intake = intake_of(2)
    intake.enqueue(records(0, 16, value=bytes(QUEUED_BYTES // 32 - 1)))
    assert intake.flow_control(held=False) == ([], [])
    intake.enqueue(records(0, 1, begin=16))
    intake.enqueue(records(0, 1, begin=17, value=bytes(14)))
    assert intake.flow_control(held=False) == ([0], [])


def test_of_very_many_partitions_each_may_keep_a_few() -> None:
    intake = intake_of(1000, limit=1)
    intake.enqueue(records(7, MIN_QUEUED_RECORDS - 1))
    assert intake.flow_control(held=False) == ([], [])
    intake.enqueue(records(7, 1, begin=MIN_QUEUED_RECORDS - 1))
    assert intake.flow_control(held=False) == ([7], [])


def test_what_goes_takes_what_waited_along_and_what_comes_is_read() -> None:
    intake = intake_of(2, limit=10)
    intake.enqueue(records(0, QUEUED_RECORDS) + records(1, 5))
    assert intake.flow_control(held=False) == ([0], [])
    intake.on_revoked([0])
    assert intake.queued == 5
    intake.enqueue(records(0, 3))
    assert intake.queued == 5, "fetched before the revocation"
    intake.on_assigned([0])
    assert intake.flow_control(held=False) == ([], []), "the client reads what it was assigned"
    intake.enqueue(records(0, QUEUED_RECORDS))
    assert intake.flow_control(held=False) == ([0], [])


def test_no_bound_is_passed_whatever_comes() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        intake, held, reached = intake_of(3, 50, 20), [0, 0, 0], [0, 0, 0]
        paused: set[int] = set()
        for _ in range(200):
            for partition in {0, 1, 2} - paused:
                count = chance.randint(0, 300)
                intake.enqueue(records(partition, count, begin=reached[partition]))
                reached[partition] += count
            for record in intake.dispatch(loads(*held), held=False):
                held[record.partition] += 1
            assert sum(held) <= 50
            assert max(held) <= 20
            pause, resume = intake.flow_control(held=False)
            paused = (paused | set(pause)) - set(resume)
            assert intake.queued <= 3 * (QUEUED_RECORDS // 3 + 300)
            held = [count - chance.randint(0, min(5, count)) for count in held]


def test_no_partition_starves_behind_a_neighbour_that_is_always_quicker() -> None:
    """The client gives the first partition's records first, always; and there are always some."""
    intake = intake_of(3)
    in_progress: deque[int] = deque()  # partitions of what is held, the oldest first
    paused: set[int] = set()
    begun = dict.fromkeys(range(3), 0)
    for _ in range(2000):
        first = min(set(begun) - paused, default=None)
        if first is not None:
            intake.enqueue(records(first, 500))
        now = intake.dispatch({p: PartitionUsage(in_progress.count(p), 0) for p in begun}, held=False)
        in_progress.extend(record.partition for record in now)
        for record in now:
            begun[record.partition] += 1
        pause, resume = intake.flow_control(held=False)
        paused = (paused | set(pause)) - set(resume)
        for _ in range(min(5, len(in_progress))):
            in_progress.popleft()
    assert min(begun.values()) > 0.3 * sum(begun.values()), begun
