"""Load generation: open loop, closed loop, and a backlog.

In the open loop each request has an intended moment, and its latency counts from that moment, however late it was
submitted. A generator that waits for the system would not measure the wait ("coordinated omission", G. Tene).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa

from filemill.domain.files import NewFile
from filemill.domain.permissions import local_admin
from filemill.errors import Unavailable
from filemill.queries.verification import count_unfinished
from filemill.services.job_requests import UnknownHandler
from filemill.services.submissions import Submissions

TICK_SECONDS = 0.02
# The most requests of one transaction: after an outage, overdue requests are submitted in batches.
BATCH = 500
RETRY_SECONDS = 0.2
DESCRIPTION = "Requested by the lab."


class LoadStep(msgspec.Struct, frozen=True):
    """A part of a schedule: `rate` requests per second for `seconds`."""

    seconds: float
    rate: float


class JobMix(msgspec.Struct, frozen=True):
    """Requests of a handler among those of the load: one request of `every`, until there are `count`.

    `parameters` is a JSON object as text.
    """

    handler: str
    count: int
    every: int
    parameters: str = "{}"


class SubmittedRequest(msgspec.Struct, frozen=True):
    """An accepted request. Moments are seconds since the epoch."""

    file_id: int
    intended: float
    accepted: float


class LoadGenerator:
    """Submits requests to one database by the same use case as the page and REST."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.submitted: list[SubmittedRequest] = []
        self.jobs: list[int] = []  # the ids of the requests of `mix`
        self.mix: JobMix | None = None
        self.refused = 0  # failed transactions, as while Postgres is unreachable
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def backlog(self, count: int) -> list[int]:
        """Submit `count` requests as fast as possible; returns their ids. Raises what the database raises."""
        ids: list[int] = []
        for begin in range(0, count, BATCH):
            ids += self._submit([time.time()] * min(BATCH, count - begin))
        return ids

    def open_loop(self, schedule: Sequence[LoadStep]) -> None:
        """Submit by the clock, independent of progress; returns at the end of the schedule or after `stop`."""
        began, due_at = time.monotonic(), 0.0
        epoch = time.time() - began
        overdue: list[float] = []
        for step in schedule:
            number, wanted = 0, int(step.seconds * step.rate)
            while (number < wanted or overdue) and not self._stop.is_set():
                now = time.monotonic() - began
                while number < wanted and due_at + number / step.rate <= now:
                    overdue.append(epoch + began + due_at + number / step.rate)
                    number += 1
                overdue = self._try(overdue)
                self._stop.wait(TICK_SECONDS)
            due_at += step.seconds

    def closed_loop(self, in_flight: int, seconds: float) -> None:
        """Keep `in_flight` requests unfinished for `seconds`, like users who each wait for their file."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop.is_set():
            with contextlib.suppress(sa.exc.SQLAlchemyError, Unavailable):  # Postgres is unreachable
                room = in_flight - self.unfinished()
                if room > 0:
                    self._try([time.time()] * room)
            self._stop.wait(TICK_SECONDS)

    def start(self, run: Callable[["LoadGenerator"], None]) -> None:
        """Run a load on a thread: `load.start(lambda load: load.open_loop([LoadStep(60, 100)]))`."""
        assert self._thread is None, "a load is running"
        self._stop.clear()
        self._failure = None

        def guarded() -> None:
            try:
                run(self)
            except BaseException as error:  # noqa: BLE001 - raised by `wait`
                self._failure = error

        self._thread = threading.Thread(target=guarded, name="load", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the load on the thread has ended. Raises its exception, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the exception of the load on the thread, if it has ended with one."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop the load on the thread. Raises its exception, if any."""
        self._stop.set()
        self.wait()

    def unfinished(self) -> int:
        """The number of unfinished requests of this load. Raises Unavailable."""
        return unfinished(self._engine, self.submitted[0].file_id) if self.submitted else 0

    def _try(self, intended: list[float]) -> list[float]:
        """Submit one batch; returns the requests that were not submitted."""
        batch, rest = intended[:BATCH], intended[BATCH:]
        if not batch:
            return rest
        try:
            self._submit(batch)
        except (sa.exc.SQLAlchemyError, Unavailable):
            self.refused += 1
            self._stop.wait(RETRY_SECONDS)
            return intended
        return rest

    def _submit(self, intended: Sequence[float]) -> list[int]:
        number = len(self.submitted)
        files = [NewFile(f"Lab file {number + index}", DESCRIPTION) for index in range(len(intended))]
        jobs = self._jobs_due(number + len(files))[: len(files)]
        submissions = Submissions(self._engine)
        try:
            ids = submissions.submit_many([*jobs, *files[len(jobs) :]], principal=local_admin("lab"))
        except UnknownHandler:  # no worker with the handler is alive: the jobs follow later
            jobs = []
            ids = submissions.submit_many(files, principal=local_admin("lab"))
        accepted = time.time()
        self.jobs += ids[: len(jobs)]
        self.submitted.extend(
            SubmittedRequest(file_id, moment, accepted) for file_id, moment in zip(ids, intended, strict=True)
        )
        return ids

    def _jobs_due(self, requests: int) -> list[NewFile]:
        """The jobs that are due among this number of requests and were not submitted yet."""
        if self.mix is None:
            return []
        mix, begin = self.mix, len(self.jobs)
        due = min(mix.count, requests // mix.every)
        return [NewFile(f"Lab job {number}", DESCRIPTION, mix.handler, mix.parameters) for number in range(begin, due)]


def unfinished(engine: sa.Engine, since_id: int = 0, until: float | None = None) -> int:
    """The number of unfinished requests with ids from `since_id` on, accepted until a moment (seconds since the epoch).

    Raises Unavailable.
    """
    accepted_until = None if until is None else datetime.fromtimestamp(until, UTC)
    with engine.connect() as connection:
        return count_unfinished(connection, since_id, accepted_until)
