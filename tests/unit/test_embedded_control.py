"""The control socket of a running stack."""

import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.errors import Unavailable
from filemill.runtime.stack_state import ProcessRef, StackState
from filemill.runtime.supervisor_client import (
    CommandRejected,
    CommandRejection,
    FaultKind,
    OutcomeUnknown,
    SupervisorCommand,
    send,
)
from filemill_infra.embedded.control import ControlServer


class Recorder:
    """Replaces the supervisor and records the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def scale(self, role: str, count: int) -> list[str]:
        if role != "processor":
            raise ValueError(f"There is no role {role!r}")
        self.calls.append(("scale", role, count))
        return [f"processor-{number}" for number in range(1, count + 1)]

    def stop_worker(self, worker_id: str) -> None:
        if worker_id == "unknown":
            raise KeyError("There is no worker 'unknown'")
        self.calls.append(("stop", worker_id))

    def kill_worker(self, worker_id: str) -> None:
        self.calls.append(("kill", worker_id))

    def inject_fault(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        self.calls.append((kind, target, seconds, key))

    def end_fault(self, target: str) -> None:
        self.calls.append(("end-fault", target))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def control(recorder: Recorder) -> Iterator[ControlServer]:
    control = ControlServer(recorder)
    control.open()
    yield control
    control.close()


def stack(control: ControlServer) -> StackState:
    return StackState(
        home="/h",
        supervisor=ProcessRef(pid=1, created=0),
        started_at="",
        settings={},
        servers=[],
        workers=[],
        control=control.address,
    )


def test_commands_are_executed_and_answered(control: ControlServer, recorder: Recorder) -> None:
    response = send(stack(control), SupervisorCommand("scale", role="processor", count=2))
    assert response.workers == ["processor-1", "processor-2"]
    send(stack(control), SupervisorCommand("stop", worker="processor-1"))
    send(stack(control), SupervisorCommand("kill", worker="processor-2"))
    send(stack(control), SupervisorCommand("fault", fault="stopped", target="kafka", seconds=2.5, key="k"))
    send(stack(control), SupervisorCommand("end-fault", target="kafka"))
    calls = [("scale", "processor", 2), ("stop", "processor-1"), ("kill", "processor-2")]
    assert recorder.calls == [*calls, ("stopped", "kafka", 2.5, "k"), ("end-fault", "kafka")]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (SupervisorCommand("scale", role="unknown", count=1), CommandRejection.INVALID_VALUE),
        (SupervisorCommand("stop", worker="unknown"), CommandRejection.UNKNOWN_TARGET),
    ],
)
def test_an_impossible_command_is_rejected_with_a_code_and_a_reason(
    command: SupervisorCommand, code: CommandRejection, control: ControlServer
) -> None:
    with pytest.raises(CommandRejected, match="There is no") as caught:
        send(stack(control), command)
    assert caught.value.code is code


@pytest.mark.parametrize("line", [b"", b"\n", b"nonsense\n", b'{"action": "burn"}\n', b"[" * 4000 + b"\n"])
def test_a_malformed_command_does_nothing(line: bytes, control: ControlServer, recorder: Recorder) -> None:
    assert control.address is not None
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(control.address)
        channel.sendall(line)
        channel.shutdown(socket.SHUT_WR)
        assert b'"code":"malformed"' in channel.makefile("rb").readline()
    assert recorder.calls == []


def test_a_command_without_a_response_may_have_been_executed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)

        def hang_up() -> None:
            channel, _ = listener.accept()
            with channel:
                channel.recv(4096)

        thread = threading.Thread(target=hang_up)
        thread.start()
        silent = StackState(
            home="/h",
            supervisor=ProcessRef(pid=1, created=0),
            started_at="",
            settings={},
            servers=[],
            workers=[],
            control=str(tmp_path / "s"),
        )
        with pytest.raises(OutcomeUnknown) as caught:
            send(silent, SupervisorCommand("kill", worker="x"))
        thread.join()
    assert caught.value.code == "supervisor-no-answer"
    with pytest.raises(Unavailable) as refused:  # nobody listens any more
        send(silent, SupervisorCommand("kill", worker="x"))
    assert refused.value.code == "supervisor-unreachable"


def test_the_socket_is_private_and_removed_at_the_end(control: ControlServer) -> None:
    assert control.address is not None
    folder = Path(control.address).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = stack(control)
    control.close()
    assert not folder.exists()
    with pytest.raises(Unavailable):
        send(before, SupervisorCommand("kill", worker="x"))
    with pytest.raises(Unavailable, match="no control socket"):
        send(stack(control), SupervisorCommand("kill", worker="x"))
