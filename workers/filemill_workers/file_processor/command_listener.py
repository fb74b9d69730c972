"""Listening to `worker.commands`, on a thread beside the consumer's."""

import threading
from collections.abc import Callable

import structlog

from filemill.domain.records import Record
from filemill.domain.worker_commands import CommandState, WorkerCommand, decode_command
from filemill.domain.worker_events import EventKind
from filemill.errors import InvalidMessage, Unavailable
from filemill.ports import TopicReader
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

READ_RECORDS = 500
READ_SECONDS = 0.2
REFRESH_SECONDS = 3.0


class CommandListener:
    """Reads all commands from the beginning, so that a cancellation counts for a record that is read much later."""

    def __init__(
        self,
        reader: Callable[[], TopicReader],
        commands: CommandState,
        on_cancel: Callable[[list[tuple[int, int]]], None],
        reporter: Reporter,
    ) -> None:
        self._new_reader = reader
        self._commands = commands
        self._on_cancel = on_cancel
        self._reporter = reporter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        reader = self._new_reader()
        former: dict[tuple[str, int], int] | None = None  # what comes before these ends was told to a former process
        try:
            rounds = 0
            while not self._stop.is_set():
                try:
                    if former is None or rounds % (REFRESH_SECONDS / READ_SECONDS) < 1:
                        reader.refresh({})
                        former = reader.ends() if former is None else former
                    rounds += 1
                    for record in reader.read(READ_RECORDS, READ_SECONDS):
                        before = record.offset < (former or {}).get((record.topic, record.partition), 0)
                        self._apply_safely(record, before_start=before)
                except Unavailable as error:
                    log.debug("Commands cannot be read for now", error=str(error))
                    self._stop.wait(REFRESH_SECONDS)
        finally:
            reader.close()

    def _apply_safely(self, record: Record, *, before_start: bool) -> None:
        """No command ends the thread: the next ones would be ignored, unsaid."""
        try:
            self._apply(record, before_start=before_start)
        except Exception:
            log.exception("A command could not be followed", partition=record.partition, offset=record.offset)

    def _apply(self, record: Record, *, before_start: bool) -> None:
        try:
            record.require_readable_headers()
            command: WorkerCommand = decode_command(record.value)
        except InvalidMessage as error:
            log.warning("Skipped a command", partition=record.partition, offset=record.offset, reason=str(error))
            return
        was_quiet = self._commands.quiet
        cancelled = self._commands.apply(command, before_start=before_start)
        if cancelled:
            self._on_cancel(cancelled)
        if self._commands.quiet != was_quiet:
            kind = EventKind.QUIETED if self._commands.quiet else EventKind.RESUMED
            log.info("Applied a command", command=command.kind.value)
            self._reporter.emit(kind)
