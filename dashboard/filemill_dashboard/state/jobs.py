"""Background jobs: work that takes longer than a click, such as cancelling ten thousand files.

One job runs at a time in this process, on its own thread. Every viewer sees it and may stop it; what it has done by
then stays done. A job ends with the process. Each batch is a transaction, so a job can be started again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from filemill.domain.limits import LimitExceeded
from filemill.errors import Forbidden, Unavailable

log = structlog.get_logger("jobs")

# A finished job is shown for this long.
SHOWN_SECONDS = 20.0
# A batch is retried for this long while a server is unreachable: a long job should survive a restart.
RETRY_SECONDS = 60.0
RETRY_PAUSE_SECONDS = 1.0


class JobRunning(Exception):
    """Another job is running; the text names it."""


class JobStopped(Exception):
    """The job was stopped."""


@dataclass(frozen=True)
class JobView:
    """The state of a job. `total` None: unknown. `refused` counts the items that could not be done.

    `begins_in_seconds`: it has changed nothing yet and can be undone; None: it has begun.
    """

    name: str
    total: int | None
    done: int
    refused: int
    running: bool
    error: str | None
    seconds: float
    begins_in_seconds: float | None = None


class Job:
    """A job, as its work function uses it."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = self.refused = 0
        self.error: str | None = None
        self.started_at = time.monotonic()
        self.ended_at: float | None = None
        self._begins_at: float | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """Request the end of the job after its current batch."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait. Raises JobStopped."""
        if self._stop.wait(max(0.0, seconds)):
            raise JobStopped

    def wait_for_undo(self, seconds: float) -> None:
        """Wait before the first change, so that the job can be undone. Raises JobStopped."""
        self._begins_at = time.monotonic() + seconds
        try:
            self.wait(seconds)
        except JobStopped:
            raise JobStopped("undone, nothing was changed") from None
        self._begins_at = None

    def advance(self, done: int, refused: int = 0) -> None:
        """Count the items of a batch. Raises JobStopped."""
        self.done += done
        self.refused += refused
        self.wait(0)

    def run_batch(self, batch: Callable[[], object]) -> None:
        """Run a batch; retry it while a server is unreachable, and when a limit allows it again.

        Raises JobStopped, and Unavailable after a minute; LimitExceeded if the limit's wait is longer than that.
        """
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                batch()
            except LimitExceeded as exceeded:
                if time.monotonic() + exceeded.retry_after > deadline:
                    raise
                self.wait(exceeded.retry_after)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                self.wait(RETRY_PAUSE_SECONDS)
            else:
                return

    def view(self) -> JobView:
        """The current state."""
        seconds = (self.ended_at or time.monotonic()) - self.started_at
        running, begins_at = self.ended_at is None, self._begins_at
        begins_in = max(0.0, begins_at - time.monotonic()) if running and begins_at is not None else None
        return JobView(self.name, self.total, self.done, self.refused, running, self.error, seconds, begins_in)


class Jobs:
    """The job of this process: the one that is running, or the last one for a while."""

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._on_end = on_end

    def start(self, name: str, total: int | None, work: Callable[[Job], None]) -> None:
        """Start a job. Raises JobRunning."""
        with self._lock:
            if self._job is not None and self._job.ended_at is None:
                raise JobRunning(f"another job is running: {self._job.name}")
            self._job = Job(name, total)
        threading.Thread(target=self._run, args=(self._job, work), name="job", daemon=True).start()

    def stop(self) -> None:
        """Stop the running job, or hide the last one."""
        with self._lock:
            if self._job is not None and self._job.ended_at is not None:
                self._job = None
            elif self._job is not None:
                self._job.stop()

    def view(self) -> JobView | None:
        """The running job, or one that has just ended."""
        with self._lock:
            job = self._job
        if job is None:
            return None
        hidden = job.ended_at is not None and time.monotonic() - job.ended_at > SHOWN_SECONDS and not job.error
        return None if hidden else job.view()

    def _run(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        except JobStopped as stopped:
            job.error = str(stopped) or "stopped"
        except (Forbidden, LimitExceeded, Unavailable) as error:
            job.error = str(error)
        except Exception:
            log.exception("Job failed", name=job.name)
            job.error = "internal error: see the dashboard's log"
        job.ended_at = time.monotonic()
        self._on_end()
