"""Threads for REST's blocking work: a limited number of them, and a timeout for each request."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import anyio
from anyio import to_thread

from filemill.config.settings import Settings
from filemill.errors import Unavailable

T = TypeVar("T")

# Database connections that REST leaves to the relay and to the pages.
CONNECTIONS_FOR_OTHERS = 2


class RequestThreads:
    """Runs work that uses the database, on at most as many threads as there are connections for it."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = anyio.CapacityLimiter(max(1, settings.database_pool_size - CONNECTIONS_FOR_OTHERS))
        self.timeout_seconds = settings.server_timeout_seconds
        self._url = settings.database_url

    async def run(self, work: Callable[[], T], timeout_seconds: float | None = None) -> T:
        """Run `work` on a thread. Raises Unavailable after the timeout; the thread is then abandoned."""
        with self.timeout(timeout_seconds):
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    @contextlib.contextmanager
    def timeout(self, timeout_seconds: float | None = None) -> Iterator[None]:
        """Limit the time of what is awaited in this context. Raises Unavailable after the timeout."""
        seconds = timeout_seconds or self.timeout_seconds
        try:
            with anyio.fail_after(seconds):
                yield
        except TimeoutError:
            raise Unavailable(f"no answer within {seconds:g} s from {self._url}") from None


@contextlib.contextmanager
def client_waits() -> Iterator[Callable[[], bool]]:
    """Yields a function: whether the client still waits. An abandoned thread must not do what was answered 503."""
    ended = threading.Event()
    try:
        yield lambda: not ended.is_set()
    finally:
        ended.set()
