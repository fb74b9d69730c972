"""A proxy in front of S3 that injects faults. Processors use it; the lab's checks connect directly.

Without a fault it forwards bytes. With one it hangs, is slow, or answers a share of the requests with 503 or 404, and
serves one request per connection.
"""

import asyncio
import contextlib
import random
import threading
from typing import Literal, Self
from urllib.parse import urlsplit

import msgspec
import uvloop

CHUNK_BYTES = 64 * 1024
START_SECONDS = 10.0
HANG_SECONDS = 3600.0

_BODY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>Injected by the lab</Message></Error>'
_ANSWERS = {503: (b"Service Unavailable", b"SlowDown"), 404: (b"Not Found", b"NoSuchBucket")}


class FaultMode(msgspec.Struct, frozen=True):
    """A kind of fault, and the share of the requests it affects. `seconds` is for `slow`, `code` for `answer`."""

    kind: Literal["hang", "slow", "answer"]
    share: float = 1.0
    seconds: float = 0.0
    code: int = 503


class S3Proxy:
    """A TCP proxy on a thread of its own, on a free port."""

    def __init__(self, upstream: str, host: str = "127.0.0.1", known_as: str = "127.0.0.1") -> None:
        """`upstream` is the URL of the S3 service. The proxy listens on `host`; processors connect to `known_as`."""
        self._host = host
        self._known_as = known_as
        parts = urlsplit(upstream)
        self._upstream = parts.hostname or "127.0.0.1", parts.port or 80
        self._loop = uvloop.new_event_loop()
        self._ready = threading.Event()
        self._fault: FaultMode | None = None
        self._random = random.Random()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._thread = threading.Thread(target=self._run, name="s3-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise RuntimeError("the S3 proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        """The URL of the proxy, to use instead of the service's."""
        return f"http://{self._known_as}:{self._port}"

    def set_fault(self, fault: FaultMode | None) -> None:
        """Begin a fault, or end it (None). Connections are closed, so that it affects clients immediately."""
        self._loop.call_soon_threadsafe(self._set, fault)

    def _set(self, fault: FaultMode | None) -> None:
        self._fault = fault
        for writer in self._writers:
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, self._host, 0))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            fault = self._fault
            affected = fault is not None and self._random.random() < fault.share
            if fault is not None and affected and not await self._apply_fault(fault, reader, writer):
                return
            await self._forward(reader, writer, once=fault is not None)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one side has closed
        except asyncio.CancelledError:
            pass  # the proxy is stopping
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _apply_fault(self, fault: FaultMode, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Apply a fault to a connection; returns whether to forward it afterwards."""
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return True
        if fault.kind == "hang":
            await asyncio.sleep(HANG_SECONDS)
            return False
        await _read_request(reader)
        reason, code = _ANSWERS[fault.code]
        body = _BODY % code
        writer.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (fault.code, reason, len(body), body)
        )
        await writer.drain()
        return False

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, once: bool) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        self._writers.add(up_writer)
        try:
            if once:
                # Ask the service to close after its answer, so that the next request opens a new connection.
                up_writer.write(_closing(await _read_request(reader)))
                await _pump(up_reader, writer)
                return
            down = asyncio.ensure_future(_pump(up_reader, writer))
            try:
                await _pump(reader, up_writer)
            finally:
                down.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await down
        finally:
            self._writers.discard(up_writer)
            up_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        if writer.transport.is_closing():  # uvloop raises for a write to it
            raise ConnectionResetError
        writer.write(data)
        await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
    return head + (await reader.readexactly(length) if length else b"")


def _closing(request: bytes) -> bytes:
    """Add `Connection: close` to a request."""
    line, _, rest = request.partition(b"\r\n")
    return line + b"\r\nConnection: close\r\n" + rest
