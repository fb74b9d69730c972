"""Structured logs: for people on a terminal, or one JSON object a line for machines."""

import logging
import sys
import threading
import time
from collections.abc import Callable

import structlog

from filemill.config.settings import Settings
from filemill.domain.origins import redact_passwords


def configure(settings: Settings, role: str) -> None:
    """Set up logging for this process; every line carries the role and the worker's id."""
    json = settings.log_format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            _add_identity(role, settings.worker_id),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_passwords,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_for_command() -> None:
    """Logging for a command that a person types: stdout is its answer, and errors it tells in a sentence."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class LogRateLimit:
    """How many lines of a kind may be logged in a period, for what others can cause as often as they like. Any thread.

    `admit` returns how many were left out since the last line that was logged; None: leave out this one, too.
    """

    def __init__(self, lines: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._since = float("-inf")
        self._logged = self._left_out = 0

    def admit(self) -> int | None:
        """Ask for one line."""
        with self._lock:
            now = self._clock()
            if now - self._since >= self._seconds:
                self._since, self._logged = now, 0
            if self._logged >= self._lines:
                self._left_out += 1
                return None
            self._logged += 1
            left_out, self._left_out = self._left_out, 0
            return left_out


def _add_identity(role: str, worker_id: str) -> structlog.typing.Processor:
    """A processor, not a context variable: those do not reach the threads that a process starts."""

    def add(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"role": role, "worker": worker_id, **event}

    return add


def _hide_passwords(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A client library's error may quote a URL whole."""
    return {name: redact_passwords(value) if isinstance(value, str) else value for name, value in event.items()}
