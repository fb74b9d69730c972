"""One reading for all viewers: fresh, asked for once at a time, kept when it fails."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from filemill.errors import Unavailable
from filemill_dashboard.state.cache import Cached

TTL = 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def shared(
    read: Callable[[str], int], pool: ThreadPoolExecutor, clock: Clock | None = None, **given: float
) -> Cached[str, int]:
    return Cached(read, pool, ttl_seconds=TTL, clock=clock or time.monotonic, **given)  # type: ignore[arg-type]


def test_a_fresh_reading_is_not_asked_for_again(pool: ThreadPoolExecutor) -> None:
    numbers = itertools.count(1)
    clock = Clock()
    readings = shared(lambda _key: next(numbers), pool, clock)

    assert readings.get("a").value == 1
    clock.now += TTL / 2
    second = readings.get("a")
    assert (second.value, second.age_seconds, second.error) == (1, TTL / 2, None)
    clock.now += TTL
    assert readings.get("a").value == 2
    assert readings.get("b").value == 3


def test_many_viewers_ask_once(pool: ThreadPoolExecutor) -> None:
    begun, go_on, asked = threading.Event(), threading.Event(), []

    def read(key: str) -> int:
        asked.append(key)
        begun.set()
        assert go_on.wait(10)
        return 7

    readings = shared(read, pool, patience_seconds=10)
    with ThreadPoolExecutor(20) as viewers:
        answers = [viewers.submit(readings.get, "a") for _ in range(20)]
        assert begun.wait(10)
        go_on.set()
        assert [answer.result().value for answer in answers] == [7] * 20
    assert asked == ["a"]


def test_the_last_good_value_stays_while_the_server_is_away(pool: ThreadPoolExecutor) -> None:
    clock, away = Clock(), False

    def read(_key: str) -> int:
        if away:
            raise Unavailable("PostgreSQL is away")
        return 5

    readings = shared(read, pool, clock)
    assert readings.get("a").error is None
    away = True
    clock.now += 10
    reading = readings.get("a")
    assert (reading.value, reading.age_seconds, reading.error) == (5, 10, "PostgreSQL is away")
    away = False
    clock.now += TTL
    reading = readings.get("a")
    assert (reading.value, reading.age_seconds, reading.error) == (5, 0, None)


def test_nothing_known_yet_is_none_and_not_zero(pool: ThreadPoolExecutor) -> None:
    def read(_key: str) -> int:
        raise Unavailable("away")

    reading = shared(read, pool).get("a")
    assert (reading.value, reading.age_seconds, reading.error) == (None, None, "away")


def test_a_server_that_hangs_costs_a_viewer_its_patience_once(pool: ThreadPoolExecutor) -> None:
    go_on = threading.Event()

    def read(_key: str) -> int:
        assert go_on.wait(30)
        return 1

    readings = shared(read, pool, patience_seconds=0.2)
    started = time.monotonic()
    first = readings.get("a")
    assert (first.value, first.error) == (None, "no answer yet")
    waited = time.monotonic() - started
    assert waited >= 0.2
    started = time.monotonic()
    assert readings.get("a").error == "no answer yet"
    assert time.monotonic() - started < 0.2
    go_on.set()
    deadline = time.monotonic() + 10
    while readings.get("a").value != 1:
        assert time.monotonic() < deadline


def test_what_was_forgotten_does_not_come_back_late(pool: ThreadPoolExecutor) -> None:
    old_goes_on, numbers = threading.Event(), itertools.count()

    def read(_key: str) -> int:
        number = next(numbers)
        if number == 0:
            assert old_goes_on.wait(10)
        return number

    readings = shared(read, pool, patience_seconds=0.1)
    assert readings.get("a").value is None
    readings.invalidate()
    while readings.get("a").value is None:
        pass
    assert readings.get("a").value == 1
    old_goes_on.set()
    pool.submit(lambda: None).result()
    assert readings.get("a").value == 1


def test_a_bug_reaches_the_one_who_asked(pool: ThreadPoolExecutor) -> None:
    def read(_key: str) -> int:
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        shared(read, pool, patience_seconds=10).get("a")


def test_in_background_only_the_first_answer_is_waited_for(pool: ThreadPoolExecutor) -> None:
    clock, go_on, numbers = Clock(), threading.Event(), itertools.count(1)

    def read(_key: str) -> int:
        number = next(numbers)
        if number > 1:
            assert go_on.wait(10)
        return number

    readings: Cached[str, int] = Cached(
        read, pool, ttl_seconds=TTL, wait_seconds=5, refresh_in_background=True, clock=clock
    )
    assert readings.get("a").value == 1
    clock.now += TTL
    started = time.monotonic()
    assert readings.get("a").value == 1
    assert time.monotonic() - started < 1
    go_on.set()
