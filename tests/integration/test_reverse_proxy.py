"""The nginx configuration of docs/operations.md, with a real nginx in front of a real dashboard."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import Settings
from tests.integration.nginx import free_port, start_nginx
from tests.integration.processes import ProcessGroup, wait_until

START_SECONDS = 60
NAME = "files.example"


@pytest.fixture
def proxy(settings: Settings, tmp_path: Path) -> Iterator[int]:
    """Nginx's port. TLS is left out: nginx is told that the scheme is https, and the port is one of the system's."""
    with ProcessGroup(settings, tmp_path, lambda _pid: None) as processes:
        dashboard = processes.start("dashboard", port=0, public_url=f"https://{NAME}", trusted_proxies="127.0.0.1")
        (line, *_) = wait_until(
            lambda: dashboard.lines("Dashboard started"), START_SECONDS, "the dashboard has started"
        )
        port = free_port()
        start_nginx(processes, tmp_path, line["url"], port)
        yield port


@pytest.mark.parametrize("host", [NAME, f"{NAME}:443"])
def test_the_documented_proxy_passes_pages_rest_and_websockets(proxy: int, host: str, engine: sa.Engine) -> None:
    ours, evil = {"host": host, "origin": f"https://{NAME}"}, {"host": host, "origin": "https://evil.example"}
    with httpx.Client(base_url=f"http://127.0.0.1:{proxy}", trust_env=False, timeout=START_SECONDS) as client:
        assert client.get("/pipeline", headers={"host": host}).headers["content-type"].startswith("text/html")
        created = client.post("/api/files", json={"title": "a"}, headers=ours)
        assert created.status_code == 201
        assert client.post("/api/files", json={"title": "a"}, headers=evil).status_code == 403
        claimed = {**ours, "x-forwarded-for": "203.0.113.7"}
        assert client.post(f"/api/files/{created.json()['id']}/cancel", headers=claimed).status_code == 200
        assert "127.0.0.1" not in client.get("/readyz", headers={"host": host}).text
    with engine.connect() as connection:
        # nginx appends the address of its client, which is a trusted proxy here; the address before it is used.
        assert connection.execute(sa.select(Operation.actor)).scalars().all() == ["rest:203.0.113.7"]
    stream = f"ws://{host}/_stcore/stream"
    streamlit = [Subprotocol("streamlit")]

    def opens(origin: str) -> bool:
        with socket.create_connection(("127.0.0.1", proxy)) as raw:
            try:
                with connect(stream, sock=raw, origin=Origin(origin), subprotocols=streamlit, proxy=None):
                    return True
            except InvalidStatus as refused:
                return refused.response.status_code != 403

    assert opens(f"https://{NAME}")
    assert not opens("https://evil.example")
