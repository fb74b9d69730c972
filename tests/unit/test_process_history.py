"""The journal of a stack's processes: what its supervisor reports becomes starts and ends, each once."""

import json
import time
from pathlib import Path

from filemill.runtime.process_history import PROCESSES_FILE, ProcessChange, process_history
from filemill.runtime.stack_state import ProcessRef, ServerState, StackState, WorkerState
from filemill_infra.embedded.process_journal import KEPT_LINES, ProcessJournal
from filemill_infra.embedded.processes.workers import ProcessEvent

START, END, STOP = ProcessChange.STARTED, ProcessChange.ENDED, ProcessChange.STOPPED


def stack(home: Path, **pids: int) -> StackState:
    """A stack whose server is kafka; the other processes are workers."""
    refs = {name: ProcessRef(pid=pid, created=float(pid)) for name, pid in pids.items()}
    servers = [ServerState(name="kafka", address="", version="", process=refs.pop("kafka"), log="")]
    workers = [WorkerState(role="sync", id=name, process=ref, log="") for name, ref in refs.items()]
    return StackState(
        home=str(home),
        supervisor=ProcessRef(pid=1, created=1.0),
        started_at="",
        settings={},
        servers=servers,
        workers=workers,
    )


def steps(home: Path, since: float = 0.0) -> list[tuple[str, ProcessChange, int | None, bool]]:
    return [(one.name, one.change, one.pid, one.again) for one in process_history(home, since)]


def test_starts_restarts_and_stops_are_recorded_once(tmp_path: Path) -> None:
    journal = ProcessJournal(tmp_path / PROCESSES_FILE)
    journal.open()
    for _ in range(2):
        journal.observe(stack(tmp_path, kafka=10, w1=11, w2=12))
    died = ProcessEvent(kind="died", name="w1", text="w1 ended by signal 9, 1 in a row; restart in 0.5 s")
    journal.report(died)
    journal.report(died)
    journal.report(ProcessEvent(kind="note", name="stack", text="nothing of a process"))
    journal.observe(stack(tmp_path, kafka=10, w1=21, w2=12))
    journal.observe(stack(tmp_path, kafka=30, w1=21))
    journal.close()
    assert steps(tmp_path) == [
        ("kafka", START, 10, False),
        ("w1", START, 11, False),
        ("w2", START, 12, False),
        ("w1", END, 11, False),
        ("w1", START, 21, True),
        ("kafka", END, 10, False),
        ("kafka", START, 30, True),
        ("w2", STOP, 12, False),
        ("kafka", STOP, 30, False),
        ("w1", STOP, 21, False),
    ]
    (end,) = [one for one in process_history(tmp_path, 0.0) if one.text]
    assert (end.role, end.text) == ("sync", died.text)
    assert steps(tmp_path, since=time.time() + 1) == []


def test_a_home_without_a_journal_has_no_history_and_foreign_lines_are_ignored(tmp_path: Path) -> None:
    assert process_history(tmp_path, 0.0) == []
    line = {"kind": "process", "name": "started", "began": 1.0, "target": "w", "detail": {"pid": "no number"}}
    others = [{**line, "kind": "fault", "detail": {}}, {**line, "name": "exploded", "detail": {}}]
    path = tmp_path / PROCESSES_FILE
    path.write_text("".join(json.dumps(one) + "\n" for one in [line, *others]) + "no JSON")
    assert process_history(tmp_path, 0.0) == []


def test_the_journal_of_former_stacks_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / PROCESSES_FILE
    line = json.dumps({"kind": "process", "name": "started", "began": 1.0, "target": "w"}) + "\n"
    path.write_text(line * (KEPT_LINES + 100))
    ProcessJournal(path).open()
    assert len(path.read_text().splitlines()) == KEPT_LINES


def test_a_disk_that_is_full_ends_nothing(tmp_path: Path) -> None:
    ProcessJournal(tmp_path / "no-such-folder" / PROCESSES_FILE).observe(stack(tmp_path, kafka=10))
