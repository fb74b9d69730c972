"""A sign of life for whoever watches from outside: a small file that says when a process's loop last came round.

A process that runs is not yet one that works: a loop may hang, in a call that never returns. Docker's HEALTHCHECK asks
`filemill.runtime.healthcheck`, which reads this file. It says nothing about the servers: a worker that waits for Kafka
is healthy.
"""

import json
import os
import threading
import time
from pathlib import Path

import structlog

log = structlog.get_logger("pulse")

TOUCH_SECONDS = 1.0


class Liveness:
    """Writes the file, at most once a second; none where `path` is None. For one thread."""

    def __init__(self, path: Path | None, role: str) -> None:
        self._path = path
        self._role = role
        self._touched_at = float("-inf")

    def touch(self) -> None:
        """The loop came round."""
        if time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self._write({})

    def set_url(self, url: str) -> None:
        """This process is best asked itself, at this URL."""
        self._write({"url": url})

    def _write(self, more: dict[str, str]) -> None:
        self._touched_at = time.monotonic()
        if self._path is None:
            return
        # The monotonic clock is the system's, one for all its processes, and nobody sets it.
        said = json.dumps({"role": self._role, "pid": os.getpid(), "beat": self._touched_at, **more})
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(said)
            draft.replace(self._path)
        except OSError as error:  # a full disk is no reason to stop working
            log.warning("No sign of life could be written", file=str(self._path), error=error.strerror)


class BeatingStop(threading.Event):
    """A stop that a loop asks for at each turn, and a pulse that beats with each question."""

    def __init__(self, pulse: Liveness) -> None:
        super().__init__()
        self._pulse = pulse

    def is_set(self) -> bool:
        """Whether to stop."""
        self._pulse.touch()
        return super().is_set()
