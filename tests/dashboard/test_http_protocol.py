"""The limits of connections, over real sockets and with a trivial app."""

import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

from filemill.config.settings import load
from filemill.domain.origins import client_key
from filemill_dashboard.asgi import connections
from filemill_dashboard.asgi.connections import ConnectionLimits, Connections, Timeouts, connection_limits
from filemill_dashboard.asgi.protocol import HEADERS_MAX_BYTES, BoundedConfig, BoundedServer
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.server import listen
from tests.integration.processes import wait_until

HEADERS_SECONDS = 1.0
BODY_SECONDS = 2.0
TIMEOUTS = Timeouts(
    headers_seconds=HEADERS_SECONDS,
    body_seconds=BODY_SECONDS,
    first_message_seconds=HEADERS_SECONDS,
    stalled_seconds=BODY_SECONDS,
)
START_SECONDS = 30
# Above the timeouts and the second between two checks, on a busy machine.
PATIENCE_SECONDS = 20
HOST = b"Host: 127.0.0.1\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT = b"\x81\x81\0\0\0\0a"  # one letter, masked with zeros
ECHO = b"\x81\x01a"
TRAILER = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with the size of the body; `/large` is larger than a socket buffer."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)
    elif scope["type"] == "http" and scope["path"] == "/large":
        await StreamingResponse(b"x" * 100_000 for _ in range(200))(scope, receive, send)
    elif scope["type"] == "http":
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{scope['path']} {len(body)}")(scope, receive, send)


class Running:
    """A server with small limits."""

    def __init__(self, port: int, open_connections: Connections) -> None:
        self.port = port
        self.open = open_connections

    def connect(self, *said: bytes, address: str = "127.0.0.1") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS, (address, 0))
        for part in said:
            client.sendall(part)
        return client

    def websocket(self) -> socket.socket:
        client = self.connect(UPGRADE)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += client.recv(1)
        assert received.startswith(b"HTTP/1.1 101 ")
        return client

    def ask(self, request: bytes) -> bytes:
        with self.connect(request) as client:
            return read_to_end(client)

    def get(self, path: str) -> bytes:
        return self.ask(f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n")


def read_to_end(client: socket.socket) -> bytes:
    """Everything received until the server closes the connection."""
    client.settimeout(PATIENCE_SECONDS)
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65_536):
            received += part
    return bytes(received)


