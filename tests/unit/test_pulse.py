"""Signs of life: what a process writes, and what a health check makes of it."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filemill.runtime.healthcheck import STALE_SECONDS, Unhealthy, check, main
from filemill.runtime.liveness import BeatingStop, Liveness


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pulse"


def written(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({"role": "relay", "pid": 1, "beat": time.monotonic(), **changes}))


def test_a_loop_that_asks_whether_to_stop_is_alive(file: Path) -> None:
    stop = BeatingStop(Liveness(file, "sync"))
    assert not stop.is_set()
    assert check(file).startswith("sync: its loop came round 0.")


def test_a_beat_is_written_at_most_once_a_second(file: Path) -> None:
    pulse = Liveness(file, "sync")
    pulse.touch()
    first = file.read_bytes()
    for _ in range(1000):
        pulse.touch()
    assert file.read_bytes() == first
    assert [path.name for path in file.parent.iterdir()] == ["pulse"]


def test_a_stop_still_stops(file: Path) -> None:
    stop = BeatingStop(Liveness(None, "sync"))
    stop.set()
    assert stop.is_set()
    assert stop.wait(0)
    assert not file.exists()


def test_a_folder_that_is_gone_does_not_end_the_worker(tmp_path: Path) -> None:
    Liveness(tmp_path / "gone" / "pulse", "sync").touch()


def test_a_loop_that_hangs_is_not_well(file: Path) -> None:
    written(file, beat=time.monotonic() - STALE_SECONDS - 1)
    with pytest.raises(Unhealthy, match="relay: its loop last came round 46 s ago"):
        check(file)


def test_a_beat_of_another_boot_is_not_well(file: Path) -> None:
    written(file, beat=time.monotonic() + 1000)
    with pytest.raises(Unhealthy):
        check(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"role": "relay"}', '{"role": "relay", "beat": "soon"}'])
def test_a_file_that_is_none_is_not_well(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Unhealthy, match="is not a pulse file"):
        check(file)


def test_a_page_is_asked_itself(file: Path) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204 if self.path == "/well" else 503)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            Liveness(file, "dashboard").set_url(f"{url}/well")
            assert check(file) == f"dashboard: {url}/well answers 204"
            Liveness(file, "dashboard").set_url(f"{url}/ill")
            with pytest.raises(Unhealthy, match="503"):
                check(file)
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(Unhealthy, match="refused"):
        check(file)


def test_only_a_web_address_is_asked(file: Path) -> None:
    written(file, url=file.as_uri())
    with pytest.raises(Unhealthy, match="is not an address to ask"):
        check(file)


def test_the_exit_code_says_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 1
    assert "no sign of life yet" in capsys.readouterr().out
    written(file)
    assert main([str(file)]) == 0
    assert main([]) == 2


def test_a_health_check_loads_no_package(file: Path) -> None:
    """It runs every few seconds in every container."""
    written(file)
    program = (
        f"import sys; from filemill.runtime.healthcheck import main; code = main([{str(file)!r}]); "
        "print(code, {'pydantic', 'structlog', 'typer'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.splitlines()[-1] == "0 set()"
