"""Where REST's blocking work runs: threads of their own number, and no longer than a client should have to wait."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import anyio
from anyio import to_thread

from filemill.config.settings import Settings
from filemill.errors import Unavailable

T = TypeVar("T")

# Connections that REST leaves to the relay and to the pages.
CONNECTIONS_FOR_OTHERS = 2


class RequestThreads:
    """Runs work that asks the database, at most so much of it at once."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = anyio.CapacityLimiter(max(1, settings.database_pool_size - CONNECTIONS_FOR_OTHERS))
        self.timeout_seconds = settings.server_timeout_seconds
        self._url = settings.database_url

    async def run(self, work: Callable[[], T], patience: float | None = None) -> T:
        """Run `work` on a thread. Raises Unavailable where it is not done within `patience` seconds."""
        with self.timeout(patience):
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    @contextlib.contextmanager
    def timeout(self, patience: float | None = None) -> Iterator[None]:
        """Give what is awaited in the context so many seconds. Raises Unavailable where it takes longer."""
        seconds = patience or self.timeout_seconds
        try:
            with anyio.fail_after(seconds):
                yield
        except TimeoutError:
            raise Unavailable(f"no answer within {seconds:g} s from {self._url}") from None


@contextlib.contextmanager
def client_waits() -> Iterator[Callable[[], bool]]:
    """Whether the sender still waits: a thread that was abandoned must not do what was answered 503."""
    over = threading.Event()
    try:
        yield lambda: not over.is_set()
    finally:
        over.set()