@contextlib.contextmanager
def running(
    total: int = 100, per_address: int = 100, trusted: tuple[str, ...] = (), timeouts: Timeouts = TIMEOUTS
) -> Iterator[Running]:
    open_connections = Connections(ConnectionLimits(total, per_address), TrustedProxies(trusted), timeouts)
    with listen("127.0.0.1", 0) as listener:
        config = BoundedConfig(
            echo,
            open_connections,
            loop="uvloop",
            log_config=None,
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = BoundedServer(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, START_SECONDS, "the server listens")
            yield Running(listener.getsockname()[1], open_connections)
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.mark.parametrize(
    "begun",
    [b"G", b"\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + HOST + b"X: ", b"GET / HTTP/1.1\r\n" + HOST],
)
def test_incomplete_headers_time_out(begun: bytes, server: Running) -> None:
    assert server.ask(begun).startswith(b"HTTP/1.1 408 ")


def test_an_unused_connection_is_closed_without_a_response(server: Running) -> None:
    assert server.ask(b"") == b""


def test_single_bytes_do_not_extend_the_timeout(server: Running) -> None:
    began = time.monotonic()
    with server.connect(b"GET / HTTP/1.1\r\n" + HOST + b"X: ") as client:
        client.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(1000):
                        break
                assert time.monotonic() - began < PATIENCE_SECONDS


def test_the_second_request_of_a_connection_times_out_too(server: Running) -> None:
    request = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = server.ask(request + b"GET /late")
    assert answer.startswith(b"HTTP/1.1 200 ")
    with server.connect(request) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"\r\n")
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_an_incomplete_body_times_out(head: bytes, server: Running) -> None:
    assert server.ask(b"POST / HTTP/1.1\r\n" + HOST + head).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_makes_progress_may_take_longer() -> None:
    timeouts = replace(TIMEOUTS, body_bytes_per_second=100)
    with (
        running(timeouts=timeouts) as server,
        server.connect(b"POST / HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: 4000\r\n\r\n") as client,
    ):
        for _ in range(8):
            client.sendall(b"x" * 500)
            time.sleep((BODY_SECONDS + 2) / 8)
        assert read_to_end(client).endswith(b"/ 4000")


def test_a_websocket_without_a_first_message_is_closed(server: Running) -> None:
    with server.websocket() as active, server.websocket() as silent, server.websocket() as begun:
        begun.sendall(TEXT[:1])
        active.sendall(TEXT)
        assert active.recv(1000) == ECHO
        for client in (silent, begun):
            assert read_to_end(client) == b""
        wait_until(lambda: len(server.open) == 1, PATIENCE_SECONDS, "only the one that sent a message is open")
        active.sendall(TEXT)
        assert active.recv(1000) == ECHO


def test_a_response_that_the_client_does_not_read_is_aborted(server: Running) -> None:
    with server.connect(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n") as client:
        wait_until(lambda: len(server.open) == 1, PATIENCE_SECONDS, "it is open")
        wait_until(lambda: len(server.open) == 0, PATIENCE_SECONDS, "it is closed")
        assert len(read_to_end(client)) < 200 * 100_000


def test_headers_of_64_kib_are_accepted_and_more_are_not(server: Running) -> None:
    def with_header(size: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\nX: " + b"x" * size + b"\r\n\r\n"

    assert server.ask(with_header(HEADERS_MAX_BYTES - 1000)).startswith(b"HTTP/1.1 200 ")
    assert server.ask(with_header(HEADERS_MAX_BYTES)).startswith(b"HTTP/1.1 431 ")
    assert server.ask(b"GET /" + b"x" * HEADERS_MAX_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n").startswith(
        b"HTTP/1.1 431 "
    )
    many = b"".join(b"X%d: y\r\n" % number for number in range(20_000))
    assert server.ask(b"GET / HTTP/1.1\r\n" + HOST + many).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nX: ", b"GET /", TRAILER],
)
def test_an_endless_header_or_trailer_is_rejected_before_it_is_large(start: bytes, server: Running) -> None:
    sent = 0
    with server.connect(start) as client, contextlib.suppress(ConnectionError):
        while sent < 100 * HEADERS_MAX_BYTES:
            client.sendall(b"x" * 16_384)
            sent += 16_384
            time.sleep(0.005)
    assert sent < 100 * HEADERS_MAX_BYTES


def test_a_large_body_does_not_count_as_headers(server: Running) -> None:
    size = 20 * HEADERS_MAX_BYTES
    request = b"POST /up HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    assert server.ask(request).endswith(b"/up %d" % size)


def test_data_that_is_not_http_is_rejected(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    assert server.ask(b"\x16\x03\x01\x02\x00\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    requests = b"".join(b"POST /%d HTTP/1.1\r\n" % n + HOST + b"Content-Length: 1\r\n\r\nx" for n in range(3))
    last = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answer = server.ask(requests + last)
    assert [answer.index(text) for text in (b"/0 1", b"/1 1", b"/2 1", b"/last 0")] == sorted(
        answer.index(text) for text in (b"/0 1", b"/1 1", b"/2 1", b"/last 0")
    )


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"])
def test_at_the_limit_the_longest_waiting_connections_are_closed(begun: bytes) -> None:
    with running(total=40, per_address=30) as server, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(server.connect(begun))
            assert len(server.open) <= 30 + 1
        began = time.monotonic()
        assert server.get("/page").endswith(b"/page 0")
        assert time.monotonic() - began < HEADERS_SECONDS


def test_one_address_leaves_room_for_others() -> None:
    with running(total=100, per_address=5) as server, contextlib.ExitStack() as stack:
        other = stack.enter_context(server.connect(b"GET /other HTTP/1.1\r\n" + HOST, address="127.0.0.2"))
        for _ in range(20):
            stack.enter_context(server.connect(b"G"))
        wait_until(lambda: len(server.open) <= 6, PATIENCE_SECONDS, "five of one, one of the other")
        other.sendall(b"Connection: close\r\n\r\n")
        assert read_to_end(other).endswith(b"/other 0")


def test_the_limit_per_address_does_not_apply_to_a_trusted_proxy() -> None:
    with running(total=50, per_address=5, trusted=("127.0.0.1",)) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(server.connect(b"G"))
        wait_until(lambda: len(server.open) == 20, PATIENCE_SECONDS, "all of them")


def test_at_the_limit_health_checks_use_a_reserve_of_connections() -> None:
    with running(total=10, per_address=10) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(server.websocket())
            client.sendall(TEXT)
            assert client.recv(1000) == ECHO
        assert server.get("/healthz").endswith(b"/healthz 0")
        for _ in range(50):
            assert server.get("/page").startswith(b"HTTP/1.1 503 ")
        assert server.ask(UPGRADE).startswith(b"HTTP/1.1 503 ")
        for _ in range(50):  # they fill the reserve, and are replaced
            stack.enter_context(server.connect(b"G"))
        assert server.get("/readyz").endswith(b"/readyz 0")
        assert len(server.open) <= 10 + connections.RESERVE + 1


def test_closed_connections_are_counted_in_one_log_line() -> None:
    with capture_logs() as logs, running(per_address=5) as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(server.connect(b"G"))
        wait_until(lambda: logs, PATIENCE_SECONDS, "a line")
    assert logs[0]["event"].startswith("Closed connections")
    assert logs[0]["evicted"] > 100
    assert len(logs) == 1


def test_the_limit_of_open_files_is_raised_and_limits_the_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        bounds = connection_limits(load())
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(before[1], connections.FILES_WANTED)
        assert bounds.total <= max(connections.CONNECTIONS_MIN, soft - connections.FILES_FOR_OTHERS)
        assert bounds.per_address <= bounds.total
        assert connection_limits(load(connections_max=70, connections_per_address=50)) == ConnectionLimits(70, 50)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_ipv6_network_counts_as_one_address() -> None:
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:1") != client_key("2001:db8:0:1::1")
    assert client_key("127.0.0.1") == "127.0.0.1"
    assert client_key("fe80::1%lo") == client_key("fe80::2%lo")
