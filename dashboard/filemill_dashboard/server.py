"""The dashboard process: Streamlit, REST and an outbox relay, on one port.

Requests to `/api`, `/assets`, `/healthz` and `/readyz` bypass Streamlit: its middleware would cost a millisecond each,
and its catch-all route would respond to an unknown path with a page. Under uvicorn with uvloop a response takes half a
millisecond; with `streamlit run` it takes 44 (no TCP_NODELAY).
"""

import contextlib
import errno
import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.starlette import App
from streamlit.web.bootstrap import load_config_options

from filemill.config.exposure import check_exposure
from filemill.config.settings import InvalidSettings, Settings
from filemill.entrypoints import bootstrap
from filemill.runtime.signals import on_stop_signal
from filemill_dashboard.asgi.base_url import BaseUrl
from filemill_dashboard.asgi.coalescing import CoalescingMiddleware
from filemill_dashboard.asgi.connections import Connections, connection_limits
from filemill_dashboard.asgi.modes import authentication
from filemill_dashboard.asgi.open_pages import OpenPagesLimit
from filemill_dashboard.asgi.page_changes import FormerPageFilter
from filemill_dashboard.asgi.protocol import BoundedConfig, BoundedServer
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.asgi.request_filter import RequestFilter
from filemill_dashboard.asgi.request_ids import RequestIds
from filemill_dashboard.asgi.response_headers import ResponseHeaders
from filemill_dashboard.components.notices import show_bug
from filemill_dashboard.rest.app import build_api
from filemill_dashboard.rest.heavy_reads import HeavyReads
from filemill_dashboard.rest.permissions import RestAuthorization
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.state import services as services_module
from filemill_dashboard.state.health import LABELS, check_all
from filemill_dashboard.state.identity import IDENTITY_HEADER, USER_KEY
from filemill_dashboard.state.page_data import PageData, current
from filemill_dashboard.state.services import Relay, Services

HERE = Path(__file__).parent
# Open connections are closed this long after a stop signal: pages keep theirs open forever.
SHUTDOWN_SECONDS = 2
JOIN_SECONDS = 4.0
RELAY_PAUSE_SECONDS = 2.0
BACKLOG = 1024
# There are few reference cycles. Collecting them after every 700 new objects, which is the default, would cost a poll
# more than its response.
GC_THRESHOLD = 50_000

REST_PATHS = {"/api", "/healthz", "/readyz"}
REST_PREFIXES = ("/api/", "/assets/")

# Set here, because Streamlit looks for a config.toml in the current folder.
STREAMLIT_OPTIONS: dict[str, Any] = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    # No message is sent as a reference to an earlier one. When a refresh follows a whole run at once, Streamlit drops
    # the older messages of that part of the page from its queue, but keeps references. A reference to a place whose
    # neighbours were dropped is "Bad delta path index", and the page goes blank (docs/decisions/0037).
    "global.minCachedMessageSize": 1e12,
    "logger.hideWelcomeMessage": True,
    "logger.level": "warning",
    "runner.fastReruns": False,  # a refresh that another one interrupts would leave data of two times on the page
    "runner.magicEnabled": False,
    "runner.postScriptGC": False,  # a garbage collection after each refresh took two thirds of its time
    "server.enableStaticServing": True,  # for the fonts
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 1,
    "server.runOnSave": False,
    "server.showEmailPrompt": False,
    "server.trustedUserHeaders": {IDENTITY_HEADER: USER_KEY},
    "theme.base": str(HERE / "theme.toml"),
}

log = structlog.get_logger("dashboard")


class CannotListen(InvalidSettings):
    """The configured address is not available; the text says why and what to do."""


class PathRouter:
    """Routes a request to REST or to the pages by its path. Lifespan events go to the pages."""

    def __init__(self, pages: ASGIApp, rest: ASGIApp) -> None:
        self._pages = pages
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        path = scope.get("path", "")
        is_rest = scope["type"] == "http" and (path.startswith(REST_PREFIXES) or path in REST_PATHS)
        await (self._rest if is_rest else self._pages)(scope, receive, send)


