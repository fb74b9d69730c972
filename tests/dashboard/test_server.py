"""The dashboard's listening socket and the restart of its relay."""

import socket
import threading

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg, ForwardMsgMetadata
from streamlit.runtime.forward_msg_cache import populate_hash_if_needed
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.web.bootstrap import load_config_options

from filemill.config.settings import load
from filemill_dashboard.server import STREAMLIT_OPTIONS, CannotListen, listen, run_relay, url_of
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


def test_streamlit_keeps_references_of_a_refreshed_part() -> None:
    """A refresh drops the older messages of its part, but not the references: see docs/decisions/0037."""
    queue = ForwardMsgQueue()
    for index in range(5):
        message = ForwardMsg(metadata=ForwardMsgMetadata(delta_path=[0, 2, index]))
        message.delta.fragment_id = "part"
        message.delta.new_element.markdown.body = "text"
        queue.enqueue(message)
    queue.enqueue(ForwardMsg(ref_hash="hash", metadata=ForwardMsgMetadata(delta_path=[0, 2, 5])))
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["part"])
    assert [list(message.metadata.delta_path) for message in queue.flush()] == [[0, 2, 5]]


def test_no_message_of_a_page_becomes_a_reference() -> None:
    load_config_options(STREAMLIT_OPTIONS)
    message = ForwardMsg()
    message.delta.new_element.markdown.body = "x" * 10_000_000
    populate_hash_if_needed(message)
    assert not message.metadata.cacheable
