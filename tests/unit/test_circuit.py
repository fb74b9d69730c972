"""The circuit breaker around calls: one call probes, the others wait, and all continue when the server answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable
from filemill_workers.file_processor.circuit import CircuitBreaker

THRESHOLD = 5
# Short delays between probes.
PROBE_POLICY = RetryPolicy(base_seconds=0.005, cap_seconds=0.01)


class Server:
    """Counts its calls."""

    def __init__(self) -> None:
        self.unreachable = False
        self.calls = self.at_once = self.most_at_once = 0

    async def call(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            if self.unreachable:
                raise Unavailable("unreachable")
        finally:
            self.at_once -= 1


class BreakerHarness:
    def __init__(self) -> None:
        self.server = Server()
        self.events: list[EventKind] = []
        self.breaker = CircuitBreaker("S3", lambda kind, _: self.events.append(kind), random.Random(1), PROBE_POLICY)

    async def open(self) -> None:
        """Open the breaker by failures."""
        self.server.unreachable = True
        for _ in range(THRESHOLD):
            with pytest.raises(Unavailable):
                await self.breaker.call(self.server.call)
        self.server.calls = 0
        self.server.most_at_once = 0


def _run(scenario: Callable[[BreakerHarness], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(BreakerHarness()), 20)

    asyncio.run(run())


async def _retry(harness: BreakerHarness) -> None:
    """Retry the call until it succeeds, as a record does."""
    while True:
        try:
            await harness.breaker.call(harness.server.call)
        except Unavailable:
            await asyncio.sleep(0.001)
        else:
            return


def test_calls_run_concurrently_while_the_breaker_is_closed() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        await asyncio.gather(*(harness.breaker.call(harness.server.call) for _ in range(20)))
        assert harness.server.most_at_once == 20
        assert harness.events == []
        assert harness.breaker.reason is None

    _run(scenario)


def test_consecutive_failures_open_the_breaker_and_emit_one_event() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        await harness.open()
        assert harness.events == [EventKind.BREAKER_OPENED]
        assert harness.breaker.reason == "S3: unreachable"

    _run(scenario)


def test_other_errors_reach_the_caller_and_do_not_count() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        async def broken() -> None:
            raise ValueError("of the record's own")

        for _ in range(THRESHOLD * 2):
            with pytest.raises(ValueError, match="own"):
                await harness.breaker.call(broken)
        assert harness.events == [], "the server is not the cause"

    _run(scenario)


def test_one_call_at_a_time_probes_while_the_breaker_is_open() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        await harness.open()
        insistent = [asyncio.create_task(_retry(harness)) for _ in range(50)]
        while harness.server.calls < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert harness.server.most_at_once == 1
        harness.server.unreachable = False
        await asyncio.gather(*insistent)
        assert harness.events == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED]
        assert harness.breaker.reason is None

    _run(scenario)


def test_the_breaker_opens_again_for_the_next_outage() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        for _ in range(3):
            await harness.open()
            harness.server.unreachable = False
            await _retry(harness)
        assert harness.events == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED] * 3

    _run(scenario)


def test_another_call_probes_after_a_probe_is_cancelled_during_its_call() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        await harness.open()
        prober = asyncio.create_task(harness.breaker.call(harness.server.call))
        while not harness.server.at_once:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waiter = asyncio.create_task(_retry(harness))
        await asyncio.sleep(0)
        prober.cancel()
        harness.server.unreachable = False
        await asyncio.wait_for(waiter, 10)

    _run(scenario)


def test_another_call_probes_after_a_probe_is_cancelled_during_its_delay() -> None:
    async def scenario(harness: BreakerHarness) -> None:
        await harness.open()
        prober = asyncio.create_task(harness.breaker.call(harness.server.call))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(harness.breaker.call(harness.server.call))
        await asyncio.sleep(0)
        prober.cancel()
        harness.server.unreachable = False
        await asyncio.wait_for(waiter, 10)

    _run(scenario)
