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
from filemill.adapters.postgres_operations import offset_resets
from filemill.adapters.postgres_topics import recreated_at
from filemill.lab import backward
from filemill.lab.journal import Journal
from filemill.lab.load import Load, unfinished
from filemill.lab.verdict import Observed, Verdict, judge
from filemill.retry import Unavailable
from filemill.settings import Settings, load
from filemill.verification.commits import Audit, audit
from filemill.verification.history import History, read_history
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
            results_since = max(recreated_at(connection, settings.topic_created), default=0.0)
        history = read_history(settings, self.admin(), since, recreations)
        history.results_since = results_since
        with self.engine.connect() as connection:
            history.resets = offset_resets(connection, self.settings.kafka_group, self.settings.topic_create)
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
            report = pool.submit(self._verify).result()
        return judge(
            Observed(
                report=report,
                audit=None if self.settings.group_protocol == SHARE else self.audit(history),
                history=history,
                backward_moves=backward.moves(self.engine),
                faults=self.journal.faults(),
                patience_seconds=self.settings.longest_job_seconds + SESSION_SECONDS + 10.0,
                until=time.time(),
            )
        )

    def _verify(self) -> Report:
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


def wait_until(condition: Callable[[], bool], seconds: float, what: Callable[[], str] | str) -> None:
    """Ask until it is so. Raises TimeoutError, saying what is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what() if callable(what) else what}")
        time.sleep(POLL_SECONDS)
