"""A stale-while-revalidate cache, shared by all viewers.

However many pages are open, a server is queried once per `ttl_seconds` and key, and never twice at once. While the
server is unreachable, the last value stays available, with its age and the error.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from filemill.errors import Unavailable

# Enough for a refused connection.
HURRIED_WAIT_SECONDS = 0.15

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class CachedValue(Generic[T]):
    """A value, its age, and the error of the latest read.

    `value` and `age_seconds` are None before the first successful read; `error` is None if the latest read succeeded.
    """

    value: T | None
    age_seconds: float | None
    error: str | None


@dataclass
class _Entry(Generic[T]):
    value: T | None = None
    read_at: float | None = None
    tried_at: float = float("-inf")
    error: str | None = None
    refresh: Future[None] | None = None
    # The number of the latest refresh. After `invalidate`, the result of an older one must not be stored.
    refresh_number: int = 0


class KeyedCache(Generic[K, T]):
    """A cache in front of `read`, by key. Any thread may call `get`.

    `read` runs on the executor. It raises Unavailable if a server is unreachable; any other exception is raised to the
    caller of `get`. A caller waits at most `wait_seconds` for a refresh, counted from its start, and then gets the last
    value. With `refresh_in_background`, callers wait only for the first value. While `hurried`, they wait at most
    `HURRIED_WAIT_SECONDS`: another read of the same server has just timed out. At most `max_keys` values are kept.
    """

    def __init__(
        self,
        read: Callable[[K], T],
        executor: Executor,
        *,
        ttl_seconds: float,
        wait_seconds: float = 1.5,
        refresh_in_background: bool = False,
        max_keys: int = 64,
        clock: Callable[[], float] = time.monotonic,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._read = read
        self._executor = executor
        self._ttl = ttl_seconds
        self._wait_seconds = wait_seconds
        self._refresh_in_background = refresh_in_background
        self._max_keys = max_keys
        self._clock = clock
        self._hurried = hurried
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[T]] = OrderedDict()

    def get(self, key: K) -> CachedValue[T]:
        """The value of the key, refreshed if it is older than the time to live."""
        with self._lock:
            entry = self._entry(key)
            if entry.refresh is None and self._clock() - entry.tried_at >= self._ttl:
                entry.tried_at = self._clock()
                entry.refresh_number += 1
                entry.refresh = self._executor.submit(self._refresh, key, entry, entry.refresh_number)
            refresh = entry.refresh
            waits = not self._refresh_in_background or entry.read_at is None
            limit = min(self._wait_seconds, HURRIED_WAIT_SECONDS) if self._hurried() else self._wait_seconds
            remaining = limit - (self._clock() - entry.tried_at) if waits else 0.0
        if refresh is not None:
            done, _ = wait([refresh], timeout=max(0.0, remaining))
            if done:
                refresh.result()
        with self._lock:
            overdue = entry.refresh is not None and self._clock() - entry.tried_at >= self._wait_seconds
            age = None if entry.read_at is None else self._clock() - entry.read_at
            return CachedValue(entry.value, age, entry.error or ("no answer yet" if overdue else None))

    def invalidate(self) -> None:
        """Refresh each value at its next `get`: the caller has changed something. The old values stay until then."""
        with self._lock:
            for entry in self._entries.values():
                entry.tried_at = float("-inf")
                entry.refresh = None

    def _entry(self, key: K) -> _Entry[T]:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_keys:
            self._entries.popitem(last=False)
        return entry

    def _refresh(self, key: K, entry: _Entry[T], number: int) -> None:
        started = self._clock()
        error: str | None = None
        try:
            value = self._read(key)
        except Unavailable as unavailable:
            error = str(unavailable)
        except Exception as bug:
            error = f"{type(bug).__name__}: {bug}"
            raise
        finally:
            with self._lock:
                if entry.refresh_number == number:
                    entry.refresh, entry.error = None, error
                    if error is None:
                        entry.value, entry.read_at = value, started
