"""Which records start, which wait, and which partitions are paused."""

import random
from collections import Counter, deque

from filemill.domain.records import Record
from filemill_workers.file_processor.dispatcher import (
    SPAN_RECORDS,
    Dispatcher,
    PartitionUsage,
    QueueLimits,
)

LIMITS = QueueLimits()


def records(partition: int, count: int, begin: int = 0, value: bytes = b"{}") -> list[Record]:
    return [Record("file.create", partition, begin + number, value, [], 0) for number in range(count)]


def new_dispatcher(partitions: int, limit: int = 100, partition_limit: int = 100) -> Dispatcher:
    dispatcher = Dispatcher(limit, partition_limit)
    dispatcher.on_assigned(range(partitions))
    return dispatcher


def usage(*unfinished: int) -> dict[int, PartitionUsage]:
    return {partition: PartitionUsage(count, count) for partition, count in enumerate(unfinished)}


def shares(begun: list[Record]) -> dict[int, int]:
    return dict(Counter(record.partition for record in begun))


def test_records_start_in_order_up_to_the_concurrency() -> None:
    dispatcher = new_dispatcher(1)
    dispatcher.enqueue(records(0, 150))
    assert [record.offset for record in dispatcher.dispatch(usage(0), backpressure=False)] == list(range(100))
    assert dispatcher.dispatch(usage(100), backpressure=False) == []
    assert dispatcher.paused
    assert [record.offset for record in dispatcher.dispatch(usage(97), backpressure=False)] == [100, 101, 102]
    assert dispatcher.queued == 47
    dispatcher.dispatch(usage(50), backpressure=False)
    assert dispatcher.queued == 0
    assert not dispatcher.paused


def test_the_partition_with_the_fewest_records_in_progress_starts_next() -> None:
    dispatcher = new_dispatcher(3)
    dispatcher.enqueue(records(0, 500))
    assert shares(dispatcher.dispatch(usage(0, 0, 0), backpressure=False)) == {0: 100}, (
        "where one has work, it gets the worker"
    )
    dispatcher.enqueue(records(1, 500) + records(2, 500))
    assert shares(dispatcher.dispatch(usage(90, 0, 0), backpressure=False)) == {1: 5, 2: 5}
    assert shares(dispatcher.dispatch(usage(40, 20, 10), backpressure=False)) == {1: 10, 2: 20}
    assert shares(dispatcher.dispatch(usage(0, 0, 0), backpressure=False)) == {0: 34, 1: 33, 2: 33}


def test_partitions_take_turns_if_there_are_more_of_them_than_the_concurrency() -> None:
    dispatcher = new_dispatcher(5, limit=2)
    for partition in range(5):
        dispatcher.enqueue(records(partition, 10))
    rounds = [dispatcher.dispatch(usage(0, 0, 0, 0, 0), backpressure=False) for _ in range(5)]
    assert shares([record for begun in rounds for record in begun]) == dict.fromkeys(range(5), 2)


def test_the_limit_of_one_partition_does_not_block_the_others() -> None:
    dispatcher = new_dispatcher(2, partition_limit=10)
    dispatcher.enqueue(records(0, 50) + records(1, 5))
    assert shares(dispatcher.dispatch(usage(8, 0), backpressure=False)) == {0: 2, 1: 5}
    assert dispatcher.dispatch(usage(10, 5), backpressure=False) == []
    assert dispatcher.paused


def test_a_partition_waits_if_its_span_reaches_the_limit() -> None:
    dispatcher = new_dispatcher(1)
    dispatcher.enqueue(records(0, 10))
    assert dispatcher.dispatch({0: PartitionUsage(1, SPAN_RECORDS)}, backpressure=False) == []
    assert len(dispatcher.dispatch({0: PartitionUsage(1, SPAN_RECORDS - 2)}, backpressure=False)) == 2
    assert len(dispatcher.dispatch({0: PartitionUsage(0, 0)}, backpressure=False)) == 8


def test_under_backpressure_nothing_starts_and_all_partitions_are_paused() -> None:
    dispatcher = new_dispatcher(2)
    dispatcher.enqueue(records(0, 3))
    assert dispatcher.dispatch(usage(0, 0), backpressure=True) == []
    assert dispatcher.flow_control(backpressure=True) == ([0, 1], [])
    assert dispatcher.paused
    assert len(dispatcher.dispatch(usage(0, 0), backpressure=False)) == 3
    assert dispatcher.flow_control(backpressure=False) == ([], [0, 1])
    assert not dispatcher.paused


