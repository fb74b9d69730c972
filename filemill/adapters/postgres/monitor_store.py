"""What the group monitor stores: samples of the outbox, of lag and of the group. Deletes what is past its retention."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from filemill.adapters.postgres.request_losses import count_lost, store_lost_count
from filemill.adapters.postgres.tables import (
    DeliveryRow,
    GroupSample,
    IdempotencyKey,
    LagSample,
    OutboxSample,
    RejectedMessage,
    Worker,
    WorkerEventRow,
    WorkerHandler,
)
from filemill.adapters.postgres.topics import register_topics
from filemill.domain.consumer_groups import GroupDescription, LogOffsets
from filemill.domain.idempotency import KEY_RETENTION
from filemill.domain.records import TopicIdentity
from filemill.domain.request_losses import LossBounds
from filemill.domain.worker_events import DEAD_AFTER_SECONDS, EventKind

# Rows that one round deletes from a table at most, so that it delays no sample for long.
DELETE_ROWS = 20_000

_NOW = sa.select(sa.func.clock_timestamp())
_SAMPLE_OUTBOX = sa.text("""
    INSERT INTO outbox_samples (sampled_at, depth, oldest_age_seconds)
    SELECT :now, count(*), CASE WHEN count(*) > 0
        THEN greatest(0, extract(epoch FROM clock_timestamp() - min(accepted_at))) END
    FROM outbox ON CONFLICT DO NOTHING
""")
# Only rows that this statement sees are merged; those of transactions in progress stay for the next time.
_MERGE_COUNTS = sa.text("""
    WITH merged AS (DELETE FROM status_counts RETURNING status, delta)
    INSERT INTO status_counts (status, delta)
    SELECT status, sum(delta) FROM merged GROUP BY status HAVING sum(delta) <> 0
""")


class MonitorStore:
    """The tables of one group's monitor. Each method is one transaction; raises Unavailable."""

    def __init__(self, engine: sa.Engine, group: str, retention: timedelta) -> None:
        self._engine = engine
        self._group = group
        self._retention = retention

    def sample_outbox(self) -> datetime:
        """Store depth and age of the outbox; returns the time of the sample, by the database's clock."""
        with self._engine.begin() as connection:
            now: datetime = connection.execute(_NOW).scalar_one()
            connection.execute(_SAMPLE_OUTBOX, {"now": now})
        return now

    def store_sample(
        self,
        now: datetime,
        topic: str,
        topics: Mapping[str, TopicIdentity],
        offsets: Sequence[LogOffsets],
        group: GroupDescription,
    ) -> None:
        """Store offsets and lag of `topic`'s partitions, and state and members of the group."""
        with self._engine.begin() as connection:
            generation = register_topics(connection, topics).get(topic, 1)
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
            members = [
                {
                    "memberId": member.member_id,
                    "clientId": member.client_id,
                    "host": member.host,
                    "partitions": member.partitions,
                }
                for member in group.members
            ]
            sample = {"group_id": self._group, "sampled_at": now, "state": group.state, "protocol": group.protocol}
            connection.execute(insert(GroupSample).on_conflict_do_nothing(), {**sample, "members": members})

    def register_topics(self, topics: Mapping[str, TopicIdentity]) -> None:
        """Store which topics have these names now."""
        with self._engine.begin() as connection:
            register_topics(connection, topics)

    def count_losses(self, bounds: LossBounds) -> int:
        """Count the unfinished requests whose records are gone from Kafka; store and return the number."""
        with self._engine.begin() as connection:
            count = count_lost(connection, bounds)
            store_lost_count(connection, self._group, count)
        return count

    def share_members(self, now: datetime) -> list[str]:
        """The ids of the running workers that use a share group, by their events."""
        query = (
            sa.select(Worker.worker_id)
            .where(
                Worker.body["protocol"].astext == "share",
                Worker.heard_at > now - timedelta(seconds=DEAD_AFTER_SECONDS),
                Worker.kind != EventKind.STOPPED,
            )
            .order_by(Worker.worker_id)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def delete_expired(self) -> None:
        """Delete rows past their retention, and merge the deltas of `status_counts`."""
        horizon = sa.func.now() - self._retention
        with self._engine.begin() as connection:
            connection.execute(_MERGE_COUNTS)
            for table, moment, oldest in (
                (LagSample, LagSample.sampled_at, horizon),
                (GroupSample, GroupSample.sampled_at, horizon),
                (OutboxSample, OutboxSample.sampled_at, horizon),
                (RejectedMessage, RejectedMessage.rejected_at, horizon),
                (WorkerEventRow, WorkerEventRow.at, horizon),
                (DeliveryRow, DeliveryRow.started_at, horizon),
                (WorkerHandler, WorkerHandler.announced_at, horizon),
                (IdempotencyKey, IdempotencyKey.created_at, sa.func.now() - KEY_RETENTION),
            ):
                row: sa.ColumnClause[object] = sa.literal_column(f"{table.__tablename__}.ctid")
                expired = sa.select(row).where(moment < oldest).limit(DELETE_ROWS)
                connection.execute(sa.delete(table).where(row.in_(expired)))
