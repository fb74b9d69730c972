"""A TCP proxy that a test can interrupt: connections stay open, but no data passes."""

import asyncio
import threading
from types import TracebackType
from typing import Self

START_SECONDS = 10.0
CHUNK_BYTES = 64 * 1024


class InterruptibleProxy:
    """Forwards a random port to `host:port`, on its own thread."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._loop = asyncio.new_event_loop()
        self._connected = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    def interrupt(self) -> None:
        """Hold all data in both directions, and new connections."""
        self._loop.call_soon_threadsafe(self._connected.clear)

    def restore(self) -> None:
        """Forward data again, including what was held."""
        self._loop.call_soon_threadsafe(self._connected.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._connected.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._forward, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._connected.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._server)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, far_writer))
                both.create_task(self._copy(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # a connection was closed, or the proxy is stopped
        finally:
            writer.close()
            far_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._connected.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
