"""The state file of a stack: replaced atomically, and valid only while the supervisor runs."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from filemill.runtime.stack_state import (
    STATE_FILE,
    ProcessRef,
    ServerState,
    StackState,
    WorkerState,
    read_state,
    remove_state,
    running_stack,
    write_state,
)


def _state(home: Path, supervisor: ProcessRef | None = None, **settings: str | int | float) -> StackState:
    here = ProcessRef.of(os.getpid())
    return StackState(
        home=str(home),
        supervisor=supervisor or here,
        started_at="2026-01-04T12:00:00+00:00",
        settings={"kafka_broker": "127.0.0.1:1", "database_password": "secret", **settings},
        servers=[ServerState(name="kafka", address="127.0.0.1:1", version="4.4.0", process=here, log="k.log")],
        workers=[WorkerState(role="processor", id="processor-1", process=here, log="p.log")],
        page="http://127.0.0.1:8501",
    )


def test_a_written_state_can_be_read(tmp_path: Path) -> None:
    state = _state(tmp_path)
    write_state(state)
    assert read_state(tmp_path) == state
    assert running_stack(tmp_path) == state


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    """It holds passwords."""
    write_state(_state(tmp_path))
    write_state(_state(tmp_path))
    assert stat.S_IMODE((tmp_path / STATE_FILE).stat().st_mode) == 0o600


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    for number in range(3):
        write_state(_state(tmp_path, number=number))
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE_FILE]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _state(tmp_path)
    write_state(before)

    def full(*_arguments: object, **_options: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(msgspec.json, "format", full)
    with pytest.raises(OSError, match="No space"):
        write_state(_state(tmp_path, number=2))
    assert read_state(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE_FILE]


def test_a_reader_never_sees_an_incomplete_file(tmp_path: Path) -> None:
    states = [_state(tmp_path, number=number, filler="x" * 50_000 * number) for number in range(2)]
    write_state(states[0])
    stop = threading.Event()
    unreadable: list[object] = []

    def read() -> None:
        while not stop.is_set():
            state = read_state(tmp_path)
            if state not in states:
                unreadable.append(state)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        write_state(states[number % 2])
    stop.set()
    reader.join()
    assert unreadable == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"home": 5}', b"\0" * 100])
def test_an_invalid_file_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    assert read_state(tmp_path) is None
    assert running_stack(tmp_path) is None


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    state = _state(tmp_path)
    write_state(state)
    document = json.loads((tmp_path / STATE_FILE).read_text())
    (tmp_path / STATE_FILE).write_text(json.dumps({**document, "new": {"a": 1}}))
    assert read_state(tmp_path) == state


def test_a_missing_file_or_a_folder_in_its_place_counts_as_missing(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "nowhere") is None
    (tmp_path / STATE_FILE).mkdir()
    assert read_state(tmp_path) is None


def test_removing_a_missing_state_does_nothing(tmp_path: Path) -> None:
    remove_state(tmp_path)
    write_state(_state(tmp_path))
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_the_state_of_a_dead_supervisor_is_readable_but_not_running(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = _state(tmp_path, ProcessRef.of(child.pid))
    write_state(state)
    assert running_stack(tmp_path) == state
    child.communicate(b"\n")
    assert running_stack(tmp_path) is None
    assert read_state(tmp_path) == state


def test_a_zombie_counts_as_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    reference = ProcessRef.of(child.pid)
    assert reference.process() is not None
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended but has not been reaped
    assert reference.process() is None
    child.wait()


def test_a_reused_pid_is_not_mistaken_for_the_process() -> None:
    here = ProcessRef.of(os.getpid())
    assert here.process() is not None
    assert ProcessRef(pid=here.pid, created=here.created + 60).process() is None
    assert ProcessRef(pid=here.pid, created=here.created - 60).process() is None
    assert ProcessRef(pid=here.pid, created=here.created + 1.0).process() is not None, "an adjusted clock"


def test_an_unused_pid_is_no_process() -> None:
    assert ProcessRef(pid=2**22 + 1, created=0.0).process() is None
