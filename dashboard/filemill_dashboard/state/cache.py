"""One reading shared by all viewers: fresh for a second or so, never asked for twice at once, kept when it fails.

However many pages are open, a server is asked once per `ttl_seconds` and question. While it is away the last good value
stays, with its age and the error, so that a page can go on standing and say how old it is.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from filemill.errors import Unavailable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class CachedValue(Generic[T]):
    """A value, how old it is, and what went wrong since.

    `age_seconds` is None before the first success; `error` is None when the latest try succeeded.
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
    flight: Future[None] | None = None
    ticket: int = 0  # of the latest flight: one that `forget` has overtaken must not put its older answer in


class Cached(Generic[K, T]):
    """Readings by key. Any thread may call `get`.

    `read` runs on the executor and raises Unavailable where a server is away; a bug in it is raised to whoever
    asked. `patience_seconds` is how long a caller waits for it before it gets what there is; a question that is
    already overdue is waited for no longer. With `in_background`, only the first answer is waited for at all. `keys`
    bounds how many answers are kept.
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
    ) -> None:
        self._read = read
        self._executor = executor
        self._ttl = ttl_seconds
        self._patience = wait_seconds
        self._in_background = refresh_in_background
        self._keys = max_keys
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[T]] = OrderedDict()

    def get(self, key: K) -> CachedValue[T]:
        """The reading, refreshed where it is older than its time to live."""
        with self._lock:
            entry = self._entry(key)
            if entry.flight is None and self._clock() - entry.tried_at >= self._ttl:
                entry.tried_at = self._clock()
                entry.ticket += 1
                entry.flight = self._executor.submit(self._refresh, key, entry, entry.ticket)
            flight = entry.flight
            waits = not self._in_background or entry.read_at is None
            remaining = self._patience - (self._clock() - entry.tried_at) if waits else 0.0
        if flight is not None:
            done, _ = wait([flight], timeout=max(0.0, remaining))
            if done:
                flight.result()
        with self._lock:
            overdue = entry.flight is not None and self._clock() - entry.tried_at >= self._patience
            age = None if entry.read_at is None else self._clock() - entry.read_at
            return CachedValue(entry.value, age, entry.error or ("no answer yet" if overdue else None))

    def invalidate(self) -> None:
        """Ask anew the next time: after a change that the caller made itself and wants to see."""
        with self._lock:
            for entry in self._entries.values():
                entry.tried_at = float("-inf")
                entry.flight = None

    def _entry(self, key: K) -> _Entry[T]:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > self._keys:
            self._entries.popitem(last=False)
        return entry

    def _refresh(self, key: K, entry: _Entry[T], ticket: int) -> None:
        started = self._clock()
        error: str | None = None
        try:
            value = self._read(key)
        except Unavailable as away:
            error = str(away)
        except Exception as bug:
            error = f"{type(bug).__name__}: {bug}"
            raise
        finally:
            with self._lock:
                if entry.ticket == ticket:
                    entry.flight, entry.error = None, error
                    if error is None:
                        entry.value, entry.read_at = value, started
