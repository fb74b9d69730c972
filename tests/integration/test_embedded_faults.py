"""Faults in a running stack: done by its supervisor, journalled, undone by themselves."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from filemill.runtime.journal import JournalEntry, read_entries
from filemill.runtime.stack_state import FAULTS_FILE, running_stack
from filemill.runtime.supervisor_client import CommandRejected, SupervisorCommand, send
from filemill_infra.embedded.processes.workers import WorkerSpec
from filemill_infra.embedded.supervisor import Supervisor
from tests.integration.processes import wait_until

LASTS = 1.5
PATIENCE = 30.0
IDLE = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """S3 alone, which starts within a second, and two workers that do nothing."""
    specs = [WorkerSpec(role="processor", argv=IDLE), WorkerSpec(role="dashboard", argv=IDLE)]
    home = tmp_path_factory.mktemp("faults") / "home"
    with Supervisor(home, specs, servers=["s3"], default_ports=False) as supervisor:
        yield supervisor


def order(supervisor: Supervisor, what: SupervisorCommand) -> None:
    stack = running_stack(supervisor.home)
    assert stack is not None
    send(stack, what)


def entry(supervisor: Supervisor, key: str) -> JournalEntry | None:
    found = read_entries(supervisor.home / FAULTS_FILE)
    return next((one for one in found if one.detail.get("key") == key), None)


def over(supervisor: Supervisor, key: str) -> JournalEntry:
    def ended() -> JournalEntry | None:
        found = entry(supervisor, key)
        return found if found is not None and found.ended is not None else None

    found = wait_until(ended, PATIENCE, f"the fault {key} is over")
    assert found is not None
    return found


def status(pid: int | None) -> str:
    assert pid is not None
    return str(psutil.Process(pid).status())


def test_a_server_is_killed_stays_down_and_comes_back(supervisor: Supervisor) -> None:
    server = supervisor.server("s3")
    before = server.pid
    order(supervisor, SupervisorCommand("fault", fault="killed", target="s3", seconds=LASTS, key="a"))
    begun = entry(supervisor, "a")
    assert begun is not None
    assert (begun.name, begun.ended, server.pid) == ("s3 killed", None, None)
    with pytest.raises(CommandRejected, match="has a fault already"):
        order(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=1, key="b"))
    ended = over(supervisor, "a")
    assert ended.ended is not None
    assert ended.ended - ended.began >= LASTS
    assert "error" not in ended.detail
    assert server.pid not in (None, before)
    assert server.probe() is None


def test_a_server_is_stopped_and_goes_on(supervisor: Supervisor) -> None:
    pid = supervisor.server("s3").pid
    order(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=LASTS, key="c"))
    wait_until(lambda: status(pid) == psutil.STATUS_STOPPED, PATIENCE, "it stands still")
    over(supervisor, "c")
    wait_until(lambda: status(pid) != psutil.STATUS_STOPPED, PATIENCE, "it goes on")
    assert supervisor.server("s3").pid == pid


def test_a_worker_is_stopped_and_one_that_is_killed_is_started_again(supervisor: Supervisor) -> None:
    (pid,) = (worker.process.pid for worker in supervisor.state.workers if worker.id == "processor-1")
    order(supervisor, SupervisorCommand("fault", fault="stopped", target="processor-1", seconds=LASTS, key="d"))
    wait_until(lambda: status(pid) == psutil.STATUS_STOPPED, PATIENCE, "it stands still")
    over(supervisor, "d")
    wait_until(lambda: status(pid) != psutil.STATUS_STOPPED, PATIENCE, "it goes on")
    order(supervisor, SupervisorCommand("fault", fault="killed", target="processor-1", seconds=1, key="e"))
    assert over(supervisor, "e").name == "processor killed"

    def replaced() -> bool:
        return any(
            worker.id == "processor-1" and worker.process.pid != pid and worker.process.process() is not None
            for worker in supervisor.state.workers
        )

    wait_until(replaced, PATIENCE, "another process has its place")


@pytest.mark.parametrize(
    ("target", "seconds", "why"),
    [
        ("nobody", 1, "no server or worker"),
        ("", 1, "no server or worker"),
        ("dashboard-1", 1, "page does not break itself"),
        ("s3", 0, "may last"),
        ("s3", 1e9, "may last"),
        ("s3", float("nan"), "may last|Malformed|Expected|Invalid"),
    ],
)
def test_what_cannot_be_broken_is_refused(target: str, seconds: float, why: str, supervisor: Supervisor) -> None:
    with pytest.raises(CommandRejected, match=why):
        order(supervisor, SupervisorCommand("fault", fault="killed", target=target, seconds=seconds, key="f"))
    assert entry(supervisor, "f") is None


def test_a_stack_that_stops_does_not_wait_for_its_faults(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "home", [], servers=["s3"], default_ports=False) as supervisor:
        order(supervisor, SupervisorCommand("fault", fault="stopped", target="s3", seconds=600, key="g"))
        pid = supervisor.server("s3").pid
    assert pid is not None
    wait_until(lambda: not psutil.pid_exists(pid), PATIENCE, "nothing of it is left")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
