"""Orders for a running stack, over its socket."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.errors import Unavailable
from filemill.runtime.stack_state import ProcessRef, StackState
from filemill.runtime.supervisor_client import CommandRejected, FaultKind, SupervisorCommand, send
from filemill_infra.embedded.control import ControlServer


class Recorder:
    """In place of the supervisor: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def scale(self, role: str, count: int) -> list[str]:
        if role != "processor":
            raise ValueError(f"There is no role {role!r}")
        self.told.append(("scale", role, count))
        return [f"processor-{number}" for number in range(1, count + 1)]

    def stop_worker(self, worker_id: str) -> None:
        if worker_id == "nobody":
            raise KeyError("There is no worker 'nobody'")
        self.told.append(("stop", worker_id))

    def kill_worker(self, worker_id: str) -> None:
        self.told.append(("kill", worker_id))

    def inject_fault(self, kind: FaultKind, target: str, seconds: float, key: str) -> None:
        self.told.append((kind, target, seconds, key))


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


def test_orders_are_done_and_answered(control: ControlServer, recorder: Recorder) -> None:
    assert send(stack(control), SupervisorCommand("scale", role="processor", count=2)).workers == [
        "processor-1",
        "processor-2",
    ]
    send(stack(control), SupervisorCommand("stop", worker="processor-1"))
    send(stack(control), SupervisorCommand("kill", worker="processor-2"))
    send(stack(control), SupervisorCommand("fault", fault="stopped", target="kafka", seconds=2.5, key="k"))
    orders = [("scale", "processor", 2), ("stop", "processor-1"), ("kill", "processor-2")]
    assert recorder.told == [*orders, ("stopped", "kafka", 2.5, "k")]


@pytest.mark.parametrize(
    "order", [SupervisorCommand("scale", role="pirate", count=1), SupervisorCommand("stop", worker="nobody")], ids=str
)
def test_an_order_that_cannot_be_followed_is_refused_with_its_reason(
    order: SupervisorCommand, control: ControlServer
) -> None:
    with pytest.raises(CommandRejected, match="There is no"):
        send(stack(control), order)


@pytest.mark.parametrize("line", [b"", b"\n", b"nonsense\n", b'{"do": "burn"}\n', b"[" * 4000 + b"\n"])
def test_what_is_no_order_does_nothing(line: bytes, control: ControlServer, recorder: Recorder) -> None:
    assert control.address is not None
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(control.address)
        channel.sendall(line)
        channel.shutdown(socket.SHUT_WR)
        assert b'"error"' in channel.makefile("rb").readline()
    assert recorder.told == []


def test_nobody_else_can_enter_and_nothing_is_left(control: ControlServer) -> None:
    assert control.address is not None
    folder = Path(control.address).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = stack(control)
    control.close()
    assert not folder.exists()
    with pytest.raises(Unavailable):
        send(before, SupervisorCommand("kill", worker="x"))
    with pytest.raises(Unavailable, match="takes no orders"):
        send(stack(control), SupervisorCommand("kill", worker="x"))
