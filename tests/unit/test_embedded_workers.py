"""The worker pool: environment, restarts, scaling and stopping, with real small processes."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from filemill.runtime.stack_state import WorkerState
from filemill_infra.embedded.processes.signals import ended
from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.processes.worker_pool import WorkerPool
from filemill_infra.embedded.processes.workers import (
    FAILING_AFTER,
    FIRST_DELAY_SECONDS,
    HEALTHY_SECONDS,
    LONGEST_DELAY_SECONDS,
    ProcessEvent,
    RestartBackoff,
    WorkerSpec,
    worker_environment,
)

SLEEP = (sys.executable, "-c", "import time; print('{id} runs', flush=True); time.sleep(600)")
UNSTOPPABLE = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('running', flush=True); time.sleep(600)",
)
BROKEN = (sys.executable, "-c", "import sys; print('no such topic', flush=True); sys.exit(3)")


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


class _Stack:
    """A worker pool with a thread that ticks it, as the supervisor does, and its events."""

    def __init__(self, tmp_path: Path, *specs: WorkerSpec) -> None:
        self.events: list[ProcessEvent] = []
        self.logs = tmp_path
        self.pool = WorkerPool(specs, tmp_path, Watchdog(tmp_path / "watchdog.log", ""), self.events.append)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self.pool.start({})
        self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(0.02):
            self.pool.tick()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.pool.stop(0)

    def states(self) -> dict[str, WorkerState]:
        return {state.id: state for state in self.pool.states()}

    def has_output(self, worker_id: str, text: str) -> bool:
        return text in (self.logs / f"{worker_id}.log").read_text()


Start = Callable[..., _Stack]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    stacks: list[_Stack] = []

    def start_stack(*specs: WorkerSpec) -> _Stack:
        stacks.append(_Stack(tmp_path, *specs))
        return stacks[-1]

    yield start_stack
    for stack in stacks:
        stack.close()


def test_restart_delays_double_up_to_a_limit_and_a_healthy_run_resets_them() -> None:
    backoff = RestartBackoff()
    delays = [backoff.next_delay(0.1) for _ in range(9)]
    assert delays[:3] == [FIRST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2, FIRST_DELAY_SECONDS * 4]
    assert delays[-1] == LONGEST_DELAY_SECONDS
    assert backoff.next_delay(HEALTHY_SECONDS) == FIRST_DELAY_SECONDS


def test_a_workers_environment_has_only_the_stacks_servers(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "KAFKA_BROKER": "elsewhere:9092",
        "DATABASE_HOST": "elsewhere",
        "AWS_ENDPOINT_URL_S3": "http://elsewhere",
        "AWS_SESSION_TOKEN": "x",
        "FILEMILL_KAFKA_BROKER": "elsewhere:9092",
        "FILEMILL_LOG_LEVEL": "debug",
        "FILEMILL_STACK_RUN": "another",
        "FILEMILL_URL": "https://elsewhere",
        "FILEMILL_TOKEN": "fm_x",
        "FILEMILL_TOKEN_FILE": "/x",
        "no_proxy": "intranet",
    }
    settings: dict[str, str | int | float] = {"kafka_broker": "127.0.0.1:1", "database_port": 2}
    environment = worker_environment(settings | {"database_owner_password": "o"}, tmp_path, inherited)
    assert environment == {
        "PATH": "/bin",
        "FILEMILL_KAFKA_BROKER": "127.0.0.1:1",
        "FILEMILL_DATABASE_PORT": "2",
        "FILEMILL_LOG_LEVEL": "debug",
        "FILEMILL_HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "intranet,127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }


def test_a_killed_worker_is_restarted_and_counted(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP))
    killed = stack.states()["processor-1"].process.pid
    stack.pool.kill_worker("processor-1")
    eventually(lambda: stack.states()["processor-1"].restarts == 1)
    eventually(lambda: stack.states()["processor-1"].process.process() is not None)
    assert stack.states()["processor-1"].process.pid != killed
    assert [event.kind for event in stack.events] == ["died", "restarted"]
    assert "signal 9" in stack.events[0].text


def test_a_worker_that_always_dies_is_reported_with_the_end_of_its_log(start: Start) -> None:
    stack = start(WorkerSpec(role="sync", argv=BROKEN))
    eventually(lambda: any(event.kind == "failing" for event in stack.events))
    failing = next(event for event in stack.events if event.kind == "failing")
    assert failing.log[-1] == "no such topic"
    assert "code 3" in failing.text
    assert stack.states()["sync-1"].restarts == FAILING_AFTER - 1
    delays = [event.text.rsplit("in ", 1)[1] for event in stack.events if event.kind != "restarted"]
    assert delays == ["0.5 s", "1 s", "2 s"]


def test_a_worker_that_cannot_be_started_does_not_affect_others(start: Start) -> None:
    stack = start(WorkerSpec(role="typo", argv=("/nowhere/python",)), WorkerSpec(role="processor", argv=SLEEP))
    eventually(lambda: sum(event.name == "typo-1" and event.kind == "failing" for event in stack.events) > 1)
    assert stack.states()["processor-1"].process.process() is not None


def test_scaling_up_and_down_keeps_the_oldest(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP))
    first = stack.states()["processor-1"].process
    assert stack.pool.scale("processor", 3) == ["processor-1", "processor-2", "processor-3"]
    eventually(lambda: all(stack.has_output(worker, f"{worker} runs") for worker in stack.states()))
    gone = stack.states()["processor-3"].process
    assert stack.pool.scale("processor", 1) == ["processor-1"]
    assert list(stack.states()) == ["processor-1"]
    assert stack.states()["processor-1"].process == first
    assert gone.process() is None
    assert stack.pool.scale("processor", 0) == []
    assert stack.pool.scale("processor", 1) == ["processor-1"]
    assert not [event for event in stack.events if event.kind == "died"]


def test_with_unique_ids_no_id_is_used_twice(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP, count=2, unique_ids=True))
    assert stack.pool.scale("processor", 1) == ["processor-1"]
    stack.pool.kill_worker("processor-1", restart=False)
    assert stack.pool.scale("processor", 2) == ["processor-3", "processor-4"]


@pytest.mark.parametrize(("role", "count"), [("unknown", 1), ("processor", -1)])
def test_an_unknown_role_or_a_negative_count_is_rejected(start: Start, role: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"role|negative"):
        start(WorkerSpec(role="processor", argv=SLEEP)).pool.scale(role, count)


def test_a_stopped_worker_is_not_restarted(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP, count=2))
    stack.pool.stop_worker("processor-1")
    assert list(stack.states()) == ["processor-2"]
    with pytest.raises(KeyError, match="processor-2"):
        stack.pool.stop_worker("processor-1")


def test_a_worker_killed_without_restart_is_not_restarted(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP))
    stack.pool.kill_worker("processor-1", restart=False)
    eventually(lambda: not stack.states())
    assert not stack.events


def test_a_suspended_worker_can_be_stopped(start: Start) -> None:
    stack = start(WorkerSpec(role="processor", argv=SLEEP))
    stack.pool.kill_worker("processor-1", signal.SIGSTOP)
    began = time.monotonic()
    stack.pool.stop_worker("processor-1", 60)
    assert time.monotonic() - began < 30


def test_workers_that_ignore_sigterm_are_killed_with_their_children_at_the_deadline(start: Start) -> None:
    ignore = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    parent = (sys.executable, "-c", f"{ignore}; subprocess.run({list(UNSTOPPABLE)!r})")
    stack = start(WorkerSpec(role="parent", argv=parent), WorkerSpec(role="unstoppable", argv=UNSTOPPABLE, count=2))
    eventually(lambda: all(stack.has_output(worker, "running") for worker in stack.states()))
    members = [
        member
        for state in stack.states().values()
        for process in [psutil.Process(state.process.pid)]
        for member in [process, *process.children(recursive=True)]
    ]
    assert len(members) == 4
    began = time.monotonic()
    stack.pool.stop(1)
    assert 1 <= time.monotonic() - began < 15
    assert all(map(ended, members))


def test_each_worker_gets_its_id(start: Start) -> None:
    script = "import os, time; print(os.environ['FILEMILL_WORKER_ID'], os.environ['X'], flush=True); time.sleep(600)"
    stack = start(WorkerSpec(role="a", argv=(sys.executable, "-c", script), env={"X": "y"}, count=2))
    eventually(lambda: stack.has_output("a-1", "a-1 y") and stack.has_output("a-2", "a-2 y"))
