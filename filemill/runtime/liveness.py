"""The liveness file: a small file in which a process notes the time of its last loop cycle.

A running process may still hang in a call that never returns. Docker's HEALTHCHECK runs `filemill.runtime.healthcheck`,
which reads this file. The file says nothing about the servers: a worker that waits for Kafka is healthy.
"""

import json
import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger("liveness")

TOUCH_SECONDS = 1.0


class Liveness:
    """Writes the liveness file of one process; writes nothing if `path` is None. For one thread."""

    def __init__(self, path: Path | None, role: str) -> None:
        self._path = path
        self._role = role
        self._touched_at = float("-inf")

    def touch(self) -> None:
        """Note that the loop has begun another cycle. Writes at most once a second."""
        if time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self._write({})

    def set_url(self, url: str) -> None:
        """Have health checks send a request to this URL, instead of comparing times."""
        self._write({"url": url})

    def _write(self, extra: dict[str, str]) -> None:
        self._touched_at = time.monotonic()
        if self._path is None:
            return
        # The monotonic clock is common to all processes of the system, and is never adjusted.
        content = {"role": self._role, "pid": os.getpid(), "touched_at": self._touched_at, **extra}
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(content))
            draft.replace(self._path)
        except OSError as error:  # a full disk must not stop the work
            log.warning("Could not write the liveness file", file=str(self._path), error=error.strerror)
