"""Group monitor.

Reads   end and committed offsets, state, members and assignment of the processors' group (Kafka's admin API). Of a
        share group the client knows neither: its members are those that speak on `worker.events`, its lag is unknown.
        Which topics there are: one that was deleted and created anew has another id.
Writes  `outbox_samples`, `lag_samples`, `group_samples` every 2 s, and removes those past their retention; folds up
        `status_counts`. `topic_generations` and `request_losses` every 30 s, and when offsets say that something is
        gone.
Dies    anywhere: a sample is missing; the next one is whole.

Many may run: the lease makes one active. While Kafka is away only the outbox is sampled: an absent sample is unknown,
not zero.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert

from filemill.adapters.kafka.admin import GroupDescription, KafkaAdmin, LogOffsets, MemberDescription, all_topics
from filemill.adapters.postgres.request_losses import count_gone, store_loss
from filemill.adapters.postgres.tables import (
    GroupSample,
    IdempotencyKey,
    LagSample,
    OutboxSample,
    RejectedMessage,
    Worker,
    WorkerEventRow,
)
from filemill.adapters.postgres.topics import register
from filemill.config.settings import Settings
from filemill.domain.idempotency import KEY_RETENTION
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind
from filemill.errors import Unavailable
from filemill.ports import Lease
from filemill.queries.files import outbox_state
from filemill.services.request_losses import find_bounds

log = structlog.get_logger("monitor")

HOUSEKEEPING_SECONDS = 30.0
# A housekeeping round removes at most this many rows a table, so that it never holds up a sample for long.
DELETE_ROWS = 20_000

_NOW = sa.select(sa.func.clock_timestamp())
# Only rows that this statement sees are folded; those of transactions under way stay for the next time.
_FOLD_COUNTS = sa.text("""
    WITH folded AS (DELETE FROM status_counts RETURNING status, delta)
    INSERT INTO status_counts (status, delta)
    SELECT status, sum(delta) FROM folded GROUP BY status HAVING sum(delta) <> 0
