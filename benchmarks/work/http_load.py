"""HTTP load: in an open loop, where a slow answer does not delay the next request, or by clients that wait for answers.

HTTP by hand, on connections that stay open: a client library took longer for a request than the page does, and on two
cores that was what was measured.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Generator, Sequence
from statistics import quantiles

from benchmarks import requests
from benchmarks.work import drivers
from filemill.config.settings import Settings
from filemill.domain.permissions import Principal, Role
from filemill.entrypoints import bootstrap
from filemill.services.accounts import Accounts
from filemill.services.tokens import Tokens

CONNECTIONS = 32
CLIENTS = 16
OK, CREATED = b"200", b"201"

Work = Generator[None, None, dict[str, float]]
# Who creates the account of the clients.
BENCHMARK = Principal("benchmark", Role.ADMIN)


def post(settings: Settings, files: int, rate: float) -> Work:
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
    return _figures(accepted, latencies)


def posts(settings: Settings, files: int) -> Work:
    """Send `POST /api/files`, each client the next one after its answer."""
    token = _sign_in(settings)
    asked = [_request(settings, file.title, file.description, token) for file in requests.files(files)]
    return (yield from _by_clients(settings, asked, CREATED))


def lists(settings: Settings, files: int) -> Work:
    """Send `GET /api/files`, each client the next one after its answer."""
    head = f"GET /api/files?limit=50 HTTP/1.1\r\nHost: {settings.host}:{settings.port}\r\n{_sign_in(settings)}\r\n"
    return (yield from _by_clients(settings, [head.encode()] * files, OK))


def _by_clients(settings: Settings, asked: Sequence[bytes], expected: bytes) -> Work:
    latencies: list[float] = []
    accepted = 0
    left = iter(asked)

    async def client() -> None:
        nonlocal accepted
        connection = _Connection(*await asyncio.open_connection(settings.host, settings.port))
        for request in left:
            began = time.perf_counter()
            status = await connection.ask(request)
            if status != expected:
                raise RuntimeError(f"answer {status.decode()} instead of {expected.decode()}")
            accepted += 1
            latencies.append((time.perf_counter() - began) * 1000)

    async def everything() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    yield
    with drivers.uvloop_runner() as runner:
        runner.run(everything())
    return _figures(accepted, latencies)


def _figures(accepted: int, latencies: Sequence[float]) -> dict[str, float]:
    marks = quantiles(latencies, n=1000, method="inclusive")
    return {"accepted": float(accepted), "p50_ms": marks[499], "p99_ms": marks[989], "greatest_ms": max(latencies)}


def _sign_in(settings: Settings) -> str:
    """Create a submitter with a personal token, if there is sign-in; returns the header with it."""
    if settings.auth == "local":
        return ""
    engine = bootstrap.create_engine(settings, "benchmark")
    person = Principal("benchmark", Role.SUBMITTER)
    Accounts(engine).add(person.name, Role.SUBMITTER, secrets.token_urlsafe(16), BENCHMARK)
    token = Tokens(engine).create("benchmark", Role.SUBMITTER, person)
    return f"Authorization: Bearer {token.secret}\r\n"


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


def _request(settings: Settings, title: str, description: str, token: str = "") -> bytes:
    body = json.dumps({"title": title, "description": description}).encode()
    head = (
        f"POST /api/files HTTP/1.1\r\nHost: {settings.host}:{settings.port}\r\n"
        f"{token}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
