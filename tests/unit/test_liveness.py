"""The liveness file: what a process writes, and how a health check reads it."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filemill.runtime.healthcheck import STALE_SECONDS, Unhealthy, check, main
from filemill.runtime.liveness import Liveness


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "liveness"


def write(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({"role": "relay", "pid": 1, "touched_at": time.monotonic(), **changes}))


def test_a_process_that_has_just_touched_the_file_is_healthy(file: Path) -> None:
    Liveness(file, "sync").touch()
    assert check(file).startswith("sync: the last loop cycle began 0.")


def test_the_file_is_written_at_most_once_a_second(file: Path) -> None:
    liveness = Liveness(file, "sync")
    liveness.touch()
    first = file.read_bytes()
    for _ in range(1000):
        liveness.touch()
    assert file.read_bytes() == first
    assert [path.name for path in file.parent.iterdir()] == ["liveness"]


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Liveness(None, "sync").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_does_not_stop_the_worker(tmp_path: Path) -> None:
    Liveness(tmp_path / "gone" / "liveness", "sync").touch()
    assert not (tmp_path / "gone").exists()


def test_a_loop_that_hangs_is_unhealthy(file: Path) -> None:
    write(file, touched_at=time.monotonic() - STALE_SECONDS - 1)
    with pytest.raises(Unhealthy, match="relay: the last loop cycle began 46 s ago"):
        check(file)


def test_a_time_from_an_earlier_boot_is_unhealthy(file: Path) -> None:
    write(file, touched_at=time.monotonic() + 1000)
    with pytest.raises(Unhealthy):
        check(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"role": "relay"}', '{"role": "a", "touched_at": "soon"}'])
def test_a_file_with_other_content_is_unhealthy(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Unhealthy, match="is not a liveness file"):
        check(file)


def test_a_process_with_a_url_is_checked_by_a_request(file: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204 if self.path == "/healthy" else 503)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            Liveness(file, "dashboard").set_url(f"{url}/healthy")
            assert check(file) == f"dashboard: {url}/healthy answers 204"
            Liveness(file, "dashboard").set_url(f"{url}/unhealthy")
            with pytest.raises(Unhealthy, match="503"):
                check(file)
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(Unhealthy, match="refused"):
        check(file)


def test_only_an_http_url_is_requested(file: Path) -> None:
    write(file, url=file.as_uri())
    with pytest.raises(Unhealthy, match="is not an http URL"):
        check(file)


def test_the_exit_code_is_0_if_healthy_and_1_if_not(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 1
    assert "cannot be read" in capsys.readouterr().out
    write(file)
    assert main([str(file)]) == 0
    assert main([]) == 2


def test_the_health_check_loads_no_package(file: Path) -> None:
    """It runs every few seconds in every container."""
    write(file)
    program = (
        f"import sys; from filemill.runtime.healthcheck import main; code = main([{str(file)!r}]); "
        "print(code, {'pydantic', 'structlog', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 set()"
