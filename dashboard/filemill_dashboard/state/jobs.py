"""Work that takes longer than a click: cancelling ten thousand files, sending dead letters through again.

One job at a time in this process, on a thread of its own; every viewer sees it, and may stop it. What it has done by
then stays done. A job dies with the process: each of its batches is a transaction, so it can be started again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from filemill.errors import Unavailable

log = structlog.get_logger("jobs")

# What has ended is shown for this long.
SHOWN_SECONDS = 20.0
# A server that is away is waited for: a job of an hour should outlive a restart.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0


class JobRunning(Exception):
    """Another job runs; the text says which."""


class JobStopped(Exception):
    """Somebody has stopped the job."""


@dataclass(frozen=True)
class JobView:
    """A job as it stands. `total` None: not known; `refused` are those that could not be done."""

    name: str
    total: int | None
    done: int
    refused: int
    running: bool
    error: str | None
    seconds: float


class Job:
    """The handle that the work gets."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = self.refused = 0
        self.error: str | None = None
        self.began = time.monotonic()
        self.ended: float | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask it to end after its present batch."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Let time pass. Raises Stopped."""
        if self._stop.wait(max(0.0, seconds)):
            raise JobStopped

    def advance(self, done: int, refused: int = 0) -> None:
        """Count a batch. Raises Stopped."""
        self.done += done
        self.refused += refused
        self.wait(0)

    def run_batch(self, batch: Callable[[], None]) -> None:
        """Do a batch, again and again while a server is away. Raises Stopped, and Unavailable after a minute of it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                batch()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                self.wait(PAUSE_SECONDS)
            else:
                return

    def view(self) -> JobView:
        """How it stands."""
        seconds = (self.ended or time.monotonic()) - self.began
        return JobView(self.name, self.total, self.done, self.refused, self.ended is None, self.error, seconds)


class Jobs:
    """The job of this process: running, or the last one for a while."""

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._on_end = on_end

    def start(self, name: str, total: int | None, work: Callable[[Job], None]) -> None:
        """Start a job. Raises Busy."""
        with self._lock:
            if self._job is not None and self._job.ended is None:
                raise JobRunning(f"another job runs: {self._job.name}")
            self._job = Job(name, total)
        threading.Thread(target=self._run, args=(self._job, work), name="job", daemon=True).start()

    def stop(self) -> None:
        """Stop the running job, or no longer show the last one."""
        with self._lock:
            if self._job is not None and self._job.ended is not None:
                self._job = None
            elif self._job is not None:
                self._job.stop()

    def view(self) -> JobView | None:
        """The job that runs, or has ended just now."""
        with self._lock:
            job = self._job
        if job is None or (job.ended is not None and time.monotonic() - job.ended > SHOWN_SECONDS and not job.error):
            return None
        return job.view()

    def _run(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        except JobStopped:
            job.error = "stopped"
        except Unavailable as away:
            job.error = str(away)
        except Exception:
            log.exception("A job failed", name=job.name)
            job.error = "it failed: the dashboard's log says more"
        job.ended = time.monotonic()
        self._on_end()