""")


class GroupMonitor:
    """Samples one group. One thread."""

    def __init__(
        self,
        engine: sa.Engine,
        admin: KafkaAdmin,
        lease: Lease,
        *,
        settings: Settings,
        interval_seconds: float,
        retention: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._admin = admin
        self._lease = lease
        self._settings = settings
        self._group = settings.group_id
        self._shares = settings.offsets_group is None
        self._topic = settings.topic_create
        self._interval_seconds = interval_seconds
        self._retention = retention
        self._clock = clock
        self._kept_house_at = float("-inf")
        self._state = ""
        self._trouble: list[str] = []
        self._lost = 0

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Sample until `stop` is set; unreachable servers are retried. `on_cycle` is called in each cycle."""
        due = self._clock()
        while not stop.is_set():
            on_cycle()
            try:
                if self._lease.acquire():
                    self.sample()
                    self._say("active")
                    self._keep_house()
                else:
                    self._say("standby")
            except Unavailable as error:
                self._say(f"waiting: {error}")
            # A fixed rate, not a fixed pause; after a gap, from now on.
            due = max(due + self._interval_seconds, self._clock())
            stop.wait(due - self._clock())
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("Left without giving up the lease; it expires", error=str(error))

    def sample(self) -> None:
        """Take and store one sample. Raises Unavailable; then, of a broker that is away nothing is stored.

        The outbox comes first: what piles up in there while Kafka is away is the one thing to see then.
        """
        with self._engine.begin() as connection:
            now: datetime = connection.execute(_NOW).scalar_one()
            outbox = outbox_state(connection)
            sample = {"sampled_at": now, "depth": outbox.depth, "oldest_age_seconds": outbox.oldest_age_seconds}
            connection.execute(insert(OutboxSample).on_conflict_do_nothing(), sample)
        if self._shares:
            offsets = self._admin.offsets(None, self._topic)
            group = self._share_group(now)
        else:
            offsets = self._admin.offsets(self._group, self._topic)
            group = self._admin.describe_group(self._group, self._topic)
        topics = self._admin.identities([self._topic])
        with self._engine.begin() as connection:
            generation = register(connection, topics).get(self._topic, 1)
            if offsets:
                rows = [
                    {
                        "group_id": self._group,
                        "sampled_at": now,
                        "partition": part.partition,
                        "begin_offset": part.begin,
                        "end_offset": part.end,
                        "committed_offset": part.committed,
                        "lag": part.lag,
                        "generation": generation,
                    }
                    for part in offsets
                ]
                connection.execute(insert(LagSample).on_conflict_do_nothing(), rows)
            connection.execute(
                insert(GroupSample).on_conflict_do_nothing(),
                {
                    "group_id": self._group,
                    "sampled_at": now,
                    "state": group.state,
                    "protocol": group.protocol,
                    "members": [
                        {
                            "memberId": member.member_id,
                            "clientId": member.client_id,
                            "host": member.host,
                            "partitions": member.partitions,
                        }
                        for member in group.members
                    ],
                },
            )

        self._watch(offsets)

    def _watch(self, offsets: Sequence[LogOffsets]) -> None:
        """Say, once, that records are gone which were not processed; and count those requests soon."""
        trouble = [
            f"partition {part.partition}: {part.removed_before_commit} offsets were removed before they were committed"
            for part in offsets
            if part.removed_before_commit
        ] + [
            f"partition {part.partition}: {part.committed} is committed, and it ends at {part.end}"
            for part in offsets
            if part.committed_beyond_end
        ]
        if trouble and trouble != self._trouble:
            log.warning("Records are gone that were not processed", group=self._group, topic=self._topic, what=trouble)
            self._kept_house_at = float("-inf")
        self._trouble = trouble

    def _count_losses(self) -> None:
        """Which topics there are, and how many requests are gone with those that are no more."""
        try:
            with self._engine.begin() as connection:
                register(connection, self._admin.identities(all_topics(self._settings)))
            known = find_bounds(self._settings, self._admin, self._engine)
        except Unavailable as error:
            log.debug("What is gone cannot be counted now", error=str(error))
            return
        with self._engine.begin() as connection:
            count = count_gone(connection, known)
            store_loss(connection, self._group, count)
        if count != self._lost:
            log.warning("Unfinished requests whose records are gone from Kafka", requests=count)
        self._lost = count

    def _share_group(self, now: datetime) -> GroupDescription:
        """The share group by what its workers say: the client cannot describe one."""
        lately = now - timedelta(seconds=DEAD_AFTER_SECONDS)
        wanted = (
            sa.select(Worker.worker_id)
            .where(
                Worker.body["protocol"].astext == "share",
                Worker.heard_at > lately,
                Worker.kind != EventKind.STOPPED,
            )
            .order_by(Worker.worker_id)
        )
        with self._engine.connect() as connection:
            members = [MemberDescription(name, name, "", []) for name in connection.execute(wanted).scalars()]
        return GroupDescription("UNKNOWN", "share", None, members)

    def _keep_house(self) -> None:
        now = self._clock()
        if now - self._kept_house_at < HOUSEKEEPING_SECONDS:
            return
        self._kept_house_at = now
        self._count_losses()
        horizon = sa.func.now() - self._retention
        with self._engine.begin() as connection:
            connection.execute(_FOLD_COUNTS)
            for table, moment, oldest in (
                (LagSample, LagSample.sampled_at, horizon),
                (GroupSample, GroupSample.sampled_at, horizon),
                (OutboxSample, OutboxSample.sampled_at, horizon),
                (RejectedMessage, RejectedMessage.rejected_at, horizon),
                (WorkerEventRow, WorkerEventRow.at, horizon),
                (IdempotencyKey, IdempotencyKey.created_at, sa.func.now() - KEY_RETENTION),
            ):
                row: sa.ColumnClause[object] = sa.literal_column(f"{table.__tablename__}.ctid")
                old = sa.select(row).where(moment < oldest).limit(DELETE_ROWS)
                connection.execute(sa.delete(table).where(row.in_(old)))

    def _say(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("Monitor", state=state, group=self._group)
