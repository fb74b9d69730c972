"""The dashboard's listening socket and the restart of its relay."""

import socket
import threading

import pytest

from filemill.config.settings import load
from filemill_dashboard.server import CannotListen, listen, run_relay, url_of
from filemill_workers.outbox_relay import RelayState


def test_for_port_0_the_system_chooses_the_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert url_of(load(host="127.0.0.1"), listener) == f"http://127.0.0.1:{port}"
        assert url_of(load(host="0.0.0.0"), listener) == f"http://127.0.0.1:{port}"  # noqa: S104


def test_the_error_for_a_port_in_use_names_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"port {port} on 127.0.0.1 is in use: .*--port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_host_is_an_error() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    with pytest.raises(CannotListen, match=r"cannot listen on no-such-host\.invalid"):
        listen("no-such-host.invalid", 0)


def test_a_failed_relay_is_restarted() -> None:
    ended = threading.Event()

    class Faulty:
        state = RelayState.ACTIVE
        problem: str | None = None
        runs = 0

        def run(self, stop: threading.Event) -> None:
            self.runs += 1
            if self.runs < 3:
                raise ZeroDivisionError("bug")
            stop.set()

        def wake(self) -> None:
            raise NotImplementedError

    relay = Faulty()
    run_relay(relay, ended, pause_seconds=0)
    assert relay.runs == 3
