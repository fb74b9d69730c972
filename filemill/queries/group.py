"""What people and programs look at: the consumer group, its lag now and over time, and all of it at a glance.

Samples are the group monitor's; long histories are thinned out by Postgres. `now()` bounds a period and not
`clock_timestamp()`: a volatile function is no index condition. Unknown is None, never zero.
"""

from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
import sqlalchemy as sa

from filemill.domain.stalls import StalledPartition
from filemill.queries.files import Counts, OutboxState, count_statuses, outbox_state
from filemill.queries.stalls import stalled_partitions


class GroupMember(msgspec.Struct, frozen=True, rename="camel"):
    """A member of the consumer group, and the partitions of `file.create` that it owns."""

    member_id: str
    client_id: str
    host: str
    partitions: list[int]


class GroupState(msgspec.Struct, frozen=True):
    """The consumer group when it was last sampled, `age_seconds` ago."""

    sampled_at: datetime
    age_seconds: float
    state: str
    protocol: str | None
    members: list[GroupMember]


class PartitionLag(msgspec.Struct, frozen=True):
    """Where a partition stood when it was last sampled.

    `behind_seconds` is how long its oldest record that is not committed has waited, by the samples, so at most one of
    their intervals too much; 0 without lag, None where no sample of the last hour tells.
    """

    partition: int
    begin_offset: int | None
    end_offset: int | None
    committed_offset: int | None
    lag: int | None
    behind_seconds: float | None = None


class Lags(msgspec.Struct, frozen=True):
    """All partitions at their latest sample, `age_seconds` ago."""

    sampled_at: datetime
    age_seconds: float
    partitions: list[PartitionLag]
    generation: int = 1  # of the topic

    @property
    def total(self) -> int | None:
        """Records not committed yet; None where a partition's lag is unknown."""
        lags = [part.lag for part in self.partitions if part.lag is not None]
        return sum(lags) if len(lags) == len(self.partitions) else None

    @property
    def behind_seconds(self) -> float | None:
        """Those of the partition that is furthest behind; None where one with lag cannot tell."""
        spans = [part.behind_seconds for part in self.partitions]
        return max((span for span in spans if span is not None), default=None) if None not in spans else None


class Flow(msgspec.Struct, frozen=True):
    """Records per second that came to the topic, and that the group committed, over the last `seconds`."""

    produced: float | None
    committed: float | None
    seconds: float


class LagHistory(msgspec.Struct, frozen=True):
    """Lag per partition over time: `lags[partition][i]` at `moments[i]`, None where it is unknown.

    A gap in the samples is one moment without values, so that no line is drawn across it. With `bin_seconds`, a value
    is the greatest of its bin: thinning out must not hide a peak.
    """

    moments: list[datetime]
    lags: dict[int, list[int | None]]
    bin_seconds: float | None


class LeaseState(msgspec.Struct, frozen=True):
    """Who holds the lease `name` (relay, sync, monitor), and whether it still counts: an expired holder is gone."""

    name: str
    holder: str
    held: bool


# The sync's own words: the index is by them.
_UNKNOWN_IDS = sa.text("""
    SELECT count(DISTINCT reason) FROM (
        SELECT reason FROM rejected_messages
        WHERE reason LIKE 'no file has the id %' AND rejected_at > now() - interval '24 hours'
        ORDER BY rejected_at DESC LIMIT 1000
    ) AS latest
""")
_LEASES = sa.text("SELECT name, holder, expires_at > clock_timestamp() FROM leases ORDER BY name")
_GROUP = sa.text("""
    SELECT sampled_at, extract(epoch FROM clock_timestamp() - sampled_at), state, protocol, members
    FROM group_samples WHERE group_id = :group ORDER BY sampled_at DESC LIMIT 1
""")
# Behind since: what ended at or before the offset that is committed now was there at that sample, and is done.
_LAGS = sa.text("""
    SELECT latest.sampled_at, extract(epoch FROM clock_timestamp() - latest.sampled_at),
           partition, begin_offset, end_offset, committed_offset, lag,
           CASE WHEN lag = 0 THEN 0 WHEN lag > 0 THEN (
               SELECT extract(epoch FROM latest.sampled_at - past.sampled_at)
               FROM lag_samples AS past
               WHERE past.group_id = :group AND past.partition = latest.partition
                 AND past.sampled_at > now() - interval '1 hour'
                 AND past.generation = latest.generation
                 AND past.end_offset <= coalesce(latest.committed_offset, latest.begin_offset)
               ORDER BY past.sampled_at DESC LIMIT 1
           ) END, latest.generation
    FROM lag_samples AS latest
    WHERE group_id = :group AND sampled_at = (SELECT max(sampled_at) FROM lag_samples WHERE group_id = :group)
    ORDER BY partition
""")
# Over the partitions that both samples know; one that was added in between has no rate yet.
_FLOW = sa.text("""
    WITH edges AS (
        SELECT min(sampled_at) AS first, max(sampled_at) AS last
        FROM lag_samples WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    )
    SELECT extract(epoch FROM edges.last - edges.first), sum(late.end_offset - early.end_offset),
           sum(coalesce(late.committed_offset, late.begin_offset)
               - coalesce(early.committed_offset, early.begin_offset))
    FROM edges
    JOIN lag_samples AS early ON early.group_id = :group AND early.sampled_at = edges.first
    JOIN lag_samples AS late ON late.group_id = :group AND late.sampled_at = edges.last
     AND late.partition = early.partition AND late.generation = early.generation
    GROUP BY edges.first, edges.last
""")
_HISTORY = sa.text("""
    SELECT sampled_at, partition, lag FROM lag_samples
    WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    ORDER BY sampled_at, partition
""")
_THINNED_HISTORY = sa.text("""
    SELECT date_bin(CAST(:bin AS interval), sampled_at, TIMESTAMPTZ '2000-01-01') AS moment, partition, max(lag)
    FROM lag_samples
    WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    GROUP BY moment, partition ORDER BY moment, partition
""")


