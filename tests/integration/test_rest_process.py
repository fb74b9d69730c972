"""The dashboard as a process: pages and REST on one port, until SIGTERM."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from filemill.config.settings import Settings, as_environment

START_SECONDS = 60
STOP_SECONDS = 10


@contextmanager
def dashboard(
    settings: Settings, folder: Path, *arguments: str, seconds: float = START_SECONDS
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `filemill run dashboard` in `folder` on a free port; yields the process and its URL. Killed at `seconds`."""
    command = [sys.executable, "-m", "filemill", "run", "dashboard", "--port", "0", *arguments]
    environment = {**os.environ, **as_environment(settings), "FILEMILL_LOG_FORMAT": "json"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        yield process, _url(process)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        found = re.search(r'"url": ?"(http://127\.0\.0\.1:\d+)"', line)
        if found:
            threading.Thread(
                target=process.stderr.read, daemon=True
            ).start()  # or the process would block when the pipe is full
            return found[1]
    raise AssertionError("".join(seen))


def test_pages_and_rest_share_a_port_and_stop_on_sigterm(settings: Settings, tmp_path: Path) -> None:
    with dashboard(settings, tmp_path) as (process, url), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/api/nope").status_code == 404
        page = client.get("/pipeline")
        assert page.headers["content-type"].startswith("text/html")
        font = client.get("/app/static/inter-latin.woff2")
        assert (font.status_code, font.content[:4]) == (200, b"wOF2")
        created = client.post("/api/files", json={"title": "through the whole process"})
        assert created.status_code == 201
        assert client.get("/readyz").status_code == 200

        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0


def test_it_starts_without_any_reachable_server(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = {"database_port": port, "kafka_broker": f"127.0.0.1:{port}", "s3_endpoint": f"http://127.0.0.1:{port}"}
    nowhere = Settings(**{**_given(settings), **away, "server_timeout_seconds": 1.0})
    with dashboard(nowhere, tmp_path) as (process, url), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/healthz").status_code == 200
        assert set(client.get("/readyz").json()["servers"]) == {"postgres", "kafka", "s3"}
        assert client.get("/").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) == 0


def test_a_port_in_use_is_reported_without_a_trace(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "filemill", "run", "dashboard", "--port", port],
            cwd=tmp_path,
            env={**os.environ, **as_environment(settings)},
            stderr=subprocess.PIPE,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    assert done.returncode == 2
    assert re.search(rf"port {port} on 127\.0\.0\.1 is\s+in\s+use", done.stderr)
    assert "Traceback" not in done.stderr


def _given(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


@pytest.fixture(autouse=True)
def _not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
