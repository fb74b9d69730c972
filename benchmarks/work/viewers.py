"""Viewers in an open loop: pages over Streamlit's websocket, and programs that poll REST.

Plain asyncio, so that the client costs less CPU than the server.
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
# The interval between opening two pages.
OPENING_SECONDS = 0.15
MESSAGE_MAX_BYTES = 64 * 2**20
# The page with the most content: three charts, two tables.
PAGE = "pipeline"


class LatencyCounts:
    """Latencies in milliseconds from the intended moment, and the numbers of wrong and late answers."""

    def __init__(self, period: float) -> None:
        self._period = period
        self.milliseconds: list[float] = []
        self.wrong = 0

    def note(self, intended: float, *, right: bool = True) -> None:
        """Count one answer."""
        self.milliseconds.append((time.perf_counter() - intended) * 1000)
        self.wrong += not right

    def figures(self) -> dict[str, float]:
        """`late` is the number of answers that took longer than the period."""
        marks = quantiles(self.milliseconds, n=100, method="inclusive")
        late = sum(one > 1000 * self._period for one in self.milliseconds)
        counts = {"answers": float(len(self.milliseconds)), "wrong": float(self.wrong), "late": float(late)}
        return {**counts, "p50_ms": marks[49], "p95_ms": marks[94], "p99_ms": marks[98]}


class Viewer:
    """One open page. It refreshes its fragment as a browser does, and reads all messages."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._fragment = ""
        self._page = ""  # its hash, after the server has sent it

    async def open(self) -> None:
        """Load the whole page."""
        await self._ask(None)

    async def refresh(self) -> bool:
        """Refresh the fragment; returns whether it was completed."""
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
    """Keep `count` pages open on `PAGE`, each refreshed every `period` seconds."""
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
    """Poll the newest files from `count` connections, each every `period` seconds."""
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
    """Send requests at different phases of the period, each only after the previous answer, as a page does."""
    began = time.perf_counter() + 0.5

    async def one(ask: Callable[[], Awaitable[bool]], phase: float) -> None:
        intended = began + phase
        while intended < began + seconds:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            tally.note(intended, right=await ask())
            # Requests that were due during the wait are skipped; the answer counts as late.
            intended += period * max(1, int((time.perf_counter() - intended) / period))

    async with asyncio.TaskGroup() as group:
        for place, ask in enumerate(asks):
            group.create_task(one(ask, period * place / len(asks)))
