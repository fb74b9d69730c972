"""Faults in a running stack: the supervisor injects them, records them and undoes them."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from filemill.runtime.journal import JournalEntry, read_entries
from filemill.runtime.stack_state import FAULTS_FILE, running_stack
from filemill.runtime.supervisor_client import CommandRejected, CommandRejection, SupervisorCommand, send
from filemill_infra.embedded.processes.workers import WorkerSpec
from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.processes import wait_until

FAULT_SECONDS = 1.5
TIMEOUT_SECONDS = 30.0
IDLE = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A stack with S3 only, which starts within a second, and two idle workers."""
    specs = [WorkerSpec(role="processor", argv=IDLE), WorkerSpec(role="dashboard", argv=IDLE)]
    home = tmp_path_factory.mktemp("faults") / "home"
    with Supervisor(home, specs, servers=["s3"], default_ports=False) as supervisor:
        yield supervisor


def execute(supervisor: Supervisor, command: SupervisorCommand) -> None:
    stack = running_stack(supervisor.home)
    assert stack is not None
    send(stack, command)


def entry(supervisor: Supervisor, key: str) -> JournalEntry | None:
    found = read_entries(supervisor.home / FAULTS_FILE)
    return next((one for one in found if one.detail.get("key") == key), None)


def wait_for_end(supervisor: Supervisor, key: str) -> JournalEntry:
    def ended() -> JournalEntry | None:
        found = entry(supervisor, key)
        return found if found is not None and found.ended is not None else None

    found = wait_until(ended, TIMEOUT_SECONDS, f"the fault {key} has ended")
    assert found is not None
    return found


def status(pid: int | None) -> str:
    assert pid is not None
    return str(psutil.Process(pid).status())


def test_a_killed_server_stays_down_and_is_started_again(supervisor: Supervisor) -> None:
    server = supervisor.server("s3")
    before = server.pid
    execute(supervisor, SupervisorCommand("fault", fault="killed", target="s3", seconds=FAULT_SECONDS, key="a"))
    begun = entry(supervisor, "a")
    assert begun is not None
    assert (begun.name, begun.code, begun.ended, server.pid) == ("s3 killed", "server-killed", None, None)
    with pytest.raises(CommandRejected) as caught:
        execute(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=1, key="b"))
    assert caught.value.code is CommandRejection.FAULT_ACTIVE
    ended = wait_for_end(supervisor, "a")
    assert ended.ended is not None
    assert ended.ended - ended.began >= FAULT_SECONDS
    assert "error" not in ended.detail
    assert server.pid not in (None, before)
    assert server.probe() is None


def test_a_stopped_server_is_resumed(supervisor: Supervisor) -> None:
    pid = supervisor.server("s3").pid
    execute(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=FAULT_SECONDS, key="c"))
    wait_until(lambda: status(pid) == psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is suspended")
    wait_for_end(supervisor, "c")
    wait_until(lambda: status(pid) != psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is resumed")
    assert supervisor.server("s3").pid == pid


def test_a_stopped_worker_is_resumed_and_a_killed_one_restarted(supervisor: Supervisor) -> None:
    (pid,) = (worker.process.pid for worker in supervisor.state.workers if worker.id == "processor-1")
    command = SupervisorCommand("fault", fault="stopped", target="processor-1", seconds=FAULT_SECONDS, key="d")
    execute(supervisor, command)
    wait_until(lambda: status(pid) == psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is suspended")
    wait_for_end(supervisor, "d")
    wait_until(lambda: status(pid) != psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is resumed")
    execute(supervisor, SupervisorCommand("fault", fault="killed", target="processor-1", seconds=1, key="e"))
    assert wait_for_end(supervisor, "e").code == "processor-killed"

    def replaced() -> bool:
        return any(
            worker.id == "processor-1" and worker.process.pid != pid and worker.process.process() is not None
            for worker in supervisor.state.workers
        )

    wait_until(replaced, TIMEOUT_SECONDS, "another process has replaced it")


@pytest.mark.parametrize(
    ("target", "seconds", "code"),
    [
        ("unknown", 1, CommandRejection.UNKNOWN_TARGET),
        ("", 1, CommandRejection.UNKNOWN_TARGET),
        ("dashboard-1", 1, CommandRejection.NOT_ALLOWED),
        ("s3", 0, CommandRejection.INVALID_VALUE),
        ("s3", 1e9, CommandRejection.INVALID_VALUE),
        ("s3", float("nan"), CommandRejection.MALFORMED),
    ],
)
def test_an_impossible_fault_is_rejected(
    target: str, seconds: float, code: CommandRejection, supervisor: Supervisor
) -> None:
    with pytest.raises(CommandRejected) as caught:
        execute(supervisor, SupervisorCommand("fault", fault="killed", target=target, seconds=seconds, key="f"))
    assert caught.value.code is code
    assert entry(supervisor, "f") is None


def test_a_fault_can_be_ended_before_its_time(supervisor: Supervisor) -> None:
    pid = supervisor.server("s3").pid
    execute(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=600, key="h"))
    wait_until(lambda: status(pid) == psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is suspended")
    execute(supervisor, SupervisorCommand("end-fault", target="s3"))
    ended = wait_for_end(supervisor, "h")
    assert ended.ended is not None
    assert ended.ended - ended.began < TIMEOUT_SECONDS
    wait_until(lambda: status(pid) != psutil.STATUS_STOPPED, TIMEOUT_SECONDS, "it is resumed")
    with pytest.raises(CommandRejected) as caught:
        execute(supervisor, SupervisorCommand("end-fault", target="s3"))
    assert caught.value.code is CommandRejection.NO_FAULT


def test_stopping_the_stack_ends_its_faults(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "home", [], servers=["s3"], default_ports=False) as supervisor:
        execute(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=600, key="g"))
        pid = supervisor.server("s3").pid
    assert pid is not None
    wait_until(lambda: not psutil.pid_exists(pid), TIMEOUT_SECONDS, "its process has ended")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
