"""A pipeline that one may load, watch and judge, wherever it runs; `filemill.lab.Lab` is one that may be broken too."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import sqlalchemy as sa

from filemill import wiring
from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.adapters.kafka_commits import read_commits
from filemill.adapters.postgres_gone import LATE_SECONDS
from filemill.adapters.postgres_operations import offset_resets
from filemill.adapters.postgres_topics import recreated_at, topic_ids
from filemill.adapters.tables import File
from filemill.files import Status
from filemill.lab import backward
from filemill.lab.journal import Journal
from filemill.lab.load import Load, unfinished
from filemill.lab.losses import Losses, all_gone, read_results
from filemill.lab.verdict import Observed, Verdict, judge
from filemill.operations import Operations
from filemill.retry import Unavailable
from filemill.settings import Settings, load
from filemill.verification.commits import Audit, audit
from filemill.verification.history import History, distinct, read_history
from filemill.verification.report import Report

POLL_SECONDS = 0.05
VERIFY_TIMEOUT_SECONDS = 60.0
# The broker takes a silent member for dead after this, under each protocol (infra/embedded/kafka_config.py).
SESSION_SECONDS = 6.0
# Its offsets are the broker's business: there are no commits to audit.
SHARE = "share"


class Bench:
    """Load, observation and verdict for one pipeline."""

    def __init__(self, settings: Settings, engine: sa.Engine, journal: Journal | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.journal = journal or Journal()
        self.load = Load(engine)
        self.losses = Losses()

    def admin(self) -> KafkaAdmin:
        """A client for a few questions; not kept, for one that outlives a broker's outage can end the process.

        (librdkafka 2.16: an assertion in rd_kafka_enq_once_del_source_return, seconds after a stopped broker went on.)
        """
        return KafkaAdmin(self.settings)

    def drain(self, seconds: float = 60.0) -> float:
        """Wait until every accepted request has ended; returns how long it took. Raises TimeoutError."""
        began = time.monotonic()
        left: int | None = None

        def at_rest() -> bool:
            nonlocal left
            with contextlib.suppress(Unavailable):
                left = unfinished(self.engine)
            return left == 0

        wait_until(at_rest, seconds, lambda: f"all requests have ended ({left} have not)")
        return time.monotonic() - began

    def settle(self, seconds: float = 60.0) -> float:
        """Drain; see that planted losses are named, they alone; submit them again, and drain. Returns the first's time.

        What is not as it should be is in `losses.complaints`, and so in the verdict. Raises TimeoutError.
        """
        losses = self.losses
        if not losses.files:
            return self.drain(seconds)
        began = time.monotonic()
        wait_until(lambda: self._left() <= losses.files, seconds, "all has ended but what was planted as lost")
        took = time.monotonic() - began
        wait_until(self._nothing_to_read, seconds, "the group has read and committed all")
        expected = losses.expected(one.execution for one in read_results(self.settings, self.admin(), {}))
        with contextlib.suppress(TimeoutError):  # then it is a complaint
            wait_until(lambda: self._left() == expected, SESSION_SECONDS, "the sync has applied all")
        operations = Operations(self.settings, self.engine, wiring.s3_client(self.settings))
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: set(all_gone(operations)) == expected, 2 * LATE_SECONDS, "they are found", every=1.0)
        gone = all_gone(operations)
        losses.judge(expected, self._left(), gone, self.verify())
        operations.resubmit(gone, "lab")
        losses.mended()
        self.drain(seconds)
        return took

    def _left(self) -> set[int]:
        """Files that have not ended."""
        ended = [status for status in Status if status.terminal]
        with self.engine.connect() as connection:
            return set(connection.execute(sa.select(File.id).where(File.status.not_in(ended))).scalars())

    def _nothing_to_read(self) -> bool:
        group, topic = self.settings.offsets_group, self.settings.topic_create
        return group is None or not any(part.lag for part in self.admin().offsets(group, topic))

    def catch_up(self, moment: float, seconds: float = 120.0) -> None:
        """Wait until every request that was accepted by a moment (seconds since the epoch) has ended.

        Raises TimeoutError.
        """

        def done() -> bool:
            with contextlib.suppress(Unavailable):
                return unfinished(self.engine, until=moment) == 0
            return False

        wait_until(done, seconds, "what had been accepted has ended")

    def history(self, since: datetime | None = None) -> History:
        """What the topics tell, record by record; of requests and results from `since` on. Raises retry.Unavailable."""
        settings = self.settings
        with self.engine.connect() as connection:
            recreations = recreated_at(connection, settings.topic_create)
            ids = topic_ids(connection, settings.topic_create)
            results_since = max(recreated_at(connection, settings.topic_created), default=0.0)
        history = read_history(settings, self.admin(), since, recreations)
        history.results_since, history.topic_ids = results_since, ids
        with self.engine.connect() as connection:
            history.resets = offset_resets(connection, self.settings.kafka_group, self.settings.topic_create)
        if since is None and self.losses.executions:  # all that the topics that are gone had told
            told = sorted([*self.losses.executions, *history.executions], key=lambda execution: execution.at)
            history.executions, history.results_since = distinct(told), 0.0
        history.removed = self.losses.removed
        return history

    def audit(self, history: History) -> Audit:
        """Every commit and every execution of the history."""
        parts = self.admin().offsets(None, self.settings.topic_create)
        ends = {part.partition: part.end or 0 for part in parts}
        return audit(read_commits(self.settings), ends, history, history.ownerships())

    def verdict(self, history: History | None = None) -> Verdict:
        """The invariants, each with its evidence. Raises retry.Unavailable where a server is away."""
        history = history or self.history()
        with ThreadPoolExecutor(1) as pool:  # a notebook's own thread runs a loop of asyncio already
            report = pool.submit(self.verify).result()
        return judge(
            Observed(
                report=report,
                audit=None if self.settings.group_protocol == SHARE else self.audit(history),
                history=history,
                backward_moves=backward.moves(self.engine),
                faults=self.journal.faults(),
                patience_seconds=self.settings.longest_job_seconds + SESSION_SECONDS + 10.0,
                until=time.time(),
                losses=self.losses.complaints,
                planted=self.losses.named,
            )
        )

    def verify(self) -> Report:
        """What `verify` finds. Not on a thread that runs a loop of asyncio. Raises retry.Unavailable."""
        # Hundreds of thousands of objects from a busy machine: one late answer must not cost the verdict.
        patient = self.settings.model_copy(update={"server_timeout_seconds": VERIFY_TIMEOUT_SECONDS})
        return wiring.verify(patient, self.engine)


@contextlib.contextmanager
def attach(**given: object) -> Iterator[Bench]:
    """The pipeline that the settings in force lead to: the stack that runs, or servers named in the environment.

    `given` are fields of the settings that come first. Nothing of it is changed: nobody watches for statuses that move
    back, and moments are of the clocks of who wrote them.
    """
    settings = load(**given)
    engine = wiring.create_engine(settings, "lab")
    try:
        yield Bench(settings, engine)
    finally:
        engine.dispose()


def wait_until(
    condition: Callable[[], bool], seconds: float, what: Callable[[], str] | str, every: float = POLL_SECONDS
) -> None:
    """Ask until it is so. Raises TimeoutError, saying what is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what() if callable(what) else what}")
        time.sleep(every)
