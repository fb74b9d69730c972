"""Reads `worker.commands` on a thread of its own."""

import threading
from collections.abc import Callable

import structlog

from filemill.domain.records import Record
from filemill.domain.worker_commands import CommandState, decode_command
from filemill.domain.worker_events import EventKind
from filemill.errors import InvalidMessage, Unavailable
from filemill.ports import TopicReader
from filemill_workers.file_processor.reporter import Reporter

log = structlog.get_logger("processor")

READ_RECORDS = 500
READ_SECONDS = 0.2
REFRESH_SECONDS = 3.0


class CommandListener:
    """Reads all commands from the beginning, because the record of a cancelled file may be read much later.

    A process joins its group after `ready` is set. Then each command counts that is sent to a worker others can see.
    """

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
        self.ready = threading.Event()  # it is known which commands precede this process
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        reader = self._new_reader()
        ends_at_start: dict[tuple[str, int], int] | None = None  # commands below these offsets precede this process
        try:
            rounds = 0
            while not self._stop.is_set():
                try:
                    if ends_at_start is None or rounds % (REFRESH_SECONDS / READ_SECONDS) < 1:
                        reader.refresh({})
                        if ends_at_start is None:
                            ends_at_start = reader.ends()
                            self.ready.set()
                    rounds += 1
                    for record in reader.read(READ_RECORDS, READ_SECONDS):
                        end = (ends_at_start or {}).get((record.topic, record.partition), 0)
                        self._apply_safely(record, before_start=record.offset < end)
                except Unavailable as error:
                    log.debug("Commands cannot be read", error=str(error))
                    self._stop.wait(REFRESH_SECONDS)
        finally:
            reader.close()

    def _apply_safely(self, record: Record, *, before_start: bool) -> None:
        """Apply a command. No error ends the thread, because later commands would be ignored then."""
        try:
            self._apply(record, before_start=before_start)
        except Exception:
            log.exception("A command could not be applied", partition=record.partition, offset=record.offset)

    def _apply(self, record: Record, *, before_start: bool) -> None:
        try:
            record.require_readable_headers()
            command = decode_command(record.value)
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
