"""The way to a server that is away: one tries, the others wait, and all go on when it is back."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable
from filemill_workers.file_processor import circuit
from filemill_workers.file_processor.circuit import CircuitBreaker

THRESHOLD = 5


class Server:
    """Counts its calls; each may hang until the test lets it go."""

    def __init__(self) -> None:
        self.away = False
        self.calls = self.at_once = self.most_at_once = 0

    async def call(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            if self.away:
                raise Unavailable("away")
        finally:
            self.at_once -= 1


class Scene:
    def __init__(self) -> None:
        self.server = Server()
        self.said: list[EventKind] = []
        self.gate = CircuitBreaker("S3", lambda kind, _why: self.said.append(kind), random.Random(1))

    async def open(self) -> None:
        """Have the breaker opened."""
        self.server.away = True
        for _ in range(THRESHOLD):
            with pytest.raises(Unavailable):
                await self.gate.call(self.server.call)
        self.server.calls = 0
        self.server.most_at_once = 0


def _play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Scene()), 20)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "PROBE_POLICY", RetryPolicy(base_seconds=0.005, cap_seconds=0.01))


async def _insist(scene: Scene) -> None:
    """A passage: comes back until it has got through."""
    while True:
        try:
            await scene.gate.call(scene.server.call)
        except Unavailable:
            await asyncio.sleep(0.001)
        else:
            return


def test_calls_pass_side_by_side_while_the_server_is_there() -> None:
    async def scenario(scene: Scene) -> None:
        await asyncio.gather(*(scene.gate.call(scene.server.call) for _ in range(20)))
        assert scene.server.most_at_once == 20
        assert scene.said == []
        assert scene.gate.reason is None

    _play(scenario)


def test_some_failures_in_a_row_open_it_and_it_says_so_once() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.open()
        assert scene.said == [EventKind.BREAKER_OPENED]
        assert scene.gate.reason == "S3: away"

    _play(scenario)


def test_the_failures_error_reaches_the_caller() -> None:
    async def scenario(scene: Scene) -> None:
        async def broken() -> None:
            raise ValueError("of the record's own")

        for _ in range(THRESHOLD * 2):
            with pytest.raises(ValueError, match="own"):
                await scene.gate.call(broken)
        assert scene.said == [], "not the server's fault"

    _play(scenario)


def test_one_at_a_time_tries_while_it_is_open() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.open()
        insistent = [asyncio.create_task(_insist(scene)) for _ in range(50)]
        while scene.server.calls < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert scene.server.most_at_once == 1
        scene.server.away = False
        await asyncio.gather(*insistent)
        assert scene.said == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED]
        assert scene.gate.reason is None

    _play(scenario)


def test_it_opens_again_for_the_next_outage() -> None:
    async def scenario(scene: Scene) -> None:
        for _ in range(3):
            await scene.open()
            scene.server.away = False
            await _insist(scene)
        assert scene.said == [EventKind.BREAKER_OPENED, EventKind.BREAKER_CLOSED] * 3

    _play(scenario)


def test_a_prober_dropped_during_its_try_leaves_the_turn_to_another() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.open()
        prober = asyncio.create_task(scene.gate.call(scene.server.call))
        while not scene.server.at_once:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waiter = asyncio.create_task(_insist(scene))
        await asyncio.sleep(0)
        prober.cancel()
        scene.server.away = False
        await asyncio.wait_for(waiter, 10)

    _play(scenario)


def test_a_prober_dropped_in_its_pause_leaves_the_turn_to_another() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.open()
        prober = asyncio.create_task(scene.gate.call(scene.server.call))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(scene.gate.call(scene.server.call))
        await asyncio.sleep(0)
        prober.cancel()
        scene.server.away = False
        await asyncio.wait_for(waiter, 10)

    _play(scenario)