def test_a_partition_is_paused_when_its_queue_is_full_and_resumed_at_half() -> None:
    dispatcher = new_dispatcher(2, limit=10_000, partition_limit=10_000)
    room = LIMITS.records // 2
    dispatcher.enqueue(records(0, room - 1))
    assert dispatcher.flow_control(backpressure=False) == ([], [])
    dispatcher.enqueue(records(0, 1, begin=room - 1))
    assert dispatcher.flow_control(backpressure=False) == ([0], [])
    assert len(dispatcher.dispatch(usage(10_000 - room // 2 + 1, 0), backpressure=False)) == room // 2 - 1
    assert dispatcher.flow_control(backpressure=False) == ([], []), "a pause costs a fetch"
    assert len(dispatcher.dispatch(usage(9_999, 0), backpressure=False)) == 1
    assert dispatcher.flow_control(backpressure=False) == ([], [0])


def test_few_large_records_fill_a_queue() -> None:
    dispatcher = new_dispatcher(2)
    dispatcher.enqueue(records(0, 16, value=bytes(LIMITS.max_bytes // 32 - 1)))
    assert dispatcher.flow_control(backpressure=False) == ([], [])
    dispatcher.enqueue(records(0, 1, begin=16))
    dispatcher.enqueue(records(0, 1, begin=17, value=bytes(14)))
    assert dispatcher.flow_control(backpressure=False) == ([0], [])


def test_each_of_many_partitions_may_queue_the_minimum() -> None:
    dispatcher = new_dispatcher(1000, limit=1)
    dispatcher.enqueue(records(7, LIMITS.min_records - 1))
    assert dispatcher.flow_control(backpressure=False) == ([], [])
    dispatcher.enqueue(records(7, 1, begin=LIMITS.min_records - 1))
    assert dispatcher.flow_control(backpressure=False) == ([7], [])


def test_revoked_partitions_lose_their_queue_and_assigned_ones_are_not_paused() -> None:
    dispatcher = new_dispatcher(2, limit=10)
    dispatcher.enqueue(records(0, LIMITS.records) + records(1, 5))
    assert dispatcher.flow_control(backpressure=False) == ([0], [])
    dispatcher.on_revoked([0])
    assert dispatcher.queued == 5
    dispatcher.enqueue(records(0, 3))
    assert dispatcher.queued == 5, "fetched before the revocation"
    dispatcher.on_assigned([0])
    assert dispatcher.flow_control(backpressure=False) == ([], []), "the client reads what it was assigned"
    dispatcher.enqueue(records(0, LIMITS.records))
    assert dispatcher.flow_control(backpressure=False) == ([0], [])


def test_no_limit_is_exceeded_for_random_input() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        dispatcher, held, reached = new_dispatcher(3, 50, 20), [0, 0, 0], [0, 0, 0]
        paused: set[int] = set()
        for _ in range(200):
            for partition in {0, 1, 2} - paused:
                count = chance.randint(0, 300)
                dispatcher.enqueue(records(partition, count, begin=reached[partition]))
                reached[partition] += count
            for record in dispatcher.dispatch(usage(*held), backpressure=False):
                held[record.partition] += 1
            assert sum(held) <= 50
            assert max(held) <= 20
            pause, resume = dispatcher.flow_control(backpressure=False)
            paused = (paused | set(pause)) - set(resume)
            assert dispatcher.queued <= 3 * (LIMITS.records // 3 + 300)
            held = [count - chance.randint(0, min(5, count)) for count in held]


def test_no_partition_starves_behind_one_that_is_always_read_first() -> None:
    """The client always returns records of the first partition first."""
    dispatcher = new_dispatcher(3)
    in_progress: deque[int] = deque()  # partitions of what is held, the oldest first
    paused: set[int] = set()
    begun = dict.fromkeys(range(3), 0)
    for _ in range(2000):
        first = min(set(begun) - paused, default=None)
        if first is not None:
            dispatcher.enqueue(records(first, 500))
        now = dispatcher.dispatch({p: PartitionUsage(in_progress.count(p), 0) for p in begun}, backpressure=False)
        in_progress.extend(record.partition for record in now)
        for record in now:
            begun[record.partition] += 1
        pause, resume = dispatcher.flow_control(backpressure=False)
        paused = (paused | set(pause)) - set(resume)
        for _ in range(min(5, len(in_progress))):
            in_progress.popleft()
    assert min(begun.values()) > 0.3 * sum(begun.values()), begun
