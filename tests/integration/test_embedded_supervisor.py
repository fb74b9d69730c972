"""An embedded stack: its state file, restarts, scaling and stopping."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from filemill.runtime.stack_state import ProcessRef, StackState, read_state, running_stack
from filemill_infra.embedded.down import down
from filemill_infra.embedded.errors import HomeInUseError
from filemill_infra.embedded.home import remove_home
from filemill_infra.embedded.processes.signals import ended, marked
from filemill_infra.embedded.processes.workers import ProcessEvent, WorkerSpec
from filemill_infra.embedded.supervisor import Supervisor

SLEEP = (sys.executable, "-c", "import time; print('{id} runs', flush=True); time.sleep(600)")

DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"

# A worker that checks at its end whether the servers still work: they must be stopped after the workers.
CHECK_AT_THE_END = """
import os, signal, sys, time
import psycopg
from confluent_kafka.admin import AdminClient

def end(*_):
    psycopg.connect(
        host=os.environ["FILEMILL_DATABASE_HOST"], port=os.environ["FILEMILL_DATABASE_PORT"], dbname="filedb",
        user=os.environ["FILEMILL_DATABASE_USER"], password=os.environ["FILEMILL_DATABASE_PASSWORD"],
    ).close()
    AdminClient({"bootstrap.servers": os.environ["FILEMILL_KAFKA_BROKER"]}).list_topics(timeout=2)
    print("the servers servers worked until the end", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def _query(state: StackState) -> object:
    settings = state.settings
    with psycopg.connect(
        host=str(settings["database_host"]),
        port=int(settings["database_port"]),
        user=str(settings["database_user"]),
        password=str(settings["database_password"]),
        dbname=str(settings["database_name"]),
        connect_timeout=2,
    ) as connection:
        return connection.execute("SELECT 1").fetchone()


def references(state: StackState) -> list[ProcessRef]:
    return [server.process for server in state.servers] + [worker.process for worker in state.workers]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    remove_home(tmp_path / "home")


class _Stack:
    def __init__(self, home: Path) -> None:
        self.events: list[ProcessEvent] = []
        self.prepared: list[dict[str, str | int | float]] = []
        self.supervisor = Supervisor(
            home,
            [WorkerSpec(role="processor", argv=SLEEP, count=2), WorkerSpec(role="sync", argv=SLEEP)],
            default_ports=False,
            page="http://127.0.0.1:1",
            prepare=self.prepared.append,
            report=self.events.append,
        )

    def kinds(self, name: str) -> list[str]:
        return [event.kind for event in self.events if event.name == name]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Stack]:
    stack = _Stack(tmp_path_factory.mktemp("supervisor") / "home")
    with stack.supervisor:
        yield stack
    assert read_state(stack.supervisor.home) is None
    assert not marked(f":{stack.supervisor.home}")
    remove_home(stack.supervisor.home)


def test_the_state_file_has_all_servers_and_workers(stack: _Stack) -> None:
    home = stack.supervisor.home
    state = running_stack(home)
    assert state is not None
    assert (home / "stack.json").stat().st_mode & 0o777 == 0o600
    assert [server.name for server in state.servers] == ["kafka", "postgres", "s3"]
    assert [worker.id for worker in state.workers] == ["processor-1", "processor-2", "sync-1"]
    assert all(ref.process() is not None for ref in references(state))
    assert state.supervisor.pid == os.getpid()
    assert stack.prepared == [state.settings]
    assert _query(state) == (1,)


def test_a_second_stack_on_the_same_home_is_rejected(stack: _Stack) -> None:
    with pytest.raises(HomeInUseError, match=r"http://127\.0\.0\.1:1") as caught:
        Supervisor(stack.supervisor.home, default_ports=False).start()
    assert caught.value.pid == os.getpid()
    assert running_stack(stack.supervisor.home) is not None


def test_a_killed_worker_is_restarted_and_the_state_file_updated(stack: _Stack) -> None:
    home = stack.supervisor.home
    stack.supervisor.kill_worker("processor-1")

    def restarted() -> bool:
        state = running_stack(home)
        assert state is not None
        [worker] = [worker for worker in state.workers if worker.id == "processor-1"]
        return worker.restarts == 1 and worker.process.process() is not None

    eventually(restarted)


def test_scaling_updates_the_state_file_at_once(stack: _Stack) -> None:
    home = stack.supervisor.home
    for count in (4, 1, 2):
        ids = stack.supervisor.scale("processor", count)
        state = running_stack(home)
        assert state is not None
        assert [worker.id for worker in state.workers if worker.role == "processor"] == ids
        assert len(ids) == count


def test_a_server_that_died_is_restarted_on_its_port(stack: _Stack) -> None:
    server = stack.supervisor.server("postgres")
    address, killed = server.address, server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "restarted" in stack.kinds("postgres"))
    assert stack.kinds("postgres") == ["died", "restarted"]
    assert server.address == address
    state = running_stack(stack.supervisor.home)
    assert state is not None
    assert _query(state) == (1,)
    eventually(
        lambda: [one.process.pid for one in stack.supervisor.state.servers if one.name == "postgres"] != [killed]
    )


def test_a_server_killed_by_the_supervisor_stays_down_until_it_is_started(stack: _Stack) -> None:
    server = stack.supervisor.server("s3")
    told = len(stack.events)
    server.kill()
    stack.supervisor.kill_worker("sync-1")  # its restart shows that the supervisor has completed a cycle
    eventually(lambda: "restarted" in stack.kinds("sync-1"))
    assert not server.is_alive()
    server.start()
    assert server.is_alive()
    assert not [event for event in stack.events[told:] if event.name == "s3"]


def test_a_dead_watchdog_is_restarted(stack: _Stack) -> None:
    first = stack.supervisor.watchdog_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: stack.kinds("watchdog") == ["watchdog"])
    assert stack.supervisor.watchdog_pid != first


def test_unknown_names_are_rejected_with_the_known_ones(stack: _Stack) -> None:
    with pytest.raises(KeyError, match="kafka, postgres, s3"):
        stack.supervisor.server("redis")
    with pytest.raises(ValueError, match="processor, sync"):
        stack.supervisor.scale("relay", 1)
    with pytest.raises(KeyError, match="processor-1"):
        stack.supervisor.stop_worker("processor-9")


def test_workers_stop_before_servers_and_everything_within_ten_seconds(home: Path) -> None:
    supervisor = Supervisor(
        home,
        [
            WorkerSpec(role="polite", argv=(sys.executable, "-c", CHECK_AT_THE_END), count=2),
            WorkerSpec(role="deaf", argv=(sys.executable, "-c", DEAF)),
        ],
        servers=("kafka", "postgres"),
        default_ports=False,
    )
    supervisor.start()
    logs = {worker.id: Path(worker.log) for worker in supervisor.state.workers}
    processes = [psutil.Process(ref.pid) for ref in references(supervisor.state)]
    eventually(lambda: all("ready" in log.read_text() for log in logs.values()))

    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 10

    assert all(map(ended, processes))
    assert all("servers worked until the end" in logs[name].read_text() for name in ("polite-1", "polite-2"))
    assert supervisor.wait(0)
    supervisor.stop()


def test_a_failing_prepare_stops_everything(home: Path) -> None:
    def fail(_settings: object) -> None:
        raise RuntimeError("no migrations here")

    with pytest.raises(RuntimeError, match="no migrations"):
        Supervisor(home, servers=("postgres",), default_ports=False, prepare=fail).start()
    assert not marked(f":{home}")
    assert down(home).outcome == "nothing"
