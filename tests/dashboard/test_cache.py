"""The cache of the pages: one read at a time, a time to live, and the last value while a server is unreachable."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from filemill.errors import Unavailable
from filemill_dashboard.state.cache import KeyedCache

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


def cached(
    read: Callable[[str], int], pool: ThreadPoolExecutor, clock: Clock | None = None, **given: float
) -> KeyedCache[str, int]:
    return KeyedCache(read, pool, ttl_seconds=TTL, clock=clock or time.monotonic, **given)  # type: ignore[arg-type]


def test_a_fresh_value_is_not_read_again(pool: ThreadPoolExecutor) -> None:
    numbers = itertools.count(1)
    clock = Clock()
    cache = cached(lambda _key: next(numbers), pool, clock)

    assert cache.get("a").value == 1
    clock.now += TTL / 2
    second = cache.get("a")
    assert (second.value, second.age_seconds, second.error) == (1, TTL / 2, None)
    clock.now += TTL
    assert cache.get("a").value == 2
    assert cache.get("b").value == 3


def test_many_viewers_cause_one_read(pool: ThreadPoolExecutor) -> None:
    started, go_on, keys = threading.Event(), threading.Event(), []

    def read(key: str) -> int:
        keys.append(key)
        started.set()
        assert go_on.wait(10)
        return 7

    cache = cached(read, pool, wait_seconds=10)
    with ThreadPoolExecutor(20) as viewers:
        answers = [viewers.submit(cache.get, "a") for _ in range(20)]
        assert started.wait(10)
        go_on.set()
        assert [answer.result().value for answer in answers] == [7] * 20
    assert keys == ["a"]


def test_the_last_value_stays_while_the_server_is_unreachable(pool: ThreadPoolExecutor) -> None:
    clock, away = Clock(), False

    def read(_key: str) -> int:
        if away:
            raise Unavailable("PostgreSQL is unreachable")
        return 5

    cache = cached(read, pool, clock)
    assert cache.get("a").error is None
    away = True
    clock.now += 10
    value = cache.get("a")
    assert (value.value, value.age_seconds, value.error) == (5, 10, "PostgreSQL is unreachable")
    away = False
    clock.now += TTL
    value = cache.get("a")
    assert (value.value, value.age_seconds, value.error) == (5, 0, None)


def test_before_the_first_read_the_value_is_none(pool: ThreadPoolExecutor) -> None:
    def read(_key: str) -> int:
        raise Unavailable("unreachable")

    value = cached(read, pool).get("a")
    assert (value.value, value.age_seconds, value.error) == (None, None, "unreachable")


def test_a_hanging_server_delays_only_the_first_viewer(pool: ThreadPoolExecutor) -> None:
    go_on = threading.Event()

    def read(_key: str) -> int:
        assert go_on.wait(30)
        return 1

    cache = cached(read, pool, wait_seconds=0.2)
    started = time.monotonic()
    first = cache.get("a")
    assert (first.value, first.error) == (None, "no answer yet")
    waited = time.monotonic() - started
    assert waited >= 0.2
    started = time.monotonic()
    assert cache.get("a").error == "no answer yet"
    assert time.monotonic() - started < 0.2
    go_on.set()
    deadline = time.monotonic() + 10
    while cache.get("a").value != 1:
        assert time.monotonic() < deadline


def test_an_invalidated_value_is_not_overwritten_by_an_older_read(pool: ThreadPoolExecutor) -> None:
    old_goes_on, numbers = threading.Event(), itertools.count()

    def read(_key: str) -> int:
        number = next(numbers)
        if number == 0:
            assert old_goes_on.wait(10)
        return number

    cache = cached(read, pool, wait_seconds=0.1)
    assert cache.get("a").value is None
    cache.invalidate()
    while cache.get("a").value is None:
        pass
    assert cache.get("a").value == 1
    old_goes_on.set()
    pool.submit(lambda: None).result()
    assert cache.get("a").value == 1


def test_an_exception_of_the_read_is_raised_to_the_caller(pool: ThreadPoolExecutor) -> None:
    def read(_key: str) -> int:
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        cached(read, pool, wait_seconds=10).get("a")


def test_with_background_refresh_only_the_first_value_is_waited_for(pool: ThreadPoolExecutor) -> None:
    clock, go_on, numbers = Clock(), threading.Event(), itertools.count(1)

    def read(_key: str) -> int:
        number = next(numbers)
        if number > 1:
            assert go_on.wait(10)
        return number

    cache: KeyedCache[str, int] = KeyedCache(
        read, pool, ttl_seconds=TTL, wait_seconds=5, refresh_in_background=True, clock=clock
    )
    assert cache.get("a").value == 1
    clock.now += TTL
    started = time.monotonic()
    assert cache.get("a").value == 1
    assert time.monotonic() - started < 1
    go_on.set()


def test_a_hurried_caller_gets_the_last_value_without_waiting_for_a_slow_server(pool: ThreadPoolExecutor) -> None:
    go_on, hurried = threading.Event(), False
    numbers = itertools.count(1)

    def read(_key: str) -> int:
        number = next(numbers)
        assert number == 1 or go_on.wait(10)
        return number

    cache = KeyedCache(read, pool, ttl_seconds=0, wait_seconds=10, hurried=lambda: hurried)
    assert cache.get("a").value == 1
    hurried = True
    began = time.monotonic()
    assert cache.get("a").value == 1
    assert time.monotonic() - began < 5
    go_on.set()
