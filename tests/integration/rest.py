"""REST over real HTTP: the app on a free port, for the duration of a test."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import sqlalchemy as sa
import uvicorn

from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill_dashboard.asgi.modes import authentication
from filemill_dashboard.asgi.proxies import TrustedProxies
from filemill_dashboard.asgi.request_filter import RequestFilter
from filemill_dashboard.asgi.request_ids import RequestIds
from filemill_dashboard.asgi.response_headers import ResponseHeaders
from filemill_dashboard.rest.app import build_api
from filemill_dashboard.rest.heavy_reads import HeavyReads
from filemill_dashboard.rest.permissions import RestAuthorization
from filemill_dashboard.rest.threads import RequestThreads
from filemill_dashboard.server import listen
from filemill_dashboard.state.health import check_all
from filemill_dashboard.state.page_data import PageData
from filemill_dashboard.state.services import Services
from filemill_workers.outbox_relay import RelayState

START_SECONDS = 30


class WakeCounter:
    """Replaces the relay; counts how often it was woken."""

    state = RelayState.ACTIVE
    problem: str | None = None

    def __init__(self) -> None:
        self.woken = 0

    def run(self, stop: threading.Event) -> None:
        stop.wait()

    def wake(self) -> None:
        self.woken += 1


@dataclass
class Rest:
    """A running REST app: its client, services and relay."""

    client: httpx.Client
    services: Services
    relay: WakeCounter

    def create(self, title: str, description: str = "") -> int:
        """Create a file; returns its id."""
        answer = self.client.post("/api/files", json={"title": title, "description": description})
        assert answer.status_code == 201, answer.text
        file_id: int = answer.json()["id"]
        return file_id


@contextlib.contextmanager
def serving(settings: Settings, port: int = 0) -> Iterator[Rest]:
    """Serve REST with these settings; on any free port without `port`."""
    relay = WakeCounter()
    engine = bootstrap.create_engine(settings, "rest")
    services = Services(settings, engine, relay)
    with ThreadPoolExecutor(6) as health_pool, listen("127.0.0.1", port) as listener:
        data = PageData(services)
        app = build_api(
            services,
            lambda: check_all(services, health_pool, settings.server_timeout_seconds),
            lambda: data,
        )
        authorized = RestAuthorization(HeavyReads(app, settings.heavy_reads), engine, RequestThreads(settings))
        filtered = ResponseHeaders(RequestFilter(authentication(authorized, services), settings))
        identified = RequestIds(filtered, TrustedProxies(settings.trusted_proxy_networks))
        config = uvicorn.Config(
            identified, proxy_headers=False, loop="uvloop", log_config=None, lifespan="off", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=START_SECONDS, trust_env=False) as client:
                yield Rest(client, services, relay)
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)
            data.close()
            services.close()


def change(engine: sa.Engine, file_id: int, **values: object) -> None:
    """Change the row of a file."""
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id == file_id).values(**values))
