"""HTTP load in an open loop: a slow answer does not delay the next request.

HTTP by hand, on connections that stay open: a client library took longer for a request than the page does, and on two
cores that was what was measured.
"""

import asyncio
import json
import time
from collections.abc import Generator
from statistics import quantiles

from benchmarks import requests
from benchmarks.work import drivers
from filemill.config.settings import Settings

CONNECTIONS = 32
CREATED = b"201"


def post(settings: Settings, files: int, rate: float) -> Generator[None, None, dict[str, float]]:
    """Send `POST /api/files` at `rate` per second; latencies in ms count from the intended moment."""
    asked = [_request(settings, file.title, file.description) for file in requests.files(files)]
    latencies: list[float] = []
    accepted = 0

    async def one(free: asyncio.Queue["_Connection"], request: bytes, intended: float) -> None:
        nonlocal accepted
        connection = await free.get()
        status = await connection.ask(request)
        accepted += status == CREATED
        free.put_nowait(connection)
        latencies.append((time.perf_counter() - intended) * 1000)

    async def everything() -> None:
        free: asyncio.Queue[_Connection] = asyncio.Queue()
        for _ in range(CONNECTIONS):
            free.put_nowait(_Connection(*await asyncio.open_connection(settings.host, settings.port)))
        async with asyncio.TaskGroup() as group:
            began = time.perf_counter()
            for number, request in enumerate(asked):
                intended = began + number / rate
                await asyncio.sleep(max(0.0, intended - time.perf_counter()))
                group.create_task(one(free, request, intended))

    yield
    with drivers.uvloop_runner() as runner:
        runner.run(everything())
    marks = quantiles(latencies, n=1000, method="inclusive")
    return {"accepted": float(accepted), "p50_ms": marks[499], "p99_ms": marks[989], "greatest_ms": max(latencies)}


class _Connection:
    """A persistent connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> bytes:
        """Send a request and read the whole answer; returns the status."""
        self._writer.write(request)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines if line)
        await self._reader.readexactly(int(fields[b"content-length"]))
        return status.split(b" ", 2)[1]


def _request(settings: Settings, title: str, description: str) -> bytes:
    body = json.dumps({"title": title, "description": description}).encode()
    head = (
        f"POST /api/files HTTP/1.1\r\nHost: {settings.host}:{settings.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
