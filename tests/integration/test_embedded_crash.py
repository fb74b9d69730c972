"""A stack whose supervisor is killed, interrupted or stopped leaves no processes."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from filemill.runtime.stack_state import read_state, running_stack
from filemill_infra.embedded.down import down
from filemill_infra.embedded.home import remove_home
from filemill_infra.embedded.processes.signals import ended, marked
from filemill_infra.embedded.supervisor import SERVERS
from tests.integration.test_embedded_supervisor import eventually, references

# Run as a separate program, because it is killed.
STACK = """
import sys
import time
from pathlib import Path
from filemill_infra.embedded.supervisor import SERVERS, Supervisor
from filemill_infra.embedded.processes.workers import WorkerSpec

def prepare(_settings):
    print("prepare", flush=True)
    time.sleep(float(sys.argv[2]))

sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
supervisor = Supervisor(
    Path(sys.argv[1]),
    [WorkerSpec(role="processor", argv=sleep, count=2)],
    servers=sys.argv[3:],
    default_ports=False,
    prepare=prepare,
)
if "postgres" in sys.argv[3:]:
    supervisor.run(lambda _state: print("ready", flush=True))
else:
    supervisor.start()
    print("ready", flush=True)
    raise RuntimeError("nobody stops the stack")
"""


def _processes(home: Path) -> list[psutil.Process]:
    """All processes of the stack of `home`: those in the state file with their children, and the watchdog."""
    state = read_state(home)
    assert state is not None
    found = [psutil.Process(ref.pid) for ref in references(state)]
    found += [child for process in found for child in process.children(recursive=True)]
    started = psutil.Process(state.supervisor.pid).children()
    return list({*found, *(child for child in started if _is_watchdog(child, home))})


def _is_watchdog(process: psutil.Process, home: Path) -> bool:
    command = [""]
    with contextlib.suppress(psutil.NoSuchProcess):
        command = process.cmdline() or command  # a zombie has none
    return "filemill_infra.embedded.processes.watchdog" in command and command[-1].endswith(f":{home}")


def _watchdogs(supervisor: int, home: Path) -> list[psutil.Process]:
    return [child for child in psutil.Process(supervisor).children() if _is_watchdog(child, home)]


@contextmanager
def _program(home: Path, *servers: str, prepare_seconds: float = 0) -> Iterator[subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", STACK, str(home), str(prepare_seconds), *(servers or SERVERS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()
        eventually(lambda: not marked(f":{home}"))


def _names(home: Path) -> list[str]:
    state = read_state(home)
    return [one.name for one in state.servers] + [one.id for one in state.workers] if state else []


def _await(program: subprocess.Popen[str], word: str) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the program ended before it said {word}")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    remove_home(tmp_path / "home")


def test_a_killed_supervisor_leaves_no_processes_even_after_its_watchdog_was_restarted(home: Path) -> None:
    with _program(home) as program:
        _await(program, "ready")
        [first] = _watchdogs(program.pid, home)
        first.kill()
        eventually(lambda: [one.pid for one in _watchdogs(program.pid, home)] not in ([], [first.pid]))
        processes = _processes(home)
        assert {*SERVERS, "processor-1", "processor-2"} <= {*_names(home)}
        assert len(processes) > 8
        program.kill()
        eventually(lambda: all(map(ended, processes)))
    assert running_stack(home) is None

    # The next start, or `down`, finds the state file of the dead supervisor.
    assert down(home).outcome == "cleared"
    assert down(home).outcome == "nothing"


def test_an_unhandled_error_leaves_no_processes(home: Path) -> None:
    with _program(home, "s3") as program:
        output, _ = program.communicate(timeout=60)
        assert "nobody stops the stack" in output
        eventually(lambda: not marked(f":{home}"))
    assert down(home).outcome == "cleared"


def test_down_stops_the_orphans_of_a_killed_supervisor_and_watchdog(home: Path) -> None:
    with _program(home, "postgres", "s3") as program:
        _await(program, "ready")
        processes = _processes(home)
        [watchdog] = _watchdogs(program.pid, home)
        watchdog.suspend()  # so that the watchdog is not restarted before the supervisor has ended
        program.kill()
        program.wait()
        watchdog.kill()
        assert not all(map(ended, processes))
        result = down(home)
        assert (result.outcome, result.supervisor) == ("cleared", program.pid)
        assert len(result.cleared) >= 4
        assert all(map(ended, processes))


@pytest.mark.parametrize(("servers", "suspended"), [(("postgres", "s3"), False), (("postgres",), True)])
def test_down_stops_a_running_stack_in_time(home: Path, servers: tuple[str, ...], suspended: bool) -> None:
    with _program(home, *servers) as program:
        _await(program, "ready")
        processes = _processes(home)
        if suspended:
            psutil.Process(program.pid).suspend()
        began = time.monotonic()
        result = down(home)
        assert time.monotonic() - began < 10
        assert (result.outcome, result.supervisor) == ("stopped", program.pid)
        assert program.wait() == 0
        assert all(map(ended, processes))
        assert read_state(home) is None


@pytest.mark.parametrize(
    ("moment", "servers"),
    [("lock", ("postgres",)), ("ports.json", SERVERS), ("prepare", ("postgres",))],
)
def test_an_interrupt_at_any_moment_of_the_start_stops_everything(
    home: Path, moment: str, servers: tuple[str, ...]
) -> None:
    with _program(home, *servers, prepare_seconds=60) as program:
        if moment == "prepare":
            _await(program, "prepare")
        else:
            eventually((home / moment).exists)
        program.send_signal(signal.SIGINT)
        output, _ = program.communicate(timeout=60)
        assert program.returncode != 0
        assert "KeyboardInterrupt" in output
    assert not marked(f":{home}")
    assert down(home).outcome == "nothing"