def leases(connection: sa.Connection) -> dict[str, LeaseState]:
    """All leases ever taken, by name."""
    return {row[0]: LeaseState(*row) for row in connection.execute(_LEASES)}


def group_state(connection: sa.Connection, group: str) -> GroupState | None:
    """The group's latest sample; None where there is none."""
    row = connection.execute(_GROUP, {"group": group}).one_or_none()
    if row is None:
        return None
    members = msgspec.convert(row[4], list[GroupMember])
    return GroupState(row[0], max(0.0, float(row[1])), row[2], row[3], members)


def lags(connection: sa.Connection, group: str) -> Lags | None:
    """Each partition's latest sample; None where there is none."""
    rows = connection.execute(_LAGS, {"group": group}).all()
    if not rows:
        return None
    parts = [PartitionLag(row[2], row[3], row[4], row[5], row[6], _seconds(row[7])) for row in rows]
    return Lags(rows[0][0], max(0.0, float(rows[0][1])), parts, rows[0][8])


def _seconds(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def flow(connection: sa.Connection, group: str, seconds: float = 60.0) -> Flow:
    """Rates over the last `seconds`, from the samples; None without two of them."""
    row = connection.execute(_FLOW, {"group": group, "period": timedelta(seconds=seconds)}).one_or_none()
    if row is None or not row[0]:
        return Flow(None, None, seconds)
    span = float(row[0])
    produced, committed = (None if moved is None else max(0.0, float(moved) / span) for moved in row[1:])
    return Flow(produced, committed, span)


def lag_history(
    connection: sa.Connection, group: str, period: timedelta, *, interval_seconds: float = 2.0, points: int = 300
) -> LagHistory:
    """The lag over the last `period`, in about `points` moments at most; `interval_seconds` is the monitor's."""
    width = period.total_seconds() / points
    thinned = width > 2 * interval_seconds
    query, parameters = (_THINNED_HISTORY, {"bin": timedelta(seconds=width)}) if thinned else (_HISTORY, {})
    rows = connection.execute(query, {"group": group, "period": period, **parameters}).all()
    usual = timedelta(seconds=width if thinned else interval_seconds)
    moments: list[datetime] = []
    found: dict[tuple[datetime, int], int | None] = {}
    for moment, partition, lag in rows:
        if not moments or moment != moments[-1]:
            if moments and moment - moments[-1] > 3 * usual:
                moments.append(moments[-1] + usual)
            moments.append(moment)
        found[moment, partition] = lag
    partitions = sorted({partition for _, partition in found})
    series = {partition: [found.get((moment, partition)) for moment in moments] for partition in partitions}
    return LagHistory(moments, series, width if thinned else None)


class Recreated(msgspec.Struct, frozen=True):
    """A topic that was found to be another one than before, at `noticed_at`."""

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

    `unknown_ids`: how many file ids no row has, of the latest 1,000 such results within a day.
    `truncated`: some members or partitions were left out, see `cut`.
    """

    as_of: datetime
    counts: Counts
    outbox: OutboxState
    group: GroupState | None
    lags: Lags | None
    flow: Flow
    leases: dict[str, LeaseState]
    stalled: list[StalledPartition] = []
    unknown_ids: int = 0
    # Unfinished requests whose records are gone from Kafka; None where nobody has counted.
    lost_requests: int | None = None
    recreated_topics: list[Recreated] = []
    truncated: bool = False

    def cut(self, limit: int) -> "Overview":
        """With at most so many members and partitions; `truncated` says whether there are more."""
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
    """Counts, outbox, group, lags, leases, stalled partitions. A few milliseconds, whatever the size of the tables.

    `processing_seconds`: how long a record may take whose worker does not say so itself; `session_seconds`: the group's
    session timeout.
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
        [Recreated(*row) for row in connection.execute(_RECREATED)],
    )
