"""`python -m tests.integration.slow_clients PORT COUNT`: connections that never finish a request.

Each sends a byte every few seconds and is reopened when it is closed, until the program is killed. It is a separate
program so that it does not slow down the measurement.
"""

import asyncio
import contextlib
import resource
import sys

# The first bytes of the connections, in turn.
FIRST_BYTES = (
    b"",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    b"POST /api/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n",
    b"POST /api/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",
)
REOPEN_SECONDS = 0.5
BYTE_SECONDS = 3


async def keep_connection(port: int, number: int) -> None:
    """Open one connection after the other."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(FIRST_BYTES[number % len(FIRST_BYTES)])
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BYTE_SECONDS + number % 5):
                            if not await reader.read(1000):
                                break
                    writer.write(b"1")
            finally:
                writer.close()
        await asyncio.sleep(REOPEN_SECONDS + number % 7 / 7)


async def main(port: int, count: int) -> None:
    """Keep `count` connections open."""
    await asyncio.gather(*(keep_connection(port, number) for number in range(count)))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