def build_app(settings: Settings) -> ASGIApp:
    """The whole process as an ASGI app. It starts, with its relay, even if all servers are unreachable.

    Only one per process: Streamlit's configuration is global, and so are the services that the pages use.
    """
    load_config_options(STREAMLIT_OPTIONS)
    engine = bootstrap.create_engine(settings, f"dashboard {settings.worker_id}")
    relay = bootstrap.relay(settings, engine)
    services = Services(settings, engine, relay)
    services_module.install(services)
    health_pool = ThreadPoolExecutor(2 * len(LABELS), "readyz")

    @contextlib.asynccontextmanager
    async def lifespan(_app: App) -> AsyncIterator[None]:
        with _background_threads(relay, current()) as stop:
            yield
            await anyio.to_thread.run_sync(stop)
        health_pool.shutdown(wait=False, cancel_futures=True)

    pages = App(HERE / "app.py", lifespan=lifespan, on_script_error=show_bug)
    rest = build_api(
        services,
        lambda: check_all(services, health_pool, settings.server_timeout_seconds),
        current,
    )
    coalesced = CoalescingMiddleware(rest, own_files_only=settings.own_files_only)
    bounded = HeavyReads(coalesced, settings.heavy_reads)
    authorized = RestAuthorization(bounded, engine, RequestThreads(settings))
    limited = OpenPagesLimit(BaseUrl(FormerPageFilter(pages)), services.open_pages)
    authenticated = authentication(PathRouter(limited, authorized), services)
    filtered = ResponseHeaders(RequestFilter(authenticated, settings))
    return RequestIds(filtered, TrustedProxies(settings.trusted_proxy_networks))


def serve(settings: Settings, on_listening: Callable[[str], None] = lambda _url: None) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotListen, InsecureExposure.

    `on_listening` gets the URL when the server accepts connections. With port 0, the URL has the port that was chosen.
    """
    check_exposure(settings)
    listener = listen(settings.host, settings.port)
    try:
        server = _Server(_config(settings), lambda: _announce(settings, listener, on_listening))
        on_stop_signal(server.stop)
        gc.freeze()  # modules are never garbage, so the collector need not visit them
        gc.set_threshold(GC_THRESHOLD)
        server.run(sockets=[listener])
    finally:
        listener.close()
    log.info("Dashboard stopped")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; for port 0 the system chooses the port. Raises CannotListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"the page cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(_listen_error(host, port, error)) from None
    listener.setblocking(False)
    return listener


def url_of(settings: Settings, listener: socket.socket) -> str:
    """The URL of the page for a browser on this machine."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host)  # noqa: S104 - compared, not bound
    return f"http://{host or (f'[{settings.host}]' if ':' in settings.host else settings.host)}:{port}"


class _Server(BoundedServer):
    """uvicorn with a callback when it has started. It leaves signals to this process."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    def stop(self) -> None:
        """Request the end of `run`."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn would raise a caught signal again at the end, as if a requested stop were a failure."""
        yield


def _config(settings: Settings) -> uvicorn.Config:
    return BoundedConfig(
        build_app(settings),
        Connections(connection_limits(settings), TrustedProxies(settings.trusted_proxy_networks)),
        loop="uvloop",
        ws_ping_interval=30,
        ws_ping_timeout=30,
        lifespan="on",
        log_config=None,
        log_level="error",  # it logs a warning for each malformed request
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `TrustedProxies` handles these headers
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def _announce(settings: Settings, listener: socket.socket, on_listening: Callable[[str], None]) -> None:
    url = url_of(settings, listener)
    log.info("Dashboard started", url=url, rest=f"{url}/api/files")
    on_listening(url)


def _listen_error(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        remedy = "stop the program that listens there, or choose another port (--port, FILEMILL_PORT)"
        return f"port {port} on {host} is in use: {remedy}"
    if error.errno == errno.EACCES:
        return f"port {port} requires privileges: choose one from 1024 on (--port, FILEMILL_PORT)"
    return f"the page cannot listen on {host}:{port}: {error.strerror}"


def run_relay(relay: Relay, ended: threading.Event, pause_seconds: float = RELAY_PAUSE_SECONDS) -> None:
    """Run the relay until `ended` is set. It is restarted after a bug, because accepted requests must be published."""
    while not ended.is_set():
        try:
            relay.run(ended)
        except Exception:
            log.exception("The relay failed; it is restarted")
            ended.wait(pause_seconds)


@contextlib.contextmanager
def _background_threads(relay: Relay, data: PageData) -> Iterator[Callable[[], None]]:
    """Run the relay and the background refresh of the page data. Yields a function that stops them."""
    ended = threading.Event()
    threads = [
        threading.Thread(target=run_relay, args=(relay, ended), name="relay", daemon=True),
        threading.Thread(target=data.run_background, args=(ended,), name="page-data", daemon=True),
    ]
    for thread in threads:
        thread.start()

    def stop() -> None:
        ended.set()
        relay.wake()
        for thread in threads:
            thread.join(JOIN_SECONDS)
        data.close()
        data.services.close()

    yield stop
