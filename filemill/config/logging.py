"""Structured logs: for a terminal, or as one JSON object per line."""

import logging
import sys
import threading
import time
from collections.abc import Callable

import structlog

from filemill.config.settings import Settings
from filemill.domain.origins import redact_passwords


def configure(settings: Settings, role: str) -> None:
    """Configure logging of this process; every line has the role and the worker id."""
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
    """Configure logging of a command: only errors, because the command prints its own results and errors."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class LogRateLimit:
    """A limit of log lines per period, for lines that clients can cause. Safe to use from several threads."""

    def __init__(self, lines: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._since = float("-inf")
        self._logged = self._suppressed = 0

    def admit(self) -> int | None:
        """Ask to log a line; returns the number of lines suppressed since the last one, None to suppress this one."""
        with self._lock:
            now = self._clock()
            if now - self._since >= self._seconds:
                self._since, self._logged = now, 0
            if self._logged >= self._lines:
                self._suppressed += 1
                return None
            self._logged += 1
            suppressed, self._suppressed = self._suppressed, 0
            return suppressed


def _add_identity(role: str, worker_id: str) -> structlog.typing.Processor:
    """A processor, because context variables are not inherited by threads."""

    def add(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"role": role, "worker": worker_id, **event}

    return add


def _hide_passwords(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Errors of client libraries may contain complete URLs."""
    return {name: redact_passwords(value) if isinstance(value, str) else value for name, value in event.items()}
