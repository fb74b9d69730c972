"""Viewers by the clock: pages over Streamlit's own websocket, and programs that poll REST.

Plain asyncio: the client must cost less than what it measures.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator
from statistics import quantiles

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from filemill.config.settings import Settings

OPEN_SECONDS = 60.0
# Pages open one after the other, as people come.
OPENING_SECONDS = 0.15
MESSAGE_MAX_BYTES = 64 * 2**20
# The page with the most on it: three charts, two tables.
PAGE = "pipeline"


class LatencyCounts:
    """Answers in milliseconds from the moment that each was intended for; what was not right; what came too late."""

    def __init__(self, period: float) -> None:
        self._period = period
        self.milliseconds: list[float] = []
        self.wrong = 0

    def note(self, intended: float, *, right: bool = True) -> None:
        """Count one."""
        self.milliseconds.append((time.perf_counter() - intended) * 1000)
        self.wrong += not right

    def figures(self) -> dict[str, float]:
        """`late`: those that took longer than the period."""
        marks = quantiles(self.milliseconds, n=100, method="inclusive")
        late = sum(one > 1000 * self._period for one in self.milliseconds)
        counts = {"answers": float(len(self.milliseconds)), "wrong": float(self.wrong), "late": float(late)}
        return {**counts, "p50_ms": marks[49], "p95_ms": marks[94], "p99_ms": marks[98]}


class Viewer:
    """One open page: refreshes its fragment as a browser does, and reads all that comes."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._fragment = ""
        self._page = ""  # its hash, once the server has told it

    async def open(self) -> None:
        """The first drawing, whole."""
        await self._ask(None)

    async def refresh(self) -> bool:
        """The fragment once more; returns when the last of it is here, and whether it was drawn to its end."""
        return await self._ask(self._fragment) == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY

    async def _ask(self, fragment: str | None) -> int:
        message = BackMsg()
        message.rerun_script.query_string = ""
        message.rerun_script.page_script_hash = self._page
        if not self._page:
            message.rerun_script.page_name = PAGE
        if fragment is not None:
            message.rerun_script.fragment_id = fragment
        await self._socket.send(message.SerializeToString())
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(bytes(await self._socket.recv(decode=False)))
            kind = answer.WhichOneof("type")
            if kind == "new_session":
                self._page = answer.new_session.page_script_hash
            elif kind == "delta" and answer.delta.fragment_id:
                self._fragment = answer.delta.fragment_id
            elif kind == "script_finished":
                return answer.script_finished


def pages(settings: Settings, count: int, period: float, seconds: float) -> Generator[None, None, dict[str, float]]:
    """So many open pages on `PAGE`, each refreshed every `period`."""
    url = f"ws://{settings.host}:{settings.port}/_stcore/stream"

    async def everything(tally: LatencyCounts) -> None:
        async with contextlib.AsyncExitStack() as stack:
            viewers = []
            for _ in range(count):
                limit = {"max_size": MESSAGE_MAX_BYTES, "open_timeout": OPEN_SECONDS, "ping_interval": None}
                socket = await stack.enter_async_context(connect(url, subprotocols=["streamlit"], **limit))  # type: ignore[list-item,arg-type]
                viewer = Viewer(socket)
                await asyncio.wait_for(viewer.open(), OPEN_SECONDS)
                viewers.append(viewer)
                await asyncio.sleep(OPENING_SECONDS)
            await _by_the_clock([viewer.refresh for viewer in viewers], period, seconds, tally)

    tally = LatencyCounts(period)
    yield
    asyncio.run(everything(tally))
    return tally.figures()


def pollers(settings: Settings, count: int, period: float, seconds: float) -> Generator[None, None, dict[str, float]]:
    """So many programs that ask for the newest files, each on a connection of its own, every `period`."""
    path = "/api/files?limit=50"
    host, port = settings.host, settings.port
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()

    async def poller(stack: contextlib.AsyncExitStack) -> Callable[[], Awaitable[bool]]:
        reader, writer = await asyncio.open_connection(host, port)
        stack.callback(writer.close)

        async def ask() -> bool:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
            return head.startswith(b"HTTP/1.1 200")

        return ask

    async def everything(tally: LatencyCounts) -> None:
        async with contextlib.AsyncExitStack() as stack:
            asks = [await poller(stack) for _ in range(count)]
            await _by_the_clock(asks, period, seconds, tally)

    tally = LatencyCounts(period)
    yield
    asyncio.run(everything(tally))
    return tally.figures()


async def _by_the_clock(
    asks: list[Callable[[], Awaitable[bool]]], period: float, seconds: float, tally: LatencyCounts
) -> None:
    """Each at its own phase of the period, never one before the last has come: as the bar of a page does."""
    began = time.perf_counter() + 0.5

    async def one(ask: Callable[[], Awaitable[bool]], phase: float) -> None:
        intended = began + phase
        while intended < began + seconds:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            tally.note(intended, right=await ask())
            # What was due while one waited is not made up for; it was late already.
            intended += period * max(1, int((time.perf_counter() - intended) / period))

    async with asyncio.TaskGroup() as group:
        for place, ask in enumerate(asks):
            group.create_task(one(ask, period * place / len(asks)))
