import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

import msgspec
import pytest

from filemill.domain.records import Record, TopicIdentity
from filemill.domain.worker_commands import CommandState, WorkerCommand, WorkerCommandKind
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable
from filemill.ports import TopicReader
from filemill_workers.file_processor import command_listener
from filemill_workers.file_processor.command_listener import CommandListener
from filemill_workers.file_processor.reporter import Reporter

TOPIC = "worker.commands"


class OneCommand:
    """TopicReader and Reporter: one command to be quiet at offset 0. `ends` fails while `reachable` is not set."""

    def __init__(self, *, end: int) -> None:
        self.reachable = threading.Event()
        self.read_all = threading.Event()
        self.emitted: list[EventKind] = []
        self._end = end
        command = WorkerCommand(kind=WorkerCommandKind.QUIET, timestamp=datetime(2026, 1, 1, tzinfo=UTC))
        self._records = [Record(TOPIC, 0, 0, msgspec.json.encode(command), [], 0)]

    def refresh(
        self, positions: Mapping[tuple[str, int], int], identities: Mapping[str, TopicIdentity] | None = None
    ) -> None:
        pass

    def ends(self) -> dict[tuple[str, int], int]:
        if not self.reachable.is_set():
            raise Unavailable("the broker does not answer")
        return {(TOPIC, 0): self._end}

    def read(self, limit: int, seconds: float) -> list[Record]:
        if not self._records:  # the one command was applied
            self.read_all.set()
            time.sleep(min(seconds, 0.01))
        records, self._records = self._records[:limit], self._records[limit:]
        return records

    def close(self) -> None:
        pass

    def emit(self, kind: EventKind) -> None:
        self.emitted.append(kind)


@contextmanager
def listening(topic: OneCommand, state: CommandState) -> Iterator[CommandListener]:
    listener = CommandListener(lambda: cast("TopicReader", topic), state, lambda _files: None, cast("Reporter", topic))
    listener.start()
    try:
        yield listener
    finally:
        listener.close()


@pytest.mark.parametrize(("end", "is_quiet"), [(0, True), (1, False)], ids=["after the start", "before the start"])
def test_a_command_to_be_quiet_counts_if_it_was_sent_after_the_start(end: int, *, is_quiet: bool) -> None:
    topic, state = OneCommand(end=end), CommandState("worker-1")
    topic.reachable.set()
    with listening(topic, state) as listener:
        assert listener.ready.wait(10)
        assert topic.read_all.wait(10)
    assert state.quiet == is_quiet
    assert topic.emitted == ([EventKind.QUIETED] if is_quiet else [])


def test_it_is_ready_only_when_it_knows_which_commands_precede_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_listener, "REFRESH_SECONDS", 0.05)
    topic, state = OneCommand(end=0), CommandState("worker-1")
    with listening(topic, state) as listener:
        assert not listener.ready.wait(0.2)
        assert not topic.read_all.is_set()
        topic.reachable.set()
        assert listener.ready.wait(10)
        assert topic.read_all.wait(10)
    assert state.quiet
