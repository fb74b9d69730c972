"""Load: who asks for files, how fast, and when each was meant to be asked for.

A generator that waits for the system measures its own patience ("coordinated omission", G. Tene): in the open loop each
request has an intended moment, and its latency counts from there, however late it could be submitted.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from filemill.domain.files import NewFile, Status
from filemill.errors import Unavailable
from filemill.services.submissions import Submissions

TICK_SECONDS = 0.02
# Requests of one transaction at most: after an outage the overdue ones come in pieces.
BATCH = 500
RETRY_SECONDS = 0.2
DESCRIPTION = "Asked for by the lab."


class LoadStep(msgspec.Struct, frozen=True):
    """A part of a schedule: so many requests a second, for so long."""

    seconds: float
    rate: float


class SubmittedRequest(msgspec.Struct, frozen=True):
    """A request that was accepted. Moments in seconds since the epoch."""

    file_id: int
    intended: float
    accepted: float


class LoadGenerator:
    """Submits to one database, as the page and REST do: a row and its outbox row in one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.submitted: list[SubmittedRequest] = []
        self.refused = 0  # transactions that failed, as they do while Postgres is away
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def backlog(self, count: int) -> list[int]:
        """Submit so many at once; returns their ids. Raises what the database raises."""
        ids: list[int] = []
        for begin in range(0, count, BATCH):
            ids += self._submit([time.time()] * min(BATCH, count - begin))
        return ids

    def open_loop(self, schedule: Sequence[LoadStep]) -> None:
        """Submit by the clock, whatever becomes of it; returns when the schedule is over or `stop` was called."""
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
        """Keep so many unfinished requests, for so long: as many users who each wait for an answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stop.is_set():
            with contextlib.suppress(sa.exc.SQLAlchemyError, Unavailable):  # nobody can ask while Postgres is away
                room = in_flight - self.unfinished()
                if room > 0:
                    self._try([time.time()] * room)
            self._stop.wait(TICK_SECONDS)

    def start(self, run: Callable[["LoadGenerator"], None]) -> None:
        """Run a load beside the caller: `load.start(lambda load: load.open_loop([LoadStep(60, 100)]))`."""
        assert self._thread is None, "a load is running"
        self._stop.clear()
        self._failure = None

        def guarded() -> None:
            try:
                run(self)
            except BaseException as error:  # noqa: BLE001 - told to who waits for the load
                self._failure = error

        self._thread = threading.Thread(target=guarded, name="load", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the load that runs beside has ended by itself. Raises what ended it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the load that runs beside. Raises what ended it before."""
        self._stop.set()
        self.wait()

    def unfinished(self) -> int:
        """Requests of this load that have not ended, by the rows."""
        return unfinished(self._engine, self.submitted[0].file_id) if self.submitted else 0

    def _try(self, intended: list[float]) -> list[float]:
        """Submit what can be submitted; returns what could not."""
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
        ids = Submissions(self._engine).submit_many(files)
        accepted = time.time()
        self.submitted.extend(
            SubmittedRequest(file_id, meant, accepted) for file_id, meant in zip(ids, intended, strict=True)
        )
        return ids


def unfinished(engine: sa.Engine, since_id: int = 0, until: float = math.inf) -> int:
    """Requests that have not ended, from an id on, of those that were accepted until a moment (seconds, the epoch)."""
    ended = ", ".join(f"'{status}'" for status in Status if status.terminal)
    query = sa.text(
        "SELECT count(*) FROM files WHERE id >= :since AND created_at <= to_timestamp(CAST(:until AS float8)) "  # noqa: S608
        f"AND status NOT IN ({ended})"
    )
    with engine.connect() as connection:
        return int(connection.execute(query, {"since": since_id, "until": until}).scalar_one())
