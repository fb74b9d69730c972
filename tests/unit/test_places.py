"""The places of a processor: shares by weight, reserved places, and no starvation."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.queues import Queue
from filemill_workers.file_processor.places import Places, ProcessPlaces


def _queue(name: str, weight: int = 1, reserved: int = 0) -> Queue:
    return Queue(name, f"topic.{name}", f"group-{name}", weight, reserved)


def test_one_queue_gets_every_place() -> None:
    places = Places(10, [_queue("default")])
    assert places.claim("default", 0, 25) == 10
    assert places.claim("default", 10, 15) == 0
    assert places.claim("default", 7, 15) == 3


def test_a_queue_without_waiting_records_leaves_its_share_to_the_others() -> None:
    places = Places(10, [_queue("default"), _queue("bulk")])
    places.claim("default", 0, 0)
    assert places.claim("bulk", 0, 50) == 10


def test_queues_with_waiting_records_share_by_weight() -> None:
    places = Places(12, [_queue("heavy", 3), _queue("light", 1)])
    places.claim("heavy", 12, 100)
    used = {"heavy": 12, "light": 0}
    for _ in range(200):  # the records of a heavy queue end one by one; both queues ask
        busy = "heavy" if used["heavy"] > 0 else "light"
        used[busy] -= 1
        for queue in ("light", "heavy"):
            used[queue] += places.claim(queue, used[queue], 100)
            assert sum(used.values()) <= 12
    assert used == {"heavy": 9, "light": 3}


def test_a_reserved_place_is_free_while_another_queue_has_all_places() -> None:
    places = Places(5, [_queue("urgent", 1, reserved=1), _queue("bulk", 100)])
    assert places.claim("bulk", 0, 1000) == 5
    assert places.claim("urgent", 0, 3) == 1
    assert places.claim("bulk", 5, 995) == 0
    assert places.claim("urgent", 0, 2) == 1, "it is free again when its record has ended"


def test_a_reserve_is_in_addition_to_a_single_place() -> None:
    places = Places(1, [_queue("default"), _queue("urgent", 1, reserved=1)])
    assert places.claim("default", 0, 10) == 1
    assert places.claim("urgent", 0, 10) == 1


def test_with_one_place_each_queue_gets_its_turn() -> None:
    places = Places(1, [_queue("heavy", 4), _queue("light", 1)])
    places.claim("light", 0, 0)
    turns, last, other = {"heavy": places.claim("heavy", 0, 10), "light": 0}, "heavy", "light"
    for _ in range(100):  # its only record ends, then both ask
        if not places.claim(last, 0, 10):
            assert places.claim(other, 0, 10) == 1
            last, other = other, last
        elif other == "light":
            assert places.claim(other, 0, 10) == 0
        turns[last] += 1
    assert 18 <= turns["light"] <= 22


def test_an_idle_queue_saves_no_turns() -> None:
    places = Places(1, [_queue("early"), _queue("late")])
    for _ in range(1000):
        places.claim("early", 0, 10)
    got = 0
    for _ in range(10):
        places.claim("early", 0, 10)
        got += places.claim("late", 0, 10)
    assert got <= 6, "it does not get all places until it has caught up"


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 20)), max_size=60),
)
def test_more_places_than_there_are_are_never_in_use(limit: int, steps: list[tuple[str, int, int]]) -> None:
    queues = [_queue("a", 1), _queue("b", 5, 2), _queue("c", 2)]
    places, used = Places(limit, queues), dict.fromkeys("abc", 0)
    for queue, waiting, ended in steps:
        used[queue] = max(0, used[queue] - ended)
        started = places.claim(queue, used[queue], waiting)
        assert 0 <= started <= waiting
        used[queue] += started
        assert used["a"] + max(0, used["b"] - 2) + used["c"] <= limit
        if waiting and queue == "b" and used["b"] < 2:
            assert used["b"] - started + waiting == used["b"], "a reserved place was refused"


class _Jobs:
    """Jobs that hold a process until the test ends them."""

    def __init__(self, places: ProcessPlaces) -> None:
        self._places = places
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._run(name))
        await self.settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _run(self, name: str) -> None:
        self._ends[name] = asyncio.Event()
        queue = name.split("-", maxsplit=1)[0]
        await self._places.acquire(queue)
        self.running.append(name)
        try:
            await self._ends[name].wait()
        finally:
            self.running.remove(name)
            self._places.release(queue)


def test_an_urgent_job_gets_a_process_while_bulk_has_all_others() -> None:
    async def check() -> None:
        jobs = _Jobs(ProcessPlaces(2, [_queue("urgent", 8, reserved=1), _queue("bulk", 1)]))
        await jobs.start(*(f"bulk-{number}" for number in range(50)))
        assert jobs.running == ["bulk-0", "bulk-1"]
        await jobs.start("urgent-0", "urgent-1")
        assert jobs.running == ["bulk-0", "bulk-1", "urgent-0"]
        await jobs.end("bulk-0")
        assert jobs.running == ["bulk-1", "urgent-0", "urgent-1"], "the next free process is for the heavier queue"
        await jobs.end("urgent-0")
        assert jobs.running == ["bulk-1", "urgent-1", "bulk-2"]
        for task in jobs.tasks.values():
            task.cancel()
        await asyncio.gather(*jobs.tasks.values(), return_exceptions=True)

    asyncio.run(check())


def test_a_cancelled_job_leaves_its_place_to_the_next() -> None:
    async def check() -> None:
        jobs = _Jobs(ProcessPlaces(1, [_queue("a")]))
        await jobs.start("a-0", "a-1", "a-2")
        jobs.tasks["a-1"].cancel()  # it waits
        jobs.tasks["a-0"].cancel()  # it runs
        await asyncio.gather(jobs.tasks["a-0"], jobs.tasks["a-1"], return_exceptions=True)
        await jobs.settle()
        assert jobs.running == ["a-2"]
        await jobs.end("a-2")
        await jobs.start("a-3")
        assert jobs.running == ["a-3"]
        await jobs.end("a-3")

    asyncio.run(check())
