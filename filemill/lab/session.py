"""A session with a running pipeline: load, wait, read its history, check its invariants.

`PipelineSession` works with any pipeline. `filemill.lab.Lab` starts its own, which faults may break.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.commits import read_commits
from filemill.adapters.postgres.audit import offset_resets
from filemill.adapters.postgres.request_losses import MAX_DELAY_SECONDS
from filemill.adapters.postgres.topics import recreation_times, topic_ids
from filemill.config.settings import Settings, load
from filemill.domain.permissions import local_admin
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.lab import status_regressions
from filemill.lab.invariants import InvariantReport, Observations, check_invariants
from filemill.lab.load import LoadGenerator, unfinished
from filemill.lab.planted_losses import PlantedLosses, all_lost, read_results
from filemill.queries.verification import unfinished_ids
from filemill.runtime.journal import Journal
from filemill.verification.commits import CommitAudit, audit, combine
from filemill.verification.report import VerificationReport
from filemill.verification.topic_history import TopicHistory, deduplicate, read_history
from filemill.verification.topics import TopicScanner

POLL_SECONDS = 0.05
# A large bucket on a busy machine answers slowly: one late answer must not fail the verification.
VERIFY_TIMEOUT_SECONDS = 60.0
# The session timeout of the group, equal under each protocol (filemill_infra.embedded.servers.kafka_config).
SESSION_SECONDS = 6.0
# Added to processing time and session: how long a partition with lag may have no result.
STALL_MARGIN_SECONDS = 10.0
# The protocol of share groups, which commit no offsets.
SHARE = "share"


class PipelineSession:
    """Load, observation and invariants of one pipeline."""

    def __init__(self, settings: Settings, engine: sa.Engine, journal: Journal | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.journal = journal or Journal()
        self.load = LoadGenerator(engine)
        self.losses = PlantedLosses()

    def admin(self) -> KafkaAdmin:
        """A new Kafka client for a few calls. Do not keep it across an outage of the broker.

        In librdkafka 2.16 an assertion in rd_kafka_enq_once_del_source_return ends the process seconds after a broker
        resumes.
        """
        return bootstrap.kafka_admin(self.settings)

    def drain(self, seconds: float = 60.0) -> float:
        """Wait until every accepted request has ended; returns the seconds it took. Raises TimeoutError."""
        began = time.monotonic()
        left: int | None = None

        def all_ended() -> bool:
            nonlocal left
            with contextlib.suppress(Unavailable):
                left = unfinished(self.engine)
            return left == 0

        wait_until(all_ended, seconds, lambda: f"all requests have ended ({left} have not)")
        return time.monotonic() - began

    def drain_planted_losses(self, seconds: float = 60.0) -> float:
        """Drain, check that exactly the planted losses are reported, resubmit them, and drain again.

        Returns the seconds of the first drain. Differences are in `losses.problems`, and so in the invariants. Raises
        TimeoutError.
        """
        losses = self.losses
        if not losses.files:
            return self.drain(seconds)
        began = time.monotonic()
        wait_until(lambda: self._unfinished() <= losses.files, seconds, "all requests but planted losses have ended")
        took = time.monotonic() - began
        wait_until(self._nothing_to_read, seconds, "the group has read and committed all records")
        present = read_results(TopicScanner(self.settings, self.admin(), "lab"))
        expected = losses.expected(one.execution for one in present)
        with contextlib.suppress(TimeoutError):  # `compare` reports the difference
            wait_until(lambda: self._unfinished() == expected, SESSION_SECONDS, "the sync has applied all results")
        operations = bootstrap.operations(self.settings, self.engine)
        with contextlib.suppress(TimeoutError):
            wait_until(
                lambda: set(all_lost(operations)) == expected, 2 * MAX_DELAY_SECONDS, "losses are found", every=1.0
            )
        lost = all_lost(operations)
        losses.compare(expected, self._unfinished(), lost, self.verify())
        operations.resubmit(lost, local_admin("lab"))
        losses.clear()
        self.drain(seconds)
        return took

    def _unfinished(self) -> set[int]:
        with self.engine.connect() as connection:
            return unfinished_ids(connection)

    def _nothing_to_read(self) -> bool:
        admin = self.admin()
        for queue in map(self.settings.of_queue, self.settings.all_queues):
            group = queue.offsets_group
            if group is not None and any(part.lag for part in admin.offsets(group, queue.topic_create)):
                return False
        return True

    def wait_until_processed(self, moment: float, seconds: float = 120.0) -> None:
        """Wait until every request that was accepted by a moment (seconds since the epoch) has ended.

        Raises TimeoutError.
        """

        def done() -> bool:
            with contextlib.suppress(Unavailable):
                return unfinished(self.engine, until=moment) == 0
            return False

        wait_until(done, seconds, "the requests accepted by then have ended")

    def history(self, since: datetime | None = None, queue: str = DEFAULT_QUEUE) -> TopicHistory:
        """The contents of the topics; with `since`, without older requests and results. Raises Unavailable."""
        settings = self.settings.of_queue(queue)
        with self.engine.connect() as connection:
            recreations = recreation_times(connection, settings.topic_create)
            ids = topic_ids(connection, settings.topic_create)
            results_since = max(recreation_times(connection, settings.topic_created), default=0.0)
        history = read_history(settings, self.admin(), since, recreations)
        history.results_since, history.topic_ids = results_since, ids
        with self.engine.connect() as connection:
            history.resets = offset_resets(connection, settings.kafka_group, settings.topic_create)
        if since is None and self.losses.executions:  # results on topics that a fault deleted
            lost = [execution for execution in self.losses.executions if execution.queue == queue]
            known = sorted([*lost, *history.executions], key=lambda execution: execution.at)
            history.executions, history.results_since = deduplicate(known), 0.0
        if queue == DEFAULT_QUEUE:  # faults remove records of its topic only
            history.removed = self.losses.removed
        return history

    def audit(self, history: TopicHistory) -> CommitAudit:
        """Audit every commit and every execution of the history. Raises Unavailable."""
        settings = self.settings.of_queue(history.queue)
        parts = self.admin().offsets(None, settings.topic_create)
        ends = {part.partition: part.end or 0 for part in parts}
        return audit(read_commits(settings), ends, history, history.ownerships())

    def audit_all(self, history: TopicHistory) -> CommitAudit:
        """Audit the history of one queue, and those of all other queues that were used. Raises Unavailable."""
        others = [name for name in self.settings.all_queues if name != history.queue and self._used(name)]
        return combine(self.audit(one) for one in [history, *(self.history(queue=name) for name in others)])

    def _used(self, queue: str) -> bool:
        topic = self.settings.all_queues[queue].topic
        return any(part.end for part in self.admin().offsets(None, topic))

    def check_invariants(self, history: TopicHistory | None = None) -> InvariantReport:
        """Check all invariants. Raises Unavailable."""
        history = history or self.history()
        with ThreadPoolExecutor(1) as pool:  # the thread of a notebook already runs an event loop
            report = pool.submit(self.verify).result()
        return check_invariants(
            Observations(
                report=report,
                audit=None if self.settings.group_protocol == SHARE else self.audit_all(history),
                history=history,
                status_regressions=status_regressions.status_regressions(self.engine),
                faults=self.journal.faults(),
                stall_seconds=self.settings.longest_job_seconds + SESSION_SECONDS + STALL_MARGIN_SECONDS,
                until=time.time(),
                loss_problems=self.losses.problems,
                reported_losses=self.losses.reported,
            )
        )

    def verify(self) -> VerificationReport:
        """Run `verify`. Not on a thread with an event loop. Raises Unavailable."""
        patient = self.settings.model_copy(update={"server_timeout_seconds": VERIFY_TIMEOUT_SECONDS})
        return bootstrap.verify(patient, self.engine)


@contextlib.contextmanager
def attach(**given: object) -> Iterator[PipelineSession]:
    """A session with the pipeline of the current settings. `given` are settings that take precedence.

    It changes nothing there: no trigger records statuses that move backwards, and timestamps are by their writers'
    clocks.
    """
    settings = load(**given)
    engine = bootstrap.create_engine(settings, "lab")
    try:
        yield PipelineSession(settings, engine)
    finally:
        engine.dispose()


def wait_until(
    condition: Callable[[], bool], seconds: float, what: Callable[[], str] | str, every: float = POLL_SECONDS
) -> None:
    """Poll until a condition holds. Raises TimeoutError with `what` does not hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what() if callable(what) else what}")
        time.sleep(every)
