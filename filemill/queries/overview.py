"""The overview that every page shows: counts, outbox, group, lag, leases and what is wrong.

It takes a few milliseconds, whatever the size of the tables.
"""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from filemill.domain.stalls import StalledPartition
from filemill.queries.files import OutboxState, StatusCounts, count_statuses, outbox_state
from filemill.queries.group import Flow, GroupState, Lags, LeaseState, flow, group_state, lags, leases
from filemill.queries.stalls import stalled_partitions

# Each reason contains the id.
_UNKNOWN_IDS = sa.text("""
    SELECT count(DISTINCT reason) FROM (
        SELECT reason FROM rejected_messages
        WHERE code = 'unknown-file' AND rejected_at > now() - interval '24 hours'
        ORDER BY rejected_at DESC LIMIT 1000
    ) AS latest
""")


class RecreatedTopic(msgspec.Struct, frozen=True):
    """A topic that was deleted and created again; noticed at `noticed_at`."""

    topic: str
    generation: int
    noticed_at: datetime


_RECREATED = sa.text("""
    SELECT topic, generation, first_seen_at FROM topic_generations
    WHERE generation > 1 AND first_seen_at > now() - interval '1 day' ORDER BY first_seen_at DESC
""")


_LOST = sa.text("SELECT requests FROM request_losses WHERE group_id = :group")


class Overview(msgspec.Struct, frozen=True):
    """What every page shows, as of one moment by the database's clock.

    `unknown_ids`: the number of file ids without a row, in the latest 1,000 rejected results of the last day.
    `lost_requests`: unfinished requests whose records are gone from Kafka; None: not counted yet.
    `truncated`: members or partitions were left out, see `cut`.
    """

    as_of: datetime
    counts: StatusCounts
    outbox: OutboxState
    group: GroupState | None
    lags: Lags | None
    flow: Flow
    leases: dict[str, LeaseState]
    stalled: list[StalledPartition] = []
    unknown_ids: int = 0
    lost_requests: int | None = None
    recreated_topics: list[RecreatedTopic] = []
    truncated: bool = False

    def cut(self, limit: int) -> "Overview":
        """A copy with at most `limit` members and partitions; `truncated` tells whether there are more."""
        group, lags = self.group, self.lags
        if group is not None and len(group.members) > limit:
            group = msgspec.structs.replace(group, members=group.members[:limit])
        if lags is not None and len(lags.partitions) > limit:
            lags = msgspec.structs.replace(lags, partitions=lags.partitions[:limit])
        truncated = group is not self.group or lags is not self.lags or len(self.stalled) > limit
        return msgspec.structs.replace(self, group=group, lags=lags, stalled=self.stalled[:limit], truncated=truncated)


def overview(
    connection: sa.Connection, group: str, *, processing_seconds: float = 60.0, session_seconds: float = 6.0
) -> Overview:
    """Read the overview. Takes a few milliseconds, whatever the size of the tables.

    `processing_seconds`: the longest processing time of a record, for workers that do not report their own.
    `session_seconds`: the group's session timeout.
    """
    as_of = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    state, lag = group_state(connection, group), lags(connection, group)
    stalled = stalled_partitions(
        connection,
        state,
        lag,
        group_id=group,
        processing_seconds=processing_seconds,
        session_seconds=session_seconds,
    )
    return Overview(
        as_of,
        count_statuses(connection),
        outbox_state(connection),
        state,
        lag,
        flow(connection, group),
        leases(connection),
        stalled,
        connection.execute(_UNKNOWN_IDS).scalar_one(),
        connection.execute(_LOST, {"group": group}).scalar_one_or_none(),
        [RecreatedTopic(*row) for row in connection.execute(_RECREATED)],
    )
